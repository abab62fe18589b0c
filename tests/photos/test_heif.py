"""HEIC and HEIF photos, as phones and cameras write them, beside AVIF in the same container."""

from __future__ import annotations

import io
import struct

import icc_profiles
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from udq.errors import ImageError
from udq.photos import decoding, source
from udq.photos.sandbox import Decoder

# Where each orientation puts the photo's upper left corner, and whether it exchanges the sides.
TURNS = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: np.rot90(shown, 2).swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.fixture(scope="module")
def picture():
    """A photo whose four corners differ, (96, 128, 3) uint8."""
    down, across = np.mgrid[0:1:96j, 0:1:128j]
    return (np.stack([across, down, 1 - across], axis=-1) * 255).round().astype(np.uint8)


def encoded(pixels, mode="RGB", **options):
    """Return a HEIC file."""
    buffer = io.BytesIO()
    size = pixels.shape[1], pixels.shape[0]
    pillow_heif.from_bytes(mode, size, np.ascontiguousarray(pixels).tobytes()).save(buffer, quality=95, **options)
    return buffer.getvalue()


def off(path, expected):
    """Return by how many levels a decoded photo is off on average; every way to decode it gives the same."""
    height, width = expected.shape[:2]
    full = np.asarray(decoding.load_full(path)).astype(float)
    assert decoding.shown_size(path) == (width, height)
    assert full.shape == expected.shape
    scale = {"shorter": min(width, height), "longer": max(width, height)}
    loaded = decoding.load(path, **scale)
    assert (loaded.width, loaded.height) == (width, height)
    assert (loaded.pixels == full).all()
    return np.abs(full - expected).mean()


def exif(orientation):
    """Return EXIF data that holds an orientation alone."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_photo_is_turned_once(tmp_path, picture, orientation):
    stored = TURNS[orientation](picture)
    (tmp_path / "x.heic").write_bytes(encoded(stored, exif=exif(orientation)))
    written = Image.Exif()
    written.load(pillow_heif.open_heif(tmp_path / "x.heic").info["exif"])
    assert written.get(0x0112) == orientation  # as phones write it, beside the turn of the container

    assert off(tmp_path / "x.heic", picture) < 3


@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.hif", "x.jpg"])
def test_heif_is_known_by_its_content(tmp_path, picture, name):
    (tmp_path / name).write_bytes(encoded(picture))

    assert [found.name for found in source.find([tmp_path])[0]] == [name]
    assert off(tmp_path / name, picture) < 3


def test_a_photo_is_decoded_in_the_process_for_untrusted_photos(tmp_path, picture):
    (tmp_path / "x.heic").write_bytes(encoded(picture))
    with Decoder() as decoder:
        photo = decoder.decode(tmp_path / "x.heic", shorter=96, longer=128)
        crop, _ = decoder.load_crop(tmp_path / "x.heic", (10, 20, 60, 70), shorter=96, longer=128, least=1)

    assert np.abs(photo.pixels.astype(float) - picture).mean() < 3
    assert np.abs(crop.pixels.astype(float) - picture[20:70, 10:60]).mean() < 3


def test_depth_profile_and_transparency_are_those_of_other_formats(tmp_path, picture):
    (tmp_path / "deep.heic").write_bytes(encoded(picture.astype("<u2") * 257, "RGB;16"))
    (tmp_path / "grey.heic").write_bytes(encoded(picture[..., 0], "L"))
    half = np.dstack([picture, np.tile(np.array([0, 255], np.uint8).repeat(64), (96, 1))])
    (tmp_path / "clear.heic").write_bytes(encoded(half, "RGBA"))
    stored = Image.fromarray(icc_profiles.from_srgb(picture, "Display P3"))
    pillow_heif.from_pillow(stored).save(
        tmp_path / "p3.heic", quality=95, icc_profile=icc_profiles.profile("Display P3")
    )

    assert off(tmp_path / "deep.heic", picture) < 3
    assert off(tmp_path / "grey.heic", picture[..., :1].repeat(3, axis=2)) < 3
    assert off(tmp_path / "clear.heic", np.where(np.arange(128)[:, None] < 64, 255, picture)) < 3
    assert pillow_heif.open_heif(tmp_path / "p3.heic").info["icc_profile"]
    assert off(tmp_path / "p3.heic", picture) < 3


def test_the_primary_of_several_pictures_is_the_photo_and_no_thumbnail_is(tmp_path, picture):
    other = pillow_heif.from_pillow(Image.fromarray(255 - picture))
    other.add_from_pillow(Image.fromarray(picture))
    other.save(tmp_path / "x.heic", quality=95, primary_index=1)
    assert len(pillow_heif.open_heif(tmp_path / "x.heic")) == 2

    assert off(tmp_path / "x.heic", picture) < 3


def test_a_photo_beyond_the_limits_is_refused_by_its_header(tmp_path):
    (tmp_path / "x.heic").write_bytes(encoded(np.zeros((1000, 1100, 3), np.uint8)))

    for read in (decoding.load_full, decoding.shown_size):
        with pytest.raises(ImageError, match="1100 x 1000 pixels, 2 megapixels, more than the limit of 1; index with"):
            read(tmp_path / "x.heic", limit=1)


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.9])
def test_a_damaged_photo_is_refused_in_one_line(tmp_path, picture, kept):
    data = encoded(picture)
    (tmp_path / "x.heic").write_bytes(data[: int(kept * len(data))])

    with pytest.raises(ImageError) as refused:
        decoding.load_full(tmp_path / "x.heic")
    assert "\n" not in str(refused.value)
    with Decoder() as decoder, pytest.raises(ImageError) as again:
        decoder.decode(tmp_path / "x.heic", shorter=96, longer=128)
    assert str(again.value) == str(refused.value)


def test_avif_is_read_beside_it(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "x.avif", quality=95)
    data = (tmp_path / "x.avif").read_bytes()
    assert data[8:12] == b"avif"
    (tmp_path / "y.heif").write_bytes(data[:8] + b"mif1" + data[12:])  # AVIF by its other brands alone

    assert off(tmp_path / "x.avif", picture) < 3
    assert off(tmp_path / "y.heif", picture) < 3
