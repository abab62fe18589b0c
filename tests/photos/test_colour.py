"""Colours are those of sRGB: by the profile that a photo carries, and by Adobe's marker in CMYK."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import cv2
import icc_profiles
import numpy as np
import pytest
from PIL import Image, ImageCms

from udq.photos import colour, decoding
from udq.photos.sandbox import Decoder

# The most that a photo may be off on average, in levels of 255.
OFF = 3


@pytest.fixture(scope="module")
def picture():
    """A colourful photo, (48, 64, 3) uint8 sRGB."""
    down, across = np.mgrid[0:1:48j, 0:1:64j]
    waves = [np.sin(6 * across + 2 * down), np.cos(5 * down - across), np.sin(4 * across * down + 2)]
    return ((np.stack(waves, axis=-1) * 0.35 + 0.5) * 255).round().astype(np.uint8)


def shown(path):
    """Return what is decoded, (h, w, 3) float; the whole photo, scaled, in a process of its own and a part agree."""
    full = np.asarray(decoding.load_full(path)).astype(float)
    scale = {"shorter": full.shape[0], "longer": full.shape[1]}
    assert (decoding.load(path, **scale).pixels == full).all()
    assert (decoding.load_crop(path, None, **scale, least=1)[0].pixels == full).all()
    window = decoding.load_window(path, None, margin=0, longer=full.shape[1], enlarged=1, most=full.shape[1])
    assert (window.pixels == full).all()
    return full


def off(found, expected):
    return np.abs(np.asarray(found, float) - expected).mean()


def lossless(name):
    return {"x.jpg": {"quality": 100, "subsampling": 0}, "x.webp": {"lossless": True}}.get(name, {})


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.avif"])
@pytest.mark.parametrize("space", list(icc_profiles.SPACES))
def test_a_profile_is_applied(tmp_path, picture, space, name):
    stored = icc_profiles.from_srgb(picture, space)
    Image.fromarray(stored).save(tmp_path / name, icc_profile=icc_profiles.profile(space), **lossless(name))

    assert off(shown(tmp_path / name), icc_profiles.in_srgb(stored, space)) < OFF
    assert off(shown(tmp_path / name), picture) < OFF
    if space not in ("sRGB", "Display P3"):
        assert off(stored, picture) > 2 * OFF


def test_the_process_that_decodes_untrusted_photos_applies_profiles(tmp_path, picture):
    stored = icc_profiles.from_srgb(picture, "swapped")
    Image.fromarray(stored).save(tmp_path / "x.png", icc_profile=icc_profiles.profile("swapped"))
    with Decoder() as decoder:
        found = decoder.decode(tmp_path / "x.png", shorter=48, longer=64).pixels

    assert (found == shown(tmp_path / "x.png")).all()
    assert off(found, picture) < OFF


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_a_profile_is_applied_to_palettes_and_under_transparency(tmp_path, picture, mode):
    stored = Image.fromarray(icc_profiles.from_srgb(picture, "swapped"))
    expected = picture
    if mode == "RGBA":
        stored.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8).repeat(32), (48, 1))))
        expected = np.where(np.arange(64)[:, None] < 32, 255, picture)
    else:
        stored = stored.quantize(256)
        expected = icc_profiles.in_srgb(np.asarray(stored.convert("RGB")), "swapped")
    stored.save(tmp_path / "x.png", icc_profile=icc_profiles.profile("swapped"))

    assert off(shown(tmp_path / "x.png"), expected) < OFF


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_profile_of_greys_is_applied(tmp_path, mode):
    levels = np.tile(np.arange(256, dtype=np.uint8), (48, 1))
    Image.fromarray(levels).convert(mode).save(tmp_path / "x.png", icc_profile=icc_profiles.grey_profile(1.0))
    expected = icc_profiles.grey_in_srgb(levels, 1.0)
    assert off(levels, expected) > 40

    assert off(shown(tmp_path / "x.png"), expected[..., None]) < 1


def test_a_profile_of_colours_is_applied_to_greys(tmp_path):
    levels = np.tile(np.arange(256, dtype=np.uint8), (48, 1))
    Image.fromarray(levels).save(tmp_path / "x.jpg", icc_profile=icc_profiles.profile("ProPhoto RGB"), quality=100)
    expected = icc_profiles.in_srgb(levels[..., None].repeat(3, axis=2), "ProPhoto RGB")

    assert off(shown(tmp_path / "x.jpg"), expected) < 1
    assert off(levels, expected[..., 0]) > 10


def test_a_profile_is_applied_to_colours_of_16_bits(tmp_path, picture):
    stored = icc_profiles.from_srgb(picture, "Adobe RGB").astype(np.uint16) * 16
    encoded = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    Image.new("L", (1, 1)).save(buffer := io.BytesIO(), "PNG", icc_profile=icc_profiles.profile("Adobe RGB"))
    chunk = re.search(rb"....iCCP", buffer.getvalue(), re.DOTALL).start()
    size = int.from_bytes(buffer.getvalue()[chunk : chunk + 4], "big") + 12
    (tmp_path / "x.png").write_bytes(encoded[:33] + buffer.getvalue()[chunk : chunk + size] + encoded[33:])

    assert off(shown(tmp_path / "x.png"), picture) < OFF


@pytest.mark.parametrize(
    "profile", [icc_profiles.profile("sRGB"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_a_photo_in_srgb_is_left_as_it_is(tmp_path, picture, profile):
    Image.fromarray(picture).save(tmp_path / "x.png", icc_profile=profile)

    assert (shown(tmp_path / "x.png") == picture).all()
    assert colour._transform(profile, "RGB") is None


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        icc_profiles.profile("swapped")[:200],
        icc_profiles.profile("swapped")[:128] + bytes(200),
        icc_profiles.ink_profile(np.zeros((2, 2, 2, 2, 3), np.uint8)),
        icc_profiles.grey_profile(1.0),
        icc_profiles.profile("swapped") + bytes(17 * 2**20),
    ],
    ids=["text", "truncated", "empty", "of inks", "of greys", "too large"],
)
def test_a_profile_that_is_damaged_or_of_other_colours_is_ignored(tmp_path, picture, profile):
    Image.fromarray(picture).save(tmp_path / "x.tif", icc_profile=profile)

    assert (shown(tmp_path / "x.tif") == picture).all()


def inks(picture):
    """Return a photo as amounts of ink, whose naive conversion gives the photo back; CMYK with little black."""
    black = (255 - picture.max(axis=2)) // 2
    rest = 255 - picture.astype(int) - black[..., None]
    return Image.fromarray(np.dstack([np.clip(rest, 0, 255), black]).astype(np.uint8), "CMYK")


def without_marker(data):
    """Return a JPEG without Adobe's marker."""
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize("marked", [True, False])
def test_cmyk_is_inverted_if_adobes_marker_says_so(tmp_path, picture, marked):
    inked = inks(picture)
    expected = np.asarray(inked.convert("RGB"))
    stored = inked if marked else Image.fromarray(255 - np.asarray(inked), "CMYK")  # Pillow inverts what it writes
    stored.save(buffer := io.BytesIO(), "JPEG", quality=100, subsampling=0)
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue() if marked else without_marker(buffer.getvalue()))

    assert off(shown(tmp_path / "x.jpg"), expected) < OFF


