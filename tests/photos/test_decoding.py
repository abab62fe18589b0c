"""Photos as a viewer shows them, whatever the file; broken ones in one line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udq.common.text import shown as names_shown
from udq.errors import ImageError, InputError
from udq.photos import boxes, decoding
from udq.photos import source as photo_source

FULL = {"shorter": 600, "longer": 1000}


def gradient(width=60, height=40):
    """An RGB photo whose four corners differ."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).round().astype(np.uint8))


def shown(path):
    return np.asarray(decoding.load_full(path)).astype(int)


def reason(path):
    """What both ways to read a photo say about a broken one: one line that names it."""
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

    assert "more than the limit of 150 megapixels" in reason(tmp_path / "bomb.png")


def test_a_photo_of_one_very_long_side_is_refused(tmp_path):
    Image.new("L", (70_000, 2)).save(tmp_path / "line.png")

    assert "65535 a side" in reason(tmp_path / "line.png")


def test_a_turned_photo_with_text_for_a_number_in_its_exif_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    gradient().save(tmp_path / "x.jpg", exif=exif)
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data.replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02"))  # now the width

    assert "not an integer" in reason(tmp_path / "x.jpg")


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
def test_every_way_to_read_a_photo_tells_the_same_size(tmp_path, name, orientation):
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
    ("box", "says"),
    [
        ((10, 0, 5, 5), "x1 < x2 and y1 < y2"),
        ((0, 5, 5, 5), "inverted or empty"),
        ((-1, 0, 5, 5), "inside the photo, which is 60 x 40 pixels"),
        ((0, 0, 61, 5), "inside the photo"),
        ((0, 0, 5, float("nan")), "four finite numbers"),
        ((0, 0, 5, float("inf")), "four finite numbers"),
        ((0, 0, 5), "four finite numbers"),
    ],
)
def test_a_box_that_cannot_be_is_refused(box, says):
    with pytest.raises(InputError) as refused:
        boxes.check_box(box, 60, 40)

    assert says in str(refused.value)


def test_photos_are_named_by_their_path_below_the_folder(tmp_path):
    for name in ("b.jpg", "a/deep/c.PNG", "a/notes.txt", ".hidden.jpg", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, passed_over = photo_source.find([tmp_path])

    assert [source.name for source in found] == ["a/deep/c.PNG", "b.jpg"]
    assert passed_over == 1
    assert [source.name for source in photo_source.find([tmp_path / "b.jpg", tmp_path / "a"])[0]] == [
        "b.jpg",
        "deep/c.PNG",
    ]
    assert len(photo_source.find([tmp_path, tmp_path / "b.jpg"])[0]) == 2  # the same photo twice is one


def test_what_names_no_photo_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").touch()
    for twin in ("one", "two"):
        (tmp_path / twin).mkdir()
        (tmp_path / twin / "same.jpg").touch()
    for arguments, says in (
        (["nowhere"], "no such file or folder"),
        (["empty"], "no photo found (0 other files)"),
        (["x.txt"], "found the suffix '.txt'"),
        (["one", "two"], "two photos would be named 'same.jpg'"),
    ):
        with pytest.raises(InputError) as refused:
            photo_source.find([tmp_path / argument for argument in arguments])
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)


def read_by(path):
    """Why a file cannot be read, as every way to open one says it."""
    said = set()
    for ask in (
        photo_source.content,
        decoding.shown_size,
        decoding.load_full,
        lambda path: decoding.load(path, **FULL),
    ):
        with pytest.raises(ImageError) as refused:
            ask(path)
        said.add(str(refused.value))
    (line,) = said
    assert "\n" not in line
    return line


