"""Pictures of results: a row a query, its drawn box first, then the ranked photos with the boxes found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from udq.common.files import write_with
from udq.common.text import shown
from udq.errors import InputError
from udq.types import Box

# Blue, orange and yellow stay apart for colour-blind eyes (after Okabe and Ito, lightened for use on photos).
RIGHT = "#3d9cff"
WRONG = "#ff9626"
QUERY = "#ffe14d"

_INK = "#1b1f24"
_QUIET = "#5c6670"
_EMPTY = "#eef0f2"
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@dataclass(frozen=True)
class Tile:
    """One photo of a sheet.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        boxes: each x1, y1, x2, y2 in pixels of ``image`` with a colour, a CSS name or ``#rrggbb``.
        caption: text under the photo; each line too long for the tile loses its middle.
        mark: a word before the caption, such as "right", on the first box's colour: for whom colours say
            little. It stands under the photo, where it hides nothing.
    """

    image: NDArray[np.uint8]
    boxes: tuple[tuple[Box, str], ...] = ()
    caption: str = ""
    mark: str = ""

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            found = f"{image.dtype} of shape {image.shape}"
            raise ValueError(f"image: expected uint8 of shape (H, W, 3), found {found}")
        view = image.view()
        view.flags.writeable = False
        object.__setattr__(self, "image", view)


def sheet(
    rows: Sequence[Sequence[Tile]], *, titles: Sequence[str] | None = None, tile_height: int = 180
) -> Image.Image:
    """Draw one row a query.

    Args:
        rows: the first tile of each is the query and gets a frame of its own, the others are its matches.
        titles: a line above each row, as many as rows.
        tile_height: height of a photo's 4:3 place in pixels, at least 60; the photo is fitted into it.

    Returns:
        An RGB picture on white.

    Raises:
        InputError: no tile at all, another number of titles than of rows, or too small a tile.
    """
    if not any(rows):
        raise InputError("a picture of results needs at least one row with a tile, found none")
    if titles is not None and len(titles) != len(rows):
        raise InputError(f"expected a title for each of {len(rows)} rows, found {len(titles)}")
    if tile_height < 60:
        raise InputError(f"expected a tile_height of at least 60 pixels, found {tile_height}")
    look = _Style(tile_height)
    lines = max(len(tile.caption.splitlines()) or bool(tile.mark) for row in rows for tile in row)
    columns = max(len(row) for row in rows)
    title_height = look.title_height if titles is not None else 0
    row_height = title_height + tile_height + look.gap // 2 + lines * look.line
    width = 2 * look.margin + columns * (look.width + look.gap)
    height = 2 * look.margin + len(rows) * row_height + (len(rows) - 1) * 2 * look.gap
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = look.margin
    for i, row in enumerate(rows):
        place = top
        if titles is not None:
            title = _fitted(titles[i], look.title, width - 2 * look.margin)
            draw.text((look.margin, place), title, fill=_INK, font=look.title)
            place += title_height
        for j, tile in enumerate(row):
            # The query stands apart from its matches by a wider gap as well as by its frame.
            left = look.margin + j * (look.width + look.gap) + (look.gap if j else 0)
            _draw_tile(picture, tile, (left, place), look, is_query=j == 0)
        top += row_height + 2 * look.gap
    return picture


def file_format(path: Path) -> str:
    """Return Pillow's name of the format that a picture's suffix asks for; raises InputError for any other."""
    if path.suffix.lower() not in _FORMATS:
        found = path.suffix or "none"
        raise InputError(f"{path}: expected a suffix of .jpg, .jpeg or .png, found {found}")
    return _FORMATS[path.suffix.lower()]


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; an older file of that name stays until the new one is complete.

    Args:
        picture: what ``sheet`` returns, or any Pillow image.
        path: its suffix says the format: ``.jpg``, ``.jpeg`` or ``.png``.

    Raises:
        InputError: another suffix.
        UdqError: the file cannot be written.
    """
    chosen = file_format(path)
    shown = picture.convert("RGB") if chosen == "JPEG" else picture
    # PNG has no quality and takes no notice.
    write_with(path, lambda partial: shown.save(partial, chosen, quality=90))


