"""Photos of sizes that few have: up to the limit, beyond it, very long, one pixel, blank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from udq.collection import Collection
from udq.config import IndexConfig

QUICK = {"training": {"enabled": False}, "quantizer": {"dimensions": 32, "iterations": 1, "codewords": 16}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    """Photos of 200 megapixels, 65,000 x 200 pixels, one pixel, and one colour, beside usual ones."""
    folder = tmp_path_factory.mktemp("sizes")
    # In a TIFF of 20,000 x 10,000 pixels, the coffee cup has 8 % of the shorter side.
    cup = Image.open(photos / "coffee.png").convert("RGB").crop((80, 20, 478, 386)).resize((800, 735))
    sheet = Image.new("RGB", (20_000, 10_000), (90, 110, 100))
    sheet.paste(cup, (14_000, 3000))
    sheet.save(folder / "sheet.tif", compression="tiff_deflate")
    rng = np.random.default_rng(0)
    rows = np.repeat(np.repeat(rng.integers(0, 255, (2, 650), np.uint8), 100, axis=0), 100, axis=1)
    Image.fromarray(rows).save(folder / "panorama.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    Image.new("RGB", (2400, 1800), (200, 200, 210)).save(folder / "blank.png")
    for name in ("coffee", "chelsea", "rocket"):
        Image.open(photos / f"{name}.png").save(folder / f"{name}.png")
    return folder


def test_a_photo_above_the_limit_is_listed_with_the_option_that_raises_it(udq, folder, tmp_path):
    config = tmp_path / "quick.toml"
    config.write_text(IndexConfig().replace(QUICK).to_toml())
    assert udq("index", folder, "-o", tmp_path / "x.udq", "--config", config, "--device", "cpu")[0] == 0
    facts = json.loads(udq("info", tmp_path / "x.udq", "--json")[1])

    (broken,) = facts["broken"]
    assert broken["image"] == "sheet.tif"
    assert "20000 x 10000 pixels" in broken["reason"]
    assert "--max-megapixels 200" in broken["reason"]
    assert facts["images"] == 6


def test_photos_of_any_size_up_to_the_limit_are_found(folder, photos, tmp_path):
    config = IndexConfig().replace({**QUICK, "images": {"max_megapixels": 250, "smallest": 12.0}})
    built = Collection.build(folder, tmp_path / "x.udq", config=config, device="cpu")
    found = built.search(photos / "coffee.png", (80, 20, 478, 386), k=7, rerank=[])

    assert built.broken == []
    assert len(built) == 7
    assert built.config.images.max_megapixels == 250
    assert Collection.open(tmp_path / "x.udq").info()["smallest_object"] == {"percent": 12.0, "pixels": 134}
    assert [match.image for match in found.matches[:2]] == ["coffee.png", "sheet.tif"]
    x1, y1, x2, y2 = found.matches[1].box
    assert 13_000 < x1 < 14_600
    assert 14_200 < x2 < 15_800
    assert 2200 < y1 < 3500
    assert 3200 < y2 < 4700
    sizes = {match.image: (match.width, match.height) for match in found.matches}
    assert sizes["panorama.jpg"] == (65_000, 200)
    assert sizes["pixel.png"] == (1, 1)
    assert built.verify() == []