@contextlib.contextmanager
def unprivileged():
    """Run as a user whom permissions hold off; a folder that such a user can reach comes along."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        try:
            yield Path(folder), lambda: os.seteuid(65534) if root else None
        finally:
            if root:
                os.seteuid(0)
            for path in sorted(Path(folder).rglob("*")):
                path.chmod(0o755)


ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="no such files there")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems refuse such names themselves")


@ON_POSIX
def test_what_is_no_file_of_bytes_is_a_source_that_says_so_and_never_waits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    os.mkfifo("fifo.jpg")
    socket.socket(socket.AF_UNIX).bind("socket.jpg")
    Path("gone.jpg").symlink_to("nowhere.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    Path("device.jpg").symlink_to("/dev/zero")
    found = {source.name: read_by(source.path) for source in photo_source.find([tmp_path])[0]}

    assert found == {
        "fifo.jpg": f"{tmp_path}/fifo.jpg: not a regular file",
        "socket.jpg": f"{tmp_path}/socket.jpg: not a regular file",
        "device.jpg": f"{tmp_path}/device.jpg: not a regular file",
        "gone.jpg": f"{tmp_path}/gone.jpg: a link to a file that is not there",
        "loop.jpg": f"{tmp_path}/loop.jpg: Too many levels of symbolic links",
    }
    assert [source.name for source in photo_source.find(["fifo.jpg", "gone.jpg"])[0]] == ["fifo.jpg", "gone.jpg"]


@ON_POSIX
def test_links_are_photos_of_their_own_name_and_linked_folders_are_not_entered(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    gradient().save(photos / "one.png")
    (photos / "two.png").symlink_to("one.png")
    (photos / "back").symlink_to(photos)
    (tmp_path / "linked").symlink_to(photos)

    assert [source.name for source in photo_source.find([photos])[0]] == ["one.png", "two.png"]
    assert [source.name for source in photo_source.find([tmp_path / "linked"])[0]] == ["one.png", "two.png"]
    assert (shown(photos / "one.png") == shown(photos / "two.png")).all()


@ON_POSIX
def test_what_permissions_hide_is_named(tmp_path):
    with unprivileged() as (folder, drop):
        (folder / "closed").mkdir()
        (folder / "secret.jpg").touch()
        (folder / "secret.jpg").chmod(0)
        (folder / "closed").chmod(0)
        drop()
        found = {source.name: read_by(source.path) for source in photo_source.find([folder])[0]}
        with pytest.raises(InputError, match="closed: no permission to read it; expected a folder of photos"):
            photo_source.find([folder / "closed"])

    assert found == {
        "closed": f"{folder}/closed: no permission to read it",
        "secret.jpg": f"{folder}/secret.jpg: no permission to read it",
    }


@ON_LINUX
def test_names_of_any_bytes_are_photos(tmp_path):
    names = [
        b"caf\xe9.jpg",
        b"two\nlines.jpg",
        b"\x1b[31m.jpg",
        b"quote'\".jpg",
        b"a.JPG",
        b"A.jpg",
        b"A.JPG",
        b"\xff.jpg",
    ]
    for name in names:
        gradient().save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), "JPEG")
    found, _ = photo_source.find([tmp_path])

    assert sorted(os.fsencode(source.name) for source in found) == sorted(names)
    for source in found:
        assert decoding.load(source.path, **FULL).width == 60
        source.path.write_bytes(b"")
        with pytest.raises(ImageError) as refused:
            decoding.load(source.path, **FULL)
        assert str(refused.value) == f"{names_shown(str(source.path))}: empty file"


@ON_LINUX
def test_paths_longer_than_the_system_takes_are_named(tmp_path):
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(17):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        Path("x.jpg").touch()
    finally:
        os.chdir(before)
    found, _ = photo_source.find([tmp_path])

    assert len(found) == 1
    with pytest.raises(ImageError, match=": File name too long"):
        photo_source.content(found[0].path)
    with pytest.raises(InputError, match="no such file or folder"):
        photo_source.find([tmp_path / ("x" * 5000 + ".jpg")])


def test_a_file_of_too_many_bytes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "x.tif").open("wb") as file:
        file.truncate(photo_source.MAX_BYTES + 1)

    with pytest.raises(ImageError, match="more than the limit of 512 MiB a file; scale it down or compress it"):
        photo_source.content(tmp_path / "x.tif")


def test_the_content_of_a_file_is_told_without_decoding_it(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    os.utime(tmp_path / "x.jpg", ns=(1, 1_234_567_890_123_456_700))
    found = photo_source.content(tmp_path / "x.jpg")

    assert found == photo_source.Content(
        8, (tmp_path / "x.jpg").stat().st_mtime_ns, hashlib.blake2b(b"no photo", digest_size=16).digest()
    )
    with pytest.raises(ValueError, match="expected 16 bytes, found 2"):
        photo_source.Content(8, 0, b"ab")


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
    top = 255.0 if mode == "F" else 65535.0
    whole = np.clip(np.nan_to_num(levels.astype(np.float64)) * (255.0 / top), 0, 255).round()

    assert (shown(tmp_path / "x.tif")[..., 0] == whole).all()