class _Style:
    """Measures of a sheet that follow from the tile's height: lengths in pixels, fonts."""

    def __init__(self, tile_height: int) -> None:
        self.height = tile_height
        self.width = round(tile_height * 4 / 3)
        self.gap = max(8, tile_height // 15)
        self.margin = 2 * self.gap
        self.stroke = max(2, tile_height // 60)
        self.caption = ImageFont.load_default(max(11, tile_height // 13))
        self.title = ImageFont.load_default(max(13, tile_height // 10))
        self.line = round(_font_height(self.caption) * 1.15)
        self.title_height = round(_font_height(self.title) * 1.5)


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font_height(font: _Font) -> float:
    _, top, _, bottom = font.getbbox("Åy")
    return bottom - min(top, 0)


def _draw_tile(picture: Image.Image, tile: Tile, corner: tuple[int, int], look: _Style, *, is_query: bool) -> None:
    """Draw a tile with its place's upper left corner at ``corner``."""
    draw = ImageDraw.Draw(picture)
    left, top = corner
    draw.rectangle((left, top, left + look.width - 1, top + look.height - 1), fill=_EMPTY)
    height, width = tile.image.shape[:2]
    scale = min(look.width / width, look.height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = Image.fromarray(tile.image).resize(size, Image.Resampling.LANCZOS)
    for box, colour in tile.boxes:
        x1, y1, x2, y2 = (scale * value for value in box)
        _draw_box(photo, (x1, y1, x2, y2), colour, look.stroke)
    picture.paste(photo, (left + (look.width - size[0]) // 2, top + (look.height - size[1]) // 2))
    if is_query:
        frame = look.gap // 3
        bounds = (left - frame, top - frame, left + look.width - 1 + frame, top + look.height - 1 + frame)
        draw.rectangle(bounds, outline=_INK, width=frame)
    top += look.height + look.gap // 2
    indent = _draw_mark(draw, tile, (left, top), look) if tile.mark else 0
    for i, line in enumerate(tile.caption.splitlines()):
        text = _fitted(line, look.caption, look.width - indent)
        draw.text((left + indent, top + i * look.line), text, fill=_QUIET if i else _INK, font=look.caption)
        indent = 0


def _draw_box(photo: Image.Image, box: Box, colour: str, stroke: int) -> None:
    """Draw a box with a dark line on either side, so that it shows on light and on dark photos."""
    draw = ImageDraw.Draw(photo)
    edge = max(1, stroke // 2)
    outer = stroke + 2 * edge
    # Kept inside the photo, or a box of the whole photo would lose its lines.
    x1 = min(max(round(box[0]), 0), photo.width - 1)
    y1 = min(max(round(box[1]), 0), photo.height - 1)
    x2 = max(min(round(box[2]) - 1, photo.width - 1), x1)
    y2 = max(min(round(box[3]) - 1, photo.height - 1), y1)
    draw.rectangle((x1, y1, x2, y2), outline=_INK, width=outer)
    if x2 - x1 > 2 * edge and y2 - y1 > 2 * edge:
        draw.rectangle((x1 + edge, y1 + edge, x2 - edge, y2 - edge), outline=colour, width=stroke)
    else:  # too small for three lines: the colour alone
        draw.rectangle((x1, y1, x2, y2), outline=colour)


def _draw_mark(draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], look: _Style) -> int:
    """Draw the mark at the start of the caption's first line; return how far the caption moves, in pixels."""
    colour = tile.boxes[0][1] if tile.boxes else _EMPTY
    red, green, blue = ImageColor.getrgb(colour)[:3]
    ink = _INK if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "white"
    pad = look.gap // 3
    text = _fitted(tile.mark, look.caption, look.width - 2 * pad)
    left, top = corner
    right = left + 2 * pad + math.ceil(look.caption.getlength(text))
    draw.rounded_rectangle((left, top - pad // 2, right, top + look.line - pad // 2), pad, fill=colour)
    draw.text((left + pad, top), text, fill=ink, font=look.caption)
    return right - left + 2 * pad


def _fitted(text: str, font: _Font, width: float) -> str:
    """Return the text, or its beginning and end around an ellipsis, not wider than ``width`` pixels."""
    text = shown(text)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shortened = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if font.getlength(shortened) <= width:
            return shortened
    return "…"
