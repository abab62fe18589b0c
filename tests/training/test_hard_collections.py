"""Collections that teach nothing: they are built and searched as any other, and say what was verified."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from udq import Collection, datasets
from udq.config import IndexConfig

pytest.importorskip("cv2")

SMALL = IndexConfig().replace(
    {"images": {"shorter": 96, "longer": 128, "smallest": 0.0}, "quantizer": {"dimensions": 64, "iterations": 1}}
)
UNTRAINED = SMALL.replace({"training": {"enabled": False}})
CUP = (140.0, 20.0, 480.0, 380.0)


def pairs_of(collection):
    return collection.info()["training"]["verified_pairs"]


def test_photos_without_texture(tmp_path):
    (tmp_path / "photos").mkdir()
    for grey in range(0, 240, 40):
        Image.new("RGB", (300, 200), (grey, grey, 255 - grey)).save(tmp_path / "photos" / f"{grey}.png")
    made = Collection.build(tmp_path / "photos", tmp_path / "x.udq", config=SMALL, device="cpu")

    assert pairs_of(made) == 0
    found = made.search(tmp_path / "photos" / "80.png", k=6)
    assert len(found.matches) >= 1
    assert all(match.verified is None for match in found.matches)
    assert made.verify() == []


def test_one_photo(photos, tmp_path):
    made = Collection.build(photos / "coffee.png", tmp_path / "x.udq", config=SMALL, device="cpu")

    assert pairs_of(made) == 0
    (match,) = made.search(photos / "coffee.png", CUP).matches
    assert match.image == "coffee.png"
    assert match.confidence == 1


def test_photos_of_which_no_two_show_the_same(photos, tmp_path, udq):
    made = Collection.build(photos, tmp_path / "x.udq", config=SMALL, device="cpu", exclude=["views"])

    assert pairs_of(made) == 0
    code, out, _ = udq("info", made.path)
    assert code == 0
    assert "no photo pair verified" in out
    assert made.info()["training"]["estimate"] is None
    assert not any(line.startswith("photo pairs") for line in out.splitlines())


def test_copies_of_one_photo_are_no_worse_than_without_training(photos, tmp_path, udq):
    """Thirty copies, resized and encoded again, beside all other photos and other views of a scene."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file in sorted(photos.rglob("*.png")):
        Image.open(file).convert("RGB").save(folder / file.name)
    coffee = Image.open(photos / "coffee.png").convert("RGB")
    for number in range(30):
        scale = rng.uniform(0.6, 1.2)
        resized = coffee.resize((round(600 * scale), round(400 * scale)), Image.Resampling.BICUBIC)
        resized.save(folder / f"copy-{number:02}.jpg", quality=int(rng.integers(40, 95)))
    (tmp_path / "truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives\n"
        "motorcycle_left.png,47,20,628,451,motorcycle_right.png\n"
        "motorcycle_right.png,47,20,628,451,motorcycle_left.png\n"
        f"coffee.png,140,20,480,380,{'|'.join(f'copy-{number:02}.jpg' for number in range(30))}\n"
    )
    truth = datasets.load("boxes", tmp_path / "truth.csv")
    trained, plain = (
        Collection.build(folder, tmp_path / f"{name}.udq", config=config, device="cpu")
        for name, config in (("trained", SMALL), ("plain", UNTRAINED))
    )

    assert pairs_of(trained) > 100
    scores = [made.evaluate(truth, stages=[]).report["mAP"] for made in (trained, plain)]
    assert scores[0] > scores[1] - 0.02
    assert trained.evaluate(truth).report["mAP"] == pytest.approx(1)
    estimate = trained.info()["training"]["estimate"]
    assert 0 < estimate["before"] <= 1
    assert 0 < estimate["after"] <= 1
    assert estimate["queries"] >= 31
    said = "photo pairs found with mAP {before:.2f} before training, {after:.2f} after (± {error:.2f})"
    assert said.format(**estimate) in " ".join(udq("info", trained.path)[1].split())
    assert plain.info()["training"] is None
