"""Large photos are read in bands or at a reduced scale, and come out as if they had been decoded whole."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from udq.errors import ImageError
from udq.photos import decoding, scaling, source
from udq.photos.formats import opening, tiff

SCALE = {"shorter": 120, "longer": 160}


@pytest.fixture
def picture():
    """An RGB photo of 1003 x 757 pixels with edges at every scale."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:757, :1003]
    waves = [127 + 80 * np.sin(across / a) * np.cos(down / b) for a, b in ((97, 61), (41, 83), (67, 53))]
    pixels = np.stack(waves, axis=2) + rng.normal(0, 8, (757, 1003, 3))
    pixels[200:420, 300:650] = (200, 30, 60)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def banded(monkeypatch):
    """Read TIFF photos of any size in bands, of a few rows each, and count them."""
    monkeypatch.setattr(tiff, "LARGE", 0)
    monkeypatch.setattr(tiff, "_BAND", 20_000)
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 8192)
    read = []
    original = tiff.Level._band

    def counted(level, first, last):
        read.append((level.width, first, last))
        return original(level, first, last)

    monkeypatch.setattr(tiff.Level, "_band", counted)
    return read


def whole(path, **scale):
    """Return what a photo is if it is decoded whole and scaled then, by Pillow alone."""
    with Image.open(path) as opened:
        opened.load()
        rgb = opened.convert("RGB")
    factor = decoding.scale_for(*rgb.size, **scale)
    size = tuple(round(side * factor) for side in rgb.size)
    return np.asarray(rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)).astype(int)


def off(found, expected):
    return np.abs(found.astype(int) - expected).mean()


