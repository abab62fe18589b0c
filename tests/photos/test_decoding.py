"""Photos decoded as a viewer shows them, whatever the file; failures are one line."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from udq.errors import ImageError
from udq.photos import decoding, scaling, source

FULL = {"shorter": 600, "longer": 1000}


def gradient(width=60, height=40):
    """An RGB photo whose four corners differ."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).round().astype(np.uint8))


def shown(path):
    return np.asarray(decoding.load_full(path)).astype(int)


def reason(path):
    """Return why a photo cannot be decoded: one line that names it, the same from both functions."""
    with pytest.raises(ImageError) as refused:
        decoding.load(path, **FULL)
    with pytest.raises(ImageError) as again:
        decoding.load_full(path)
    assert str(refused.value) == str(again.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    return str(refused.value)


def test_a_zero_byte_file_is_an_empty_file(tmp_path):
    (tmp_path / "x.jpg").touch()

    assert reason(tmp_path / "x.jpg").endswith("empty file")


def test_text_with_a_photos_name_is_not_a_photo(tmp_path):
    (tmp_path / "x.jpg").write_text("hello")

    assert "not a photo" in reason(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.gif"])
def test_a_truncated_photo_is_refused(tmp_path, name):
    gradient(300, 200).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])

    assert reason(tmp_path / name)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)

    said = reason(tmp_path / "bomb.png")
    assert said.endswith("60000 x 60000 pixels, 3600 megapixels, more than the limit of 150; scale it down")


def test_a_photo_of_one_very_long_side_is_refused(tmp_path):
    Image.new("L", (70_000, 2)).save(tmp_path / "line.png")

    assert "65535 a side" in reason(tmp_path / "line.png")


def test_a_turned_photo_with_text_for_a_number_in_its_exif_is_decoded(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    gradient().save(tmp_path / "x.jpg", exif=exif)
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data.replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02"))  # now the width

    assert shown(tmp_path / "x.jpg").shape == (60, 40, 3)
    assert decoding.load(tmp_path / "x.jpg", **FULL).width == 40


def test_a_cmyk_photo_comes_out_as_rgb(tmp_path):
    gradient().convert("CMYK").save(tmp_path / "x.jpg", quality=95)

    assert np.abs(shown(tmp_path / "x.jpg") - np.asarray(gradient()).astype(int)).mean() < 4


def test_sixteen_bit_levels_come_down_to_eight(tmp_path):
    levels = np.linspace(0, 65535, 50 * 20).reshape(20, 50).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png")

    assert np.abs(shown(tmp_path / "x.png")[..., 0] - levels / 257).max() <= 1


def test_floats_from_zero_to_one_come_up_to_eight_bits(tmp_path):
    levels = np.linspace(0, 1, 50 * 20).reshape(20, 50).astype(np.float32)
    Image.fromarray(levels).save(tmp_path / "x.tif")

    assert np.abs(shown(tmp_path / "x.tif")[..., 2] - levels * 255).max() <= 1


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.eye(30, dtype=bool)).save(tmp_path / "x.png")

    assert (shown(tmp_path / "x.png")[..., 1] == 255 * np.eye(30)).all()


def test_transparency_lies_on_white(tmp_path):
    see_through = gradient().convert("RGBA")
    see_through.putalpha(0)
    see_through.save(tmp_path / "rgba.png")
    Image.new("LA", (20, 20), (0, 0)).save(tmp_path / "la.png")
    palette = gradient().quantize(16)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))

    assert (shown(tmp_path / "rgba.png") == 255).all()
    assert (shown(tmp_path / "la.png") == 255).all()
    assert (shown(tmp_path / "p.png")[0, 0] == 255).all()


def test_a_palette_is_resolved(tmp_path):
    palette = gradient().quantize(64)
    palette.save(tmp_path / "x.gif")

    assert (shown(tmp_path / "x.gif") == np.asarray(palette.convert("RGB"))).all()