@pytest.mark.parametrize("name", ["marked.jpg", "unmarked.jpg", "x.tif"])
def test_a_profile_of_inks_is_applied(tmp_path, name):
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1)
    # A press whose first ink is yellow and whose third is blue-green: a conversion by rule exchanges red and blue.
    colours = (255 - 255 * np.maximum(corners[..., [2, 1, 0]][..., ::-1], corners[..., 3:]) * 0.8).astype(np.uint8)
    tiles = corners.reshape(4, 4, 4).repeat(8, axis=0).repeat(8, axis=1) * 255
    expected = colours.reshape(4, 4, 3).repeat(8, axis=0).repeat(8, axis=1)
    stored = Image.fromarray(tiles.astype(np.uint8), "CMYK")
    assert off(np.asarray(stored.convert("RGB")), expected) > 10
    if name == "unmarked.jpg":
        stored = Image.fromarray(255 - tiles.astype(np.uint8), "CMYK")
    form = "TIFF" if name == "x.tif" else "JPEG"
    options = {} if form == "TIFF" else {"quality": 100, "subsampling": 0}
    stored.save(buffer := io.BytesIO(), form, icc_profile=icc_profiles.ink_profile(colours), **options)
    (tmp_path / name).write_bytes(without_marker(buffer.getvalue()) if name == "unmarked.jpg" else buffer.getvalue())

    assert off(shown(tmp_path / name), expected) < OFF


def test_colours_are_converted_by_several_threads_at_once(tmp_path, picture):
    for number, space in enumerate(icc_profiles.SPACES):
        stored = Image.fromarray(icc_profiles.from_srgb(picture, space))
        stored.save(tmp_path / f"{number}.png", icc_profile=icc_profiles.profile(space))
    paths = [tmp_path / f"{number % len(icc_profiles.SPACES)}.png" for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: np.asarray(decoding.load_full(path)), paths))

    assert all(off(one, picture) < OFF for one in found)