def tiled(picture, side=64, compression=1, predictor=1):
    """Return a TIFF of tiles, which Pillow does not write: uncompressed, or deflated by rows with a predictor."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    parts = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = np.zeros((side, side, 3), np.uint8)
            inside = pixels[top : top + side, left : left + side]
            tile[: inside.shape[0], : inside.shape[1]] = inside
            if predictor == 2:
                tile[:, 1:] -= tile[:, :-1].copy()
            parts.append(zlib.compress(tile.tobytes()) if compression == 8 else tile.tobytes())
    tags = {256: width, 257: height, 258: (8, 8, 8), 259: compression, 262: 2, 277: 3, 317: predictor}
    tags |= {322: side, 323: side}
    return tiff._file(tags, parts, 324, 325)


WRITTEN = {
    "raw": {},
    "deflate": {"compression": "tiff_adobe_deflate"},
    "predictor": {"compression": "tiff_lzw", "tiffinfo": {317: 2}},
    "packbits": {"compression": "packbits"},
    "jpeg": {"compression": "jpeg", "quality": 95},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "RGBA"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_a_striped_tiff_in_bands_is_what_it_is_as_a_whole(tmp_path, picture, banded, kind, mode):
    if kind == "jpeg" and mode in ("P", "1", "RGBA"):
        pytest.skip("not stored as JPEG")
    if kind == "predictor" and mode == "1":
        pytest.skip("a predictor needs bytes")
    picture.convert(mode).save(tmp_path / "x.tif", **WRITTEN[kind])
    found = decoding.load(tmp_path / "x.tif", **SCALE)

    assert len(banded) > 5
    assert sum(last - first for _, first, last in banded) == 757
    assert (found.width, found.height) == (1003, 757)
    assert (found.pixels == whole(tmp_path / "x.tif", **SCALE)).all()


@pytest.mark.parametrize("options", [{}, {"compression": 8}, {"compression": 8, "predictor": 2}])
def test_a_tiled_tiff_in_bands_is_what_it_is_as_a_whole(tmp_path, picture, banded, options):
    (tmp_path / "x.tif").write_bytes(tiled(picture, **options))
    found = decoding.load(tmp_path / "x.tif", **SCALE)

    assert len(banded) == 12
    assert (found.pixels == whole(tmp_path / "x.tif", **SCALE)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_in_bands_is_turned(tmp_path, picture, banded, orientation):
    picture.save(tmp_path / "x.tif", compression="tiff_adobe_deflate", tiffinfo={274: orientation})
    found = decoding.load(tmp_path / "x.tif", **SCALE)

    assert banded
    assert (found.width, found.height) == ((757, 1003) if orientation > 4 else (1003, 757))
    assert off(found.pixels, whole(tmp_path / "x.tif", **SCALE)) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.tif", "x.png"])
def test_a_crop_of_bands_has_the_pixels_of_the_box(tmp_path, picture, banded, orientation, name):
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / name, exif=exif)
    full = np.asarray(decoding.load_full(tmp_path / name))
    banded.clear()
    crop, _ = decoding.load_crop(tmp_path / name, (500, 400, 690, 520), shorter=757, longer=1003, least=1)

    assert (crop.pixels == full[400:520, 500:690]).all()
    if name == "x.tif":
        assert 0 < sum(last - first for _, first, last in banded) < 400  # the bands that the box is in


def test_a_profile_is_applied_to_bands(tmp_path, picture, banded):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    picture.save(tmp_path / "x.tif", icc_profile=exchanged)
    picture.save(tmp_path / "x.png", icc_profile=exchanged)
    found = decoding.load(tmp_path / "x.tif", **SCALE).pixels

    assert banded
    assert (found == decoding.load(tmp_path / "x.png", **SCALE).pixels).all()
    assert off(found, np.asarray(picture.resize((159, 120))).astype(int)) > 10


def test_sixteen_bits_are_scaled_by_the_range_of_the_whole_photo(tmp_path, picture, banded):
    levels = np.asarray(picture.convert("L")).astype(np.uint16) * 16
    Image.fromarray(levels).save(tmp_path / "x.tif")

    found = decoding.load(tmp_path / "x.tif", **SCALE).pixels

    assert not banded
    assert off(found[..., 0], np.asarray(picture.convert("L").resize((159, 120))).astype(int)) < 6


def test_separate_planes_are_read_in_bands(tmp_path, picture, banded):
    tifffile = pytest.importorskip("tifffile")
    planes = np.moveaxis(np.asarray(picture), 2, 0)
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "x.tif", planes, rowsperstrip=16, **options)
    found = decoding.load(tmp_path / "x.tif", **SCALE)

    assert len(banded) > 5
    assert off(found.pixels, np.asarray(picture.resize((159, 120), 3, reducing_gap=3.0)).astype(int)) == 0


def write_pyramid(path, picture, *, sizes, subifds=False, bigtiff=False, kind=1):
    """Write a photo in tiles with smaller levels of itself, in SubIFDs or in pages that follow."""
    tifffile = pytest.importorskip("tifffile")
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        writer.write(np.asarray(picture), subifds=len(sizes) if subifds else None, metadata=None, **options)
        for size in sizes:
            level = np.asarray(picture.resize(size, Image.Resampling.BOX))
            writer.write(level, subfiletype=kind, metadata=None, **options)


@pytest.mark.parametrize("layout", [{}, {"subifds": True}, {"bigtiff": True}])
def test_the_smallest_adequate_level_of_a_pyramid_is_read(tmp_path, picture, banded, layout):
    write_pyramid(tmp_path / "x.tif", picture, sizes=[(502, 379), (251, 190), (126, 95)], **layout)
    small = decoding.load(tmp_path / "x.tif", shorter=60, longer=100)
    assert {width for width, _, _ in banded} == {251}
    banded.clear()
    found = decoding.load(tmp_path / "x.tif", **SCALE)

    assert {width for width, _, _ in banded} == {502}
    assert (found.width, found.height) == (small.width, small.height) == (1003, 757)
    expected = picture.resize((159, 120), Image.Resampling.BICUBIC, reducing_gap=3.0)
    assert off(found.pixels, np.asarray(expected).astype(int)) < 2
    banded.clear()
    crop, _ = decoding.load_crop(tmp_path / "x.tif", (500, 400, 690, 520), shorter=757, longer=1003, least=1)
    assert (crop.pixels == np.asarray(picture)[400:520, 500:690]).all()


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [([(502, 300)], 1), ([(502, 379)], 0), ([(502, 379)], 2)],
    ids=["another shape", "a page", "one of several pages"],
)
def test_pages_that_are_no_smaller_level_are_not_read(tmp_path, picture, banded, sizes, kind):
    write_pyramid(tmp_path / "x.tif", picture, sizes=sizes, kind=kind)
    decoding.load(tmp_path / "x.tif", **SCALE)

    assert {width for width, _, _ in banded} == {1003}


def test_a_loop_of_pages_ends(tmp_path, picture, banded):
    picture.save(tmp_path / "x.tif", compression="packbits")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[end : end + 4] = data[4:8]
    (tmp_path / "x.tif").write_bytes(data)

    assert decoding.load(tmp_path / "x.tif", **SCALE).width == 1003
    assert banded


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["raw", "deflate", "packbits"])
def test_a_truncated_tiff_in_bands_is_refused_in_one_line(tmp_path, picture, banded, kind, kept):
    picture.save(tmp_path / "x.tif", **WRITTEN[kind])
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(ImageError) as refused:
        decoding.load(tmp_path / "x.tif", **SCALE)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{}, {"irreversible": True}, {"num_resolutions": 2}, {"tile_size": (256, 256)}])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_jpeg_2000_is_read_at_a_lower_resolution(tmp_path, picture, banded, options, mode):
    picture.convert(mode).save(tmp_path / "x.jp2", **options)
    scale = {"shorter": 90, "longer": 200}
    found = decoding.load(tmp_path / "x.jp2", **scale)

    assert (found.width, found.height) == (1003, 757)
    assert off(found.pixels, whole(tmp_path / "x.jp2", **scale)) < 2


def test_a_drafted_jpeg_2000_is_smaller(tmp_path, picture, banded):
    picture.save(tmp_path / "x.jp2")
    with (tmp_path / "x.jp2").open("rb") as file, opening.identify(file, 150) as opened:
        drafted = opening.draft(opened, (119, 90))
        assert drafted.picture.size == (251, 190)
        drawn, span = scaling.drawn(drafted, (119, 90))

    assert drawn.size == (252, 191)
    assert span == (0.375, 0.375, 1003 / 4 + 0.375, 757 / 4 + 0.375)


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_photo_that_was_decoded_whole_passes_in_bands(tmp_path, picture, name, mode, monkeypatch):
    monkeypatch.setattr(scaling, "_BAND", 20_000)
    picture.convert(mode).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))

    assert (decoding.load(tmp_path / name, **SCALE).pixels == whole(tmp_path / name, **SCALE)).all()


def test_a_file_that_is_not_read_into_memory_is_the_same_photo(tmp_path, picture, monkeypatch):
    for name in ("x.jpg", "x.png", "x.tif", "x.jp2", "x.webp"):
        picture.save(tmp_path / name)
    paths = sorted(tmp_path.iterdir())
    before = [decoding.load(path, **SCALE) for path in paths]
    monkeypatch.setattr(source, "_IN_MEMORY", 100)
    for path, expected in zip(paths, before, strict=True):
        found = decoding.load(path, **SCALE)
        assert (found.pixels == expected.pixels).all()
        assert found.content == expected.content == source.content(path)


def test_a_large_file_that_changes_while_it_is_decoded_is_refused(tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "x.png")
    monkeypatch.setattr(source, "_IN_MEMORY", 100)
    drawn = scaling.drawn

    def overwritten(*arguments):
        os.utime(tmp_path / "x.png", ns=(1, 1))
        return drawn(*arguments)

    monkeypatch.setattr(scaling, "drawn", overwritten)
    with pytest.raises(ImageError, match=r"x\.png: changed while it was read; try again"):
        decoding.load(tmp_path / "x.png", **SCALE)