def test_the_first_frame_stands_for_an_animation(tmp_path):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])

    assert (shown(tmp_path / "x.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_every_way_to_read_a_photo_returns_the_same_size(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient(60, 40).save(tmp_path / name, exif=exif)
    loaded = decoding.load(tmp_path / name, shorter=20, longer=1000)

    assert decoding.shown_size(tmp_path / name) == ((40, 60) if orientation > 4 else (60, 40))
    assert decoding.load_full(tmp_path / name).size == (loaded.width, loaded.height)
    assert (loaded.width, loaded.height) == decoding.shown_size(tmp_path / name)
    assert loaded.pixels.shape[:2] == (loaded.height // 2, loaded.width // 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = gradient(600, 400)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.jpg", exif=exif, quality=95)

    assert np.abs(shown(tmp_path / "x.jpg") - np.asarray(upright).astype(int)).mean() < 3
    loaded = decoding.load(tmp_path / "x.jpg", shorter=100, longer=1000)
    assert (loaded.width, loaded.height) == (600, 400)
    assert loaded.pixels.shape == (100, 150, 3)
    assert np.abs(loaded.pixels.astype(int) - np.asarray(upright.resize((150, 100))).astype(int)).mean() < 4


@pytest.mark.parametrize(
    ("size", "expected"),
    [((800, 600), (800, 600)), ((400, 300), (800, 600)), ((3000, 600), (1000, 200)), ((600, 1800), (333, 1000))],
)
def test_the_papers_scale_is_600_or_at_most_1000(tmp_path, size, expected):
    gradient(*size).save(tmp_path / "x.png")
    loaded = decoding.load(tmp_path / "x.png", **FULL)

    assert (loaded.pixels.shape[1], loaded.pixels.shape[0]) == expected
    assert (loaded.width, loaded.height) == size


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    gradient(2400, 1600).save(tmp_path / "x.jpg", quality=95)
    loaded = decoding.load(tmp_path / "x.jpg", shorter=200, longer=1000)

    assert loaded.pixels.shape == (200, 300, 3)
    assert np.abs(loaded.pixels.astype(int) - np.asarray(gradient(300, 200)).astype(int)).mean() < 3


def test_a_crop_holds_the_pixels_of_the_box_and_no_others(tmp_path):
    inside = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[60:110, 100:180] = inside
    Image.fromarray(photo).save(tmp_path / "x.png")
    crop, box = decoding.load_crop(tmp_path / "x.png", (100, 60, 180, 110), shorter=200, longer=1000, least=1)

    assert box == (100, 60, 180, 110)
    assert (crop.pixels == inside).all()


def test_a_crop_has_the_scale_of_the_whole_photo_or_the_least_that_is_useful(tmp_path):
    gradient(600, 400).save(tmp_path / "x.png")

    def side(box, least):
        return decoding.load_crop(tmp_path / "x.png", box, shorter=200, longer=1000, least=least)[0].pixels.shape[:2]

    assert side((0, 0, 300, 200), least=50) == (100, 150)
    assert side((0, 0, 60, 40), least=50) == (50, 75)
    assert side(None, least=50) == (200, 300)
    assert side((599.2, 399.2, 600, 400), least=50) == (50, 50)  # less than a pixel is that pixel
    assert side((0, 0, 600, 1), least=50)[1] <= 1000


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((59.8, 10, 60, 20), (59, 10, 60, 20)),
        ((10, 39.7, 20, 40), (10, 39, 20, 40)),
        ((59.9, 39.9, 60, 40), (59, 39, 60, 40)),
        ((20.1, 10, 20.4, 20), (20, 10, 21, 20)),
        ((59.4, 39.6, 60, 40), (59, 39, 60, 40)),
    ],
)
def test_a_box_thinner_than_half_a_pixel_is_one_column_or_row(tmp_path, box, cut):
    gradient().save(tmp_path / "x.png")
    crop, found = decoding.load_crop(tmp_path / "x.png", box, shorter=1, longer=1000, least=1)
    size = cut[2] - cut[0], cut[3] - cut[1]

    assert found == box
    assert (crop.width, crop.height) == size
    # The scale enlarges it to a pixel at least: what it shows is the mean of what was cut out.
    assert np.abs(crop.pixels.mean(axis=(0, 1)) - np.asarray(gradient().crop(cut)).mean(axis=(0, 1))).max() <= 2


def test_a_format_of_no_photo_is_refused_whatever_its_name(tmp_path):
    gradient().save(tmp_path / "x.png", "EPS")
    gradient().save(tmp_path / "y.jpg", "PNG")

    assert "not a photo" in reason(tmp_path / "x.png")
    assert decoding.load(tmp_path / "y.jpg", **FULL).width == 60


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_levels_are_brought_to_eight_bits_in_parts_as_in_one(tmp_path, mode):
    kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    levels = np.random.default_rng(0).uniform(0, 60_000, (700, 30)).astype(kind)
    if mode == "F":
        levels[3, 4], levels[5, 6] = np.nan, np.inf
    Image.fromarray(levels).save(tmp_path / "x.tif")
    top = 65535.0
    whole = np.clip(np.nan_to_num(levels.astype(np.float64)) * (255.0 / top), 0, 255).round()

    assert (shown(tmp_path / "x.tif")[..., 0] == whole).all()


def test_a_photo_carries_the_content_of_its_file_even_if_it_cannot_be_decoded(tmp_path):
    gradient().save(tmp_path / "x.png")
    loaded = decoding.load(tmp_path / "x.png", **FULL)
    assert loaded.content == loaded.mirrored().content == source.content(tmp_path / "x.png")

    (tmp_path / "x.png").write_bytes(b"no photo")
    for load in (decoding.load_full, lambda path: decoding.load(path, **FULL)):
        with pytest.raises(source.UnreadableError) as refused:
            load(tmp_path / "x.png")
        assert refused.value.content == source.content(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.gif", "x.ppm", "x.jp2", "x.avif"])
def test_pillow_does_not_warn_of_photos_that_are_within_our_limits(tmp_path, name, monkeypatch):
    gradient(60, 40).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / name).close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoding.load(tmp_path / name, **FULL).width == 60
        assert decoding.shown_size(tmp_path / name) == (60, 40)
        assert decoding.load_crop(tmp_path / name, None, **FULL, least=1)[0].width == 60
        assert decoding.load_window(tmp_path / name, None, margin=0, longer=60, enlarged=1, most=60).width == 60


def test_decoding_leaves_the_filters_of_warnings_as_they_are(tmp_path):
    gradient().save(tmp_path / "x.png")
    script = (
        "import importlib, pathlib, sys, warnings\n"
        "import numpy, PIL.Image\n"
        "before = list(warnings.filters)\n"
        "import udq\n"
        "from udq import Collection\n"
        "for name in ('boxes', 'decoding', 'remote', 'sandbox', 'sandbox_worker', 'source'):\n"
        "    module = importlib.import_module(f'udq.photos.{name}')\n"
        "from udq.photos import decoding\n"
        "assert decoding.load(pathlib.Path(sys.argv[1]), shorter=600, longer=1000).width == 60\n"
        "assert warnings.filters == before, warnings.filters\n"
        "assert PIL.Image.MAX_IMAGE_PIXELS == 2**30 // 12\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "x.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I", "F", "CMYK"])
def test_cropping_is_that_of_pillow(mode):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (83, 131, 3), np.uint8)).convert(mode)
    for _ in range(50):
        (x1, x2), (y1, y2) = (sorted(rng.choice(side, 2, replace=False).tolist()) for side in (132, 84))
        found = scaling._cropped(picture, (x1, y1, x2, y2))
        assert found.tobytes() == picture.crop((x1, y1, x2, y2)).tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"P6 4 4 99999999999\n", "Token too long in file header: 99999999999"),
        (b"P6 abc 5 255\n", "expected a number, found 'abc'"),
        (b"P1 2 2\n 1 4 z", "Invalid token for this mode: 4"),
    ],
)
def test_damage_of_a_ppm_is_reported_without_python_notation(tmp_path, data, says):
    path = tmp_path / "x.ppm"
    path.write_bytes(data)
    with pytest.raises(ImageError) as refused:
        decoding.load(path, **FULL)

    assert str(refused.value) == f"{path}: {says}"
