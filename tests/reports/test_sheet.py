"""Sheets of results: layout, boxes, captions, and the files they are saved to."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageColor

from udq.errors import InputError, UdqError
from udq.reports import sheet as sheets
from udq.reports.palette import QUERY, RIGHT, WRONG
from udq.reports.sheet import Tile, save, sheet


def _photo(width: int = 400, height: int = 300, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def _count(image: Image.Image, colour: str) -> int:
    return int((np.asarray(image) == ImageColor.getrgb(colour)).all(axis=2).sum())


def test_size_follows_rows_columns_and_titles() -> None:
    tile = Tile(_photo(), caption="1. score 0.5\nname.jpg")
    one = sheet([[tile, tile]])
    wider = sheet([[tile, tile, tile]])
    taller = sheet([[tile, tile], [tile]])
    titled = sheet([[tile, tile], [tile]], titles=["a", "b"])
    assert one.mode == "RGB"
    assert wider.height == one.height
    assert wider.width - one.width >= 240
    assert taller.width == one.width
    assert taller.height > 2 * 180 + one.height - 180
    assert titled.height > taller.height
    assert sheet([[tile]], tile_height=360).height > 1.5 * sheet([[tile]]).height
    assert one.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("colour", [RIGHT, WRONG, QUERY])
def test_boxes_show_on_light_and_dark_photos(level: int, colour: str) -> None:
    # A 240 x 180 photo fits its tile without scaling, so the pixels of the box are known.
    tile = Tile(_photo(240, 180, level), (((40.0, 30.0, 200.0, 150.0), colour),))
    image = np.asarray(sheet([[tile]]))
    plain = np.asarray(sheet([[Tile(_photo(240, 180, level))]]))
    rows, columns = np.nonzero((image != plain).any(axis=2))
    margin = 24
    assert (columns.min() - margin, rows.min() - margin) == (40, 30)
    assert (columns.max() + 1 - margin, rows.max() + 1 - margin) == (200, 150)
    across = image[margin + 90, margin + 38 : margin + 50].tolist()
    dark = list(ImageColor.getrgb("#1b1f24"))
    paint = list(ImageColor.getrgb(colour))
    assert across == [[level] * 3] * 2 + [dark] + [paint] * 3 + [dark] + [[level] * 3] * 5


def test_boxes_scale_with_the_photo_and_stay_inside() -> None:
    tall = Tile(_photo(600, 1200), (((-50.0, -50.0, 900.0, 1300.0), RIGHT),))
    image = sheet([[tall]])
    # 600 x 1200 is shown as 90 x 180 in the middle of 240 x 180.
    box = ImageChops.difference(image, sheet([[Tile(_photo(600, 1200))]])).getbbox()
    assert box == (24 + 75, 24, 24 + 165, 24 + 180)


def test_a_tiny_box_is_drawn() -> None:
    tile = Tile(_photo(), (((100.0, 100.0, 101.0, 101.0), RIGHT),))
    assert _count(sheet([[tile]]), RIGHT) > 0


def test_only_the_query_has_a_frame() -> None:
    one, two = Tile(_photo(240, 180)), Tile(_photo(240, 180))
    image = np.asarray(sheet([[one, two]]))
    frame = image[24 + 90, 24 - 2]
    assert frame.tolist() == list(ImageColor.getrgb("#1b1f24"))
    right_of = image[24 + 90, 24 + 240 + 24 :]
    assert not (right_of == ImageColor.getrgb("#1b1f24")).all(axis=1).any()


def test_marks_do_not_depend_on_colour() -> None:
    boxes = (((40.0, 30.0, 200.0, 150.0), RIGHT),)
    right, wrong = (sheet([[Tile(_photo(), boxes, "1. 0.5", mark)]]) for mark in ("right", "wrong"))
    assert ImageChops.difference(right.convert("L"), wrong.convert("L")).getbbox() is not None
    # Below the photo, which stays visible.
    box = ImageChops.difference(right, sheet([[Tile(_photo(), boxes, "1. 0.5")]])).getbbox()
    assert box is not None
    assert box[1] >= 24 + 180


def test_a_long_name_loses_its_middle() -> None:
    font = sheets._Style(180).caption
    name = "holidays/2021/a-very-long-name-of-a-folder/IMG_20210714_183042.jpg"
    fitted = sheets._fitted(name, font, 200)
    start, end = fitted.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert abs(len(start) - len(end)) <= 1
    assert len(start) > 5
    assert font.getlength(fitted) <= 200 < font.getlength(name)
    assert sheets._fitted("short.jpg", font, 200) == "short.jpg"
    assert sheets._fitted(name, font, 1) == "…"


def test_text_stays_inside_its_tile() -> None:
    long = "word " * 100
    image = np.asarray(sheet([[Tile(_photo(), caption=f"{long}\n{long}", mark=long)]], titles=[long]))
    assert (image[:, :16] == 255).all()
    assert (image[:, -16:] == 255).all()


def test_input_is_not_changed() -> None:
    photo = _photo()
    tile = Tile(photo, (((1.0, 1.0, 90.0, 90.0), RIGHT),))
    sheet([[tile]])
    assert (photo == 128).all()
    assert photo.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tile.image[0, 0] = 1


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_a_tile_checks_its_image(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        Tile(image)


def test_sheet_refuses_wrong_arguments() -> None:
    tile = Tile(_photo())
    with pytest.raises(InputError, match="at least one row"):
        sheet([])
    with pytest.raises(InputError, match="1 rows, found 2"):
        sheet([[tile]], titles=["a", "b"])
    with pytest.raises(InputError, match="at least 60"):
        sheet([[tile]], tile_height=5)


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.png", "PNG")])
def test_save_writes_by_suffix_and_leaves_nothing_else(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"older")
    save(sheet([[Tile(_photo())]]), path)
    with Image.open(path) as opened:
        assert opened.format == kind
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.gif", "a", "a.jpg.txt"])
def test_save_refuses_other_suffixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.jpg, \.jpeg or \.png"):
        save(Image.new("RGB", (4, 4)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"older")
    with pytest.raises(UdqError, match=r"a\.jpg: the picture cannot be written") as caught:
        save(Image.new("RGB", (1, 70000)), path)  # more rows than JPEG can hold
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jpg"]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UdqError, match="No such file or directory"):
        save(Image.new("RGB", (4, 4)), tmp_path / "missing" / "a.png")


def test_transparency_becomes_jpeg(tmp_path: Path) -> None:
    save(Image.new("RGBA", (4, 4)), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size > 0


def test_boxes_have_the_same_colours_in_pages() -> None:
    style = (resources.files("udq.reports") / "templates" / "style.css").read_text(encoding="utf-8")
    for kind, colour in (("right", RIGHT), ("wrong", WRONG), ("drawn", QUERY)):
        assert f".box.{kind} {{ stroke: {colour}; }}" in style
