"""Samples of more than 8 bits come down to 8 by the range that they use; the reference reader is tifffile or OpenCV."""

from __future__ import annotations

import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from udq.errors import ImageError
from udq.photos import decoding


def photo(levels=256, bands=1):
    """Return a smooth photo of that many levels, (40, 60) or (40, 60, bands) float64, which uses all of them."""
    down, across = np.mgrid[0:1:40j, 0:1:60j]
    picture = np.stack([across, down, 1 - across * down, across * (1 - down)], axis=-1)[..., :bands] * (levels - 1)
    return (picture[..., 0] if bands == 1 else picture).round()


def shown(path):
    """Return what is decoded, (h, w, 3) float; every way to decode a photo returns the same."""
    full = np.asarray(decoding.load_full(path)).astype(float)
    scaled = decoding.load(path, shorter=full.shape[0], longer=max(full.shape)).pixels
    assert (scaled == full).all()
    return full


def read_by_tifffile(path):
    """Return the samples of a TIFF by the reference reader, (h, w) or (h, w, bands) float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tifffile.imread(path).astype(np.float64)
    return np.moveaxis(found, 0, -1) if found.ndim == 3 and found.shape[0] < 5 else found


def assert_shows(found, samples, low, high, off=1):
    """Check a decoded photo against its samples, of which ``low`` is black and ``high`` white, to ``off`` levels."""
    expected = np.clip((samples - low) / (high - low) * 255, 0, 255)
    grey = expected.ndim == 2
    assert np.abs(found - (expected[..., None] if grey else expected[..., :3])).max() <= off


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "samples", "low", "high"),
    [
        ("uint16", photo(2**16), 0, 65535),
        ("uint16", photo(2**16) // 2, 0, 65535),  # a rather dark photo stays so
        ("uint16", photo(2**14), 0, 2**14 - 1),
        ("uint16", photo(2**12), 0, 2**12 - 1),
        ("uint16", photo(3000), 0, 2**12 - 1),
        ("uint16", photo(2**10), 0, 2**10 - 1),
        ("uint16", photo(256), 0, 255),
        ("int16", photo(2**16) - 2**15, -(2**15), 2**15 - 1),
        ("int16", photo(4096) - 1024, -1024, 3071),
        ("int16", photo(2**15), 0, 2**15 - 1),
        ("int16", photo(2**12), 0, 2**12 - 1),
        ("uint32", photo(2**12), 0, 2**12 - 1),
        ("uint32", photo(2**16), 0, 2**16 - 1),
        ("uint32", photo(2**20), 0, 2**20 - 1),
        ("uint32", photo(2**32), 0, 2**32 - 1),
        ("int32", photo(2**24), 0, 2**24 - 1),
        ("int32", photo(2**20) - 500_000, -500_000, 2**20 - 500_001),
        ("float32", photo() / 255, 0, 1),
        ("float32", photo() / 255 * 1.3, 0, 1.3),
        ("float32", photo() / 255 * 0.01, 0, 0.01),
        ("float32", photo(), 0, 255),
        ("float32", photo(3001), 0, 3000),
        ("float32", photo(60_000), 0, 65535),
        ("float32", photo(2000) - 1000, -1000, 999),
    ],
)
def test_greys_come_out_by_the_range_they_use(tmp_path, kind, samples, low, high, order):
    tifffile.imwrite(tmp_path / "x.tif", samples.astype(kind), byteorder=order)
    read = read_by_tifffile(tmp_path / "x.tif")
    assert np.abs(read - samples).max() <= 1e-3 * high

    if kind == "uint32" and order == ">":  # Pillow does not read it: listed, not black
        with pytest.raises(ImageError, match="not a photo this decoder knows"):
            decoding.load_full(tmp_path / "x.tif")
        return
    assert_shows(shown(tmp_path / "x.tif"), read, low, high)


@pytest.mark.parametrize("top", [1, 3000])
def test_samples_that_are_no_numbers_do_not_change_the_others(tmp_path, top):
    samples = (photo() / 255 * top).astype(np.float32)
    samples[3, 4], samples[5, 6], samples[7, 8] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "x.tif", samples)
    found = shown(tmp_path / "x.tif")

    assert (found[3, 4] == 0).all()
    assert (found[5, 6] == 255).all()
    assert (found[7, 8] == 0).all()
    finite = np.isfinite(samples)
    assert np.abs(found[finite][:, 0] - samples[finite] / top * 255).max() <= 1


def test_a_photo_without_a_finite_sample_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.full((40, 60), np.nan, np.float32))

    with pytest.raises(ImageError, match="expected brightness values, found none that is finite"):
        decoding.load_full(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("level", [-7, 0, 9])
def test_a_photo_of_one_level_is_one_grey(tmp_path, kind, level):
    if level < 0 and kind == "uint16":
        pytest.skip("has no negative samples")
    tifffile.imwrite(tmp_path / "x.tif", np.full((40, 60), level, kind))

    assert len(np.unique(shown(tmp_path / "x.tif"))) == 1


@pytest.mark.parametrize("top", [2**16 - 1, 2**12 - 1])
def test_white_may_be_zero(tmp_path, top):
    samples = photo(top + 1).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="miniswhite")

    assert_shows(shown(tmp_path / "x.tif"), samples.astype(float), top, 0)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_16_bits_come_out_by_the_range_they_use(tmp_path, depth, planar, order, compression, bands):
    samples = photo(2**depth, bands).astype(np.uint16)
    if bands == 4:
        samples[..., 3] = 2**depth - 1  # opaque
    tifffile.imwrite(
        tmp_path / "x.tif",
        samples if planar == "contig" else np.moveaxis(samples, -1, 0),
        photometric="rgb",
        planarconfig=planar,
        byteorder=order,
        compression=compression,
        extrasamples=["unassalpha"] if bands == 4 else None,
        rowsperstrip=7,
    )
    read = read_by_tifffile(tmp_path / "x.tif")
    assert (read == samples).all()

    if bands == 4 and depth == 15:  # both are taken for 16 bits: half transparent
        return
    coarse = planar == "separate" and compression and depth < 15  # libtiff gives the upper bytes alone
    if coarse and depth < 11:  # listed, not black
        with pytest.raises(ImageError, match="found fewer in compressed planes"):
            decoding.load_full(tmp_path / "x.tif")
        return
    off = 2 ** (16 - depth) if coarse else 1
    assert_shows(shown(tmp_path / "x.tif"), read, 0, 65535 if depth > 14 else 2**depth - 1, off=off)


@pytest.mark.parametrize("tile", [(16, 16), (32, 48)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_16_bits_in_tiles(tmp_path, tile, planar):
    samples = photo(2**12, 3).astype(np.uint16)
    stored = samples if planar == "contig" else np.moveaxis(samples, -1, 0)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", planarconfig=planar, tile=tile)

    assert_shows(shown(tmp_path / "x.tif"), samples.astype(float), 0, 4095)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("stated", [True, False])
def test_a_ppm_of_16_bits_comes_out_by_the_range_it_uses(tmp_path, depth, bands, stated):
    samples = photo(2**depth, bands).astype(">u2")
    if depth == 8 and stated:  # a byte a sample, then
        samples = samples.astype("u1")
    header = f"P{5 if bands == 1 else 6}\n60 40\n{2**depth - 1 if stated else 65535}\n"
    (tmp_path / "x.ppm").write_bytes(header.encode() + samples.tobytes())
    read = cv2.imread(str(tmp_path / "x.ppm"), cv2.IMREAD_UNCHANGED)
    assert (np.atleast_3d(read)[..., ::-1] == np.atleast_3d(samples)).all()

    assert_shows(shown(tmp_path / "x.ppm"), samples.astype(float), 0, 2**depth - 1)


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_a_png_of_16_bits_comes_out_by_the_range_it_uses(tmp_path, depth, bands):
    samples = photo(2**depth, bands).astype(np.uint16)
    if bands == 4:
        samples[..., 3] = 2**depth - 1
    cv2.imwrite(str(tmp_path / "x.png"), samples if bands == 1 else samples[..., [2, 1, 0, 3][:bands]])
    read = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16

    assert_shows(shown(tmp_path / "x.png"), samples.astype(float), 0, 2**depth - 1)


@pytest.mark.parametrize("depth", [10, 12, 16])
def test_a_png_of_16_bit_grey_with_transparency(tmp_path, depth):
    samples = photo(2**depth)
    pixels = np.full((40, 60, 2), 2**16 - 1, ">u2")
    pixels[..., 0] = samples
    pixels[:, 30:, 1] = 0

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, 4, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    found = shown(tmp_path / "x.png")

    assert (found[:, 30:] == 255).all()
    assert_shows(found[:, :30], samples[:, :30], 0, 2**depth - 1)


def test_a_photo_of_full_range_comes_out_as_pillow_shows_it(tmp_path):
    colours = photo(2**16, 3).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "colours.png"), colours[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), colours[..., 0])
    with Image.open(tmp_path / "colours.png") as opened:
        assert (shown(tmp_path / "colours.png") == np.asarray(opened)).all()

    assert (shown(tmp_path / "grey.png")[..., 0] == (colours[..., 0] / 257).round()).all()


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_deep_photo_is_turned(tmp_path, orientation, bands):
    samples = photo(2**12, bands).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "x.tif",
        samples,
        photometric="rgb" if bands == 3 else "minisblack",
        extratags=[(274, "H", 1, orientation, True)],
    )
    turned = {3: samples[::-1, ::-1], 6: np.rot90(samples, -1), 7: np.rot90(samples, 2).swapaxes(0, 1)}[orientation]

    assert_shows(shown(tmp_path / "x.tif"), turned.astype(float), 0, 4095)
