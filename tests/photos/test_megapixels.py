"""The limit of megapixels: an option of the index, stored with the collection, and held wherever a photo is decoded."""

from __future__ import annotations

import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udq import Collection, IndexConfig
from udq.errors import ImageError, InputError
from udq.photos.formats import tiff
from udq.photos.sandbox import Decoder
from udq.photos.sandbox_worker import MEMORY, memory
from udq.photos.source import MAX_BYTES, max_bytes
from udq.store.manifest import Manifest, read_manifest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SCALE = {"shorter": 336, "longer": 448}
REFUSED = (
    "20000 x 10000 pixels, 200 megapixels, more than the limit of 150; "
    "index with --max-megapixels 200, or scale it down"
)


def write_huge(path):
    """Write a TIFF of 20,000 x 10,000 pixels in deflated strips: blue, with a red rectangle in the middle half."""
    plain = np.full((100, 20_000, 3), (0, 0, 200), np.uint8)
    across = plain.copy()
    across[:, 5_000:15_000] = (220, 0, 0)
    blue, red = (zlib.compress(strip.tobytes(), 1) for strip in (plain, across))
    parts = [red if 25 <= number < 75 else blue for number in range(100)]
    tags = {256: 20_000, 257: 10_000, 258: (8, 8, 8), 259: 8, 262: 2, 277: 3, 278: 100}
    path.write_bytes(tiff._file(tags, parts, 273, 279))
    return path


def peak_mib(decoder):
    (process,) = decoder._all
    status = Path(f"/proc/{process._process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def test_a_photo_above_the_limit_is_refused_with_the_option_that_raises_it(tmp_path):
    path = write_huge(tmp_path / "huge.tif")
    with Decoder() as decoder:
        for decode in (
            lambda: decoder.decode(path, **SCALE),
            lambda: decoder.load_crop(path, None, **SCALE, least=1),
            lambda: decoder.load_window(path, None, margin=0, longer=400, enlarged=1, most=1600),
        ):
            with pytest.raises(ImageError) as refused:
                decode()
            assert str(refused.value) == f"{path}: {REFUSED}"


@LINUX
def test_a_photo_within_a_raised_limit_is_decoded_in_the_memory_of_its_bands(tmp_path):
    path = write_huge(tmp_path / "huge.tif")
    with Decoder() as decoder:
        raised = decoder.limited(250)
        photo = raised.decode(path, **SCALE)
        crop, _ = raised.load_crop(path, (4_900, 2_400, 5_100, 2_600), **SCALE, least=200)
        window = raised.load_window(path, (5_000, 2_500, 15_000, 7_500), margin=0, longer=400, enlarged=1, most=1600)
        peak = peak_mib(decoder)
        with pytest.raises(ImageError, match="the limit of 150"):
            decoder.decode(path, **SCALE)

    assert (photo.width, photo.height) == (20_000, 10_000)
    assert photo.pixels.shape == (224, 448, 3)
    assert (photo.pixels[60:164, 116:332] == (220, 0, 0)).all()
    assert (photo.pixels[:52] == (0, 0, 200)).all()
    assert (crop.pixels[:95, :95] == (0, 0, 200)).all()
    assert (crop.pixels[105:, 105:] == (220, 0, 0)).all()
    assert (window.pixels[2:-2, 2:-2] == (220, 0, 0)).all()
    assert peak < 250  # as a whole it takes 763 MiB


@LINUX
def test_the_address_space_grows_with_the_limit():
    assert (memory(1), memory(150), memory(300)) == (MEMORY, MEMORY, 2 * MEMORY)
    assert (max_bytes(1), max_bytes(150), max_bytes(300)) == (MAX_BYTES, MAX_BYTES, 2 * MAX_BYTES)
    with Decoder() as decoder:
        for limit in (300, 150):  # back again too: one process serves collections of different limits
            with pytest.raises(ImageError):
                decoder.limited(limit).decode(Path("no such photo"), **SCALE)
            (process,) = decoder._all
            limits = Path(f"/proc/{process._process.pid}/limits").read_text()
            assert int(re.search(r"Max address space\s+(\d+)", limits).group(1)) == memory(limit)


@pytest.mark.parametrize("value", [0, 2001, -1])
def test_the_limit_is_checked(value):
    with pytest.raises(InputError, match=f"images.max_megapixels: expected 1 to 2000, found {value}"):
        IndexConfig().replace({"images": {"max_megapixels": value}})


def test_a_collection_without_the_setting_has_the_default(collection):
    document = json.loads(json.dumps(read_manifest(collection.path).document))
    assert document["config"]["images"].pop("max_megapixels") == 150

    assert Manifest(document).config == collection.config


BUILD = ("--no-train", "--proposals", "grid", "--device", "cpu")


def test_the_option_is_stored_and_used_by_every_later_command(tmp_path, photos, udq):
    folder = tmp_path / "photos"
    folder.mkdir()
    write_huge(folder / "huge.tif")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 65_000, 3), np.uint8)).save(folder / "panorama.png", compress_level=0)
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    for name in ("coffee", "rocket"):
        (folder / f"{name}.png").write_bytes((photos / f"{name}.png").read_bytes())
    assert udq("index", folder, "-o", tmp_path / "x.udq", *BUILD, "--max-megapixels", 250)[0] == 0
    opened = Collection.open(tmp_path / "x.udq", device="cpu")

    assert not opened.broken
    sizes = {image.name: (image.width, image.height) for image in opened.images}
    assert sizes["huge.tif"] == (20_000, 10_000)
    assert sizes["panorama.png"] == (65_000, 200)
    assert sizes["pixel.png"] == (1, 1)
    assert opened.config.images.max_megapixels == 250
    found = opened.search(folder / "huge.tif", (3_000, 1_500, 17_000, 8_500), k=1)
    assert found.matches[0].image == "huge.tif"
    assert opened.search(folder / "panorama.png", (30_000, 0, 30_200, 200), k=5).matches
    assert opened.search(folder / "pixel.png", k=1).matches
    write_huge(tmp_path / "more.tif")
    assert udq("add", tmp_path / "x.udq", tmp_path / "more.tif")[0] == 0
    assert "more.tif" in opened.refreshed().names


def test_photos_above_the_limit_are_listed_in_one_line(tmp_path, photos, udq):
    write_huge(tmp_path / "huge.tif")
    (tmp_path / "coffee.png").write_bytes((photos / "coffee.png").read_bytes())
    assert udq("index", tmp_path, "-o", tmp_path / "x.udq", *BUILD)[0] == 0
    (broken,) = Collection.open(tmp_path / "x.udq").broken

    assert broken["image"] == "huge.tif"
    assert broken["reason"] == f"{tmp_path / 'huge.tif'}: {REFUSED}"
    with pytest.raises(ImageError, match="index with --max-megapixels 200"):
        Collection.open(tmp_path / "x.udq", device="cpu").search(tmp_path / "huge.tif")
    code, _, said = udq("index", tmp_path, "-o", tmp_path / "y.udq", *BUILD, "--max-megapixels", 5000)
    assert (code, said) == (2, "udq: images.max_megapixels: expected 1 to 2000, found 5000\n")
