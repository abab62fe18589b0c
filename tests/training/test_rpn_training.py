"""Training of the region proposal network, its recall and its model card."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image

from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets import detection
from udq.errors import InputError
from udq.features.backbones import REGISTRY
from udq.features.proposals import rpn
from udq.features.trunk import Trunk
from udq.photos.decoding import load
from udq.training.rpn import training as rpn_training
from udq.training.rpn import views as rpn_views

SMALL = ImageConfig(shorter=96, longer=128)
LITE = REGISTRY["efficientnet-lite0"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Photos of one bright rectangle on a dark, noisy ground, with its box."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    rows = ["image,x1,y1,x2,y2"]
    for i in range(12):
        pixels = rng.integers(0, 60, (96, 128, 3), np.uint8)
        x, y, width, height = rng.integers(4, 40), rng.integers(4, 30), rng.integers(40, 80), rng.integers(30, 60)
        pixels[y : y + height, x : x + width] = 200 + rng.integers(0, 50, 3)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{x},{y},{x + width},{y + height}")
    (folder / "boxes.csv").write_text("\n".join(rows))
    return folder / "boxes.csv"


def test_the_shipped_network_has_a_card_that_says_what_it_was_trained_on():
    _, card = rpn.read(LITE.name, None)

    assert card["backbone"] == LITE.name
    assert card["recall"]["0.5"]["200"] > 0.5
    shipped = resources.files("udq.features.proposals") / "weights" / f"{LITE.name}.md"
    assert shipped.read_text(encoding="utf-8") == rpn_training.markdown(card)


def test_recall_counts_objects_that_one_of_the_first_proposals_covers():
    class Proposing(torch.nn.Module):
        def forward(self, feature_map, fine_map, height, width):
            far = torch.tensor([[200.0, 200, 210, 210]]).repeat(60, 1)
            return torch.cat([torch.tensor([[0.0, 0, 100, 100]]), far, torch.tensor([[0.0, 0, 100, 55]])])

    maps = torch.zeros(1280, 2, 2), torch.zeros(112, 4, 4)
    views = [
        rpn_views.TrainingView(*maps, 300, 300, torch.tensor([[0.0, 0, 100, 60], [200.0, 0, 300, 100]])),
        rpn_views.TrainingView(*maps, 300, 300, torch.tensor([[0.0, 0, 100, 90]])),
    ]
    found = rpn_training.recall(Proposing(), views)

    # IoU 0.6 and 0.9 with the first proposal, 55/60 with the 62nd; one object is never covered.
    assert found["0.5"] == {"50": 0.6667, "100": 0.6667, "200": 0.6667, "500": 0.6667}
    assert found["0.7"] == {"50": 0.3333, "100": 0.6667, "200": 0.6667, "500": 0.6667}


def train(labelled, output, progress=None, **changes):
    return rpn_training.train(
        detection.load(labelled),
        output,
        image=SMALL,
        feature=FeatureConfig(),
        settings=ProposalTraining(**{"epochs": 4, "views": 3, "held_out": 0.25, "batch": 4} | changes),
        device="cpu",
        **({} if progress is None else {"progress": progress}),
    )


def test_training_finds_what_an_untrained_network_does_not(labelled, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = rpn.ProposalNetwork(LITE).eval()
    card = train(labelled, tmp_path / "rpn.npz", epochs=20)
    trained, stored = rpn.read(LITE.name, tmp_path / "rpn.npz")

    assert stored == card
    assert card["trained_on"] == "12 photos with 12 boxes (csv)"
    assert card["held_out_photos"] == 3
    assert card["anchors"] == list(rpn.sides_for(card["images"]["shorter"]))
    trunk = Trunk(FeatureConfig())
    best = {}
    for name, each in (("trained", trained), ("untrained", network)):
        best[name] = []
        for photo in detection.load(labelled).photos:
            loaded = load(photo.path, shorter=96, longer=128)
            with torch.inference_mode():
                boxes = each(*trunk.maps(torch.from_numpy(loaded.pixels.copy())), *loaded.pixels.shape[:2])[:3]
            best[name].append(float(rpn_training.box_iou(torch.from_numpy(photo.boxes.copy()), boxes).max()))
    assert np.mean(best["trained"]) > 0.7
    assert np.mean(best["trained"]) > np.mean(best["untrained"]) + 0.1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "rpn.md", tmp_path / "rpn.npz"]  # scratch is gone
    assert "12 photos with 12 boxes (csv); 3 photos with boxes were held out" in (tmp_path / "rpn.md").read_text()


@pytest.mark.parametrize("killed_at", [20, 33])
def test_training_that_was_killed_resumes_and_ends_with_the_same_network(labelled, tmp_path, killed_at):
    steps = []

    @contextmanager
    def until(stage, total):
        def step():
            steps.append(stage)
            if len(steps) == killed_at:
                raise KeyboardInterrupt

        yield step

    train(labelled, tmp_path / "whole.npz", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(labelled, tmp_path / "killed.npz", until, epochs=2)
    assert steps[-1] == ("extracting photos" if killed_at == 20 else "training")
    assert not (tmp_path / "killed.npz").exists()
    train(labelled, tmp_path / "killed.npz", epochs=2)
    whole, killed = (rpn.read(LITE.name, tmp_path / f"{name}.npz")[0] for name in ("whole", "killed"))

    for one, other in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_views_that_do_not_fit_on_the_disk_are_computed_again_with_the_same_result(labelled, tmp_path, monkeypatch):
    train(labelled, tmp_path / "whole.npz", epochs=2)
    written, write = [], rpn_views.ViewCache.write
    monkeypatch.setattr(
        rpn_views.ViewCache, "write", lambda self, key, view: (written.append(key), write(self, key, view))
    )
    for limit, some_of in ((0, {0}), (400_000, set(range(5, 25)))):  # of 30 views of about 30 kB
        monkeypatch.setattr(rpn_views, "_MOST_BYTES", limit)
        written.clear()
        train(labelled, tmp_path / f"{limit}.npz", epochs=2)
        assert len(written) in some_of
        whole, some = (rpn.read(LITE.name, tmp_path / f"{name}.npz")[0] for name in ("whole", limit))
        for one, other in zip(whole.state_dict().values(), some.state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_a_broken_photo_is_left_out_and_listed(labelled, tmp_path):
    for name in ("boxes.csv", *(f"{i}.png" for i in range(12))):
        shutil.copy(labelled.parent / name, tmp_path / name)
    with Image.open(tmp_path / "3.png") as photo:
        photo.save(tmp_path / "3.jpg")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:900])  # the header is whole
    (tmp_path / "boxes.csv").write_text((tmp_path / "boxes.csv").read_text().replace("3.png", "3.jpg"))
    card = train(tmp_path / "boxes.csv", tmp_path / "rpn.npz", epochs=1)

    (reason,) = card["unreadable"]
    assert "3.jpg" in reason
    assert "1 could not be read" in (tmp_path / "rpn.md").read_text()


def test_two_trainings_of_one_file_are_refused(labelled, tmp_path):
    @contextmanager
    def another(stage, total):
        with pytest.raises(InputError, match=r"rpn\.npz: another udq \(process \d+ on .*\) is training it; wait"):
            train(labelled, tmp_path / "rpn.npz", epochs=1)
        yield lambda: None

    train(labelled, tmp_path / "rpn.npz", another, epochs=1)
    assert (tmp_path / "rpn.npz").exists()


def test_nothing_is_overwritten_and_one_photo_is_too_few(labelled, tmp_path):
    (tmp_path / "rpn.npz").touch()
    with pytest.raises(InputError, match="already exists"):
        train(labelled, tmp_path / "rpn.npz")
    (tmp_path / "README.md").touch()
    with pytest.raises(InputError, match=r"README\.md: already exists"):
        train(labelled, tmp_path / "README.npz")
    with pytest.raises(InputError, match="expected a name such as rpn"):
        train(labelled, tmp_path / "card.md")
    lines = labelled.read_text().splitlines()
    (labelled.parent / "one.csv").write_text("\n".join(lines[:2]))
    with pytest.raises(InputError, match="at least two photos with boxes, to hold one out, found 1"):
        train(labelled.parent / "one.csv", tmp_path / "other.npz")
