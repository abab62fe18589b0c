"""A copy of a photo in any kind that is read finds its original first."""

from __future__ import annotations

import cv2
import icc_profiles
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from udq.photos.source import SUFFIXES

# Kinds whose levels or colours are stored otherwise than Pillow takes them for.
KINDS = {
    "grey-12-in-16.tif": lambda p, at: tifffile.imwrite(at, grey(p).astype(np.uint16) * 16),
    "grey-10-in-16.png": lambda p, at: cv2.imwrite(str(at), grey(p).astype(np.uint16) * 4),
    "grey-int16.tif": lambda p, at: tifffile.imwrite(at, grey(p).astype(np.int16) * 16 - 1000),
    "grey-int32.tif": lambda p, at: tifffile.imwrite(at, grey(p).astype(np.int32) * 2**16),
    "grey-uint32.tif": lambda p, at: tifffile.imwrite(at, grey(p).astype(np.uint32) * 2**24),
    "grey-float-3000.tif": lambda p, at: tifffile.imwrite(at, grey(p).astype(np.float32) / 255 * 3000),
    "grey-float-nan.tif": lambda p, at: tifffile.imwrite(at, spoilt(grey(p).astype(np.float32) / 255, np.nan)),
    "grey-float-inf.tif": lambda p, at: tifffile.imwrite(at, spoilt(grey(p).astype(np.float32) / 255, np.inf)),
    "colour-12-in-16.png": lambda p, at: cv2.imwrite(str(at), p[..., ::-1].astype(np.uint16) * 16),
    "colour-10-in-16.tif": lambda p, at: tifffile.imwrite(at, p.astype(np.uint16) * 4, photometric="rgb"),
    "colour-planes.tif": lambda p, at: tifffile.imwrite(
        at, np.moveaxis(p.astype(np.uint16) * 257, -1, 0), photometric="rgb", planarconfig="separate"
    ),
    "swapped.png": lambda p, at: Image.fromarray(icc_profiles.from_srgb(p, "swapped")).save(
        at, icc_profile=icc_profiles.profile("swapped")
    ),
    "prophoto.jpg": lambda p, at: Image.fromarray(icc_profiles.from_srgb(p, "ProPhoto RGB")).save(
        at, icc_profile=icc_profiles.profile("ProPhoto RGB"), quality=90
    ),
    "inks.jpg": lambda p, at: unmarked(p, at),
}
PLAIN = {suffix: {".mpo": "MPO", ".jpe": "JPEG"}.get(suffix) for suffix in sorted(SUFFIXES)}


def grey(pixels):
    return np.asarray(Image.fromarray(pixels).convert("L"))


def spoilt(levels, value):
    levels[0, 0] = value
    return levels


def unmarked(pixels, path):
    """Write a JPEG of inks without Adobe's marker."""
    Image.fromarray(pixels).convert("CMYK").point(lambda level: 255 - level).save(path, "JPEG", quality=90)
    data = path.read_bytes()
    start = data.index(b"\xff\xee")
    path.write_bytes(data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :])


@pytest.fixture(scope="module")
def coffee(photos):
    """The photo that is copied, (h, w, 3) uint8."""
    with Image.open(photos / "coffee.png") as opened:
        return np.asarray(opened.convert("RGB"))


def assert_found_first(collection, path):
    matches = collection.search(path, k=2).matches
    assert matches[0].image == "coffee.png"
    assert matches[0].score > matches[1].score


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_whose_levels_or_colours_are_stored_otherwise(collection, coffee, tmp_path, kind):
    KINDS[kind](coffee, tmp_path / kind)

    assert_found_first(collection, tmp_path / kind)


@pytest.mark.parametrize("suffix", PLAIN)
def test_a_copy_of_any_suffix(collection, coffee, tmp_path, suffix):
    picture, path = Image.fromarray(coffee), tmp_path / f"copy{suffix}"
    if suffix in (".heic", ".heif", ".hif"):
        pillow_heif.from_pillow(picture).save(path, quality=80)
    elif suffix == ".pbm":  # black and white
        picture.convert("1").save(path)
    elif suffix == ".pgm":
        picture.convert("L").save(path)
    else:
        picture.save(path, PLAIN[suffix])

    assert_found_first(collection, path)
