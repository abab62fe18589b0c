"""Sheets of results: one row per query, its drawn box first, then the ranked photos with the boxes found."""

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
from udq.reports.palette import EMPTY, INK, QUIET
from udq.types import Box

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@dataclass(frozen=True)
class Tile:
    """One photo of a sheet.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        boxes: each x1, y1, x2, y2 in pixels of ``image`` with a colour, a CSS name or ``#rrggbb``.
        caption: text under the photo; a line too long for the tile loses its middle.
        mark: a word before the caption, such as "right", on the colour of the first box, so that the sheet does not
            depend on colour alone.
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
    """Draw one row per query.

    Args:
        rows: the first tile of each row is the query and gets a frame, the others are its matches.
        titles: a line above each row, one per row.
        tile_height: height of a tile's 4:3 area in pixels, at least 60; the photo is fitted into it.

    Returns:
        An RGB picture on white.

    Raises:
        InputError: no tile, a number of titles that differs from the number of rows, or a ``tile_height`` below 60.
    """
    if not any(rows):
        raise InputError("a picture of results needs at least one row with a tile, found none")
    if titles is not None and len(titles) != len(rows):
        raise InputError(f"expected a title for each of {len(rows)} rows, found {len(titles)}")
    if tile_height < 60:
        raise InputError(f"expected a tile_height of at least 60 pixels, found {tile_height}")
    style = _Style(tile_height)
    lines = max(len(tile.caption.splitlines()) or bool(tile.mark) for row in rows for tile in row)
    columns = max(len(row) for row in rows)
    title_height = style.title_height if titles is not None else 0
    row_height = title_height + tile_height + style.gap // 2 + lines * style.line
    width = 2 * style.margin + columns * (style.width + style.gap)
    height = 2 * style.margin + len(rows) * row_height + (len(rows) - 1) * 2 * style.gap
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = style.margin
    for i, row in enumerate(rows):
        place = top
        if titles is not None:
            title = _fitted(titles[i], style.title, width - 2 * style.margin)
            draw.text((style.margin, place), title, fill=INK, font=style.title)
            place += title_height
        for j, tile in enumerate(row):
            # A wider gap, as well as the frame, separates the query from its matches.
            left = style.margin + j * (style.width + style.gap) + (style.gap if j else 0)
            _draw_tile(picture, tile, (left, place), style, is_query=j == 0)
        top += row_height + 2 * style.gap
    return picture


def file_format(path: Path) -> str:
    """Return Pillow's name for the format of a picture's suffix; raises InputError for an unknown suffix."""
    if path.suffix.lower() not in _FORMATS:
        found = path.suffix or "none"
        raise InputError(f"{path}: expected a suffix of .jpg, .jpeg or .png, found {found}")
    return _FORMATS[path.suffix.lower()]


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically: an older file of that name stays until the new one is complete.

    Args:
        picture: what ``sheet`` returns, or any Pillow image.
        path: its suffix selects the format: ``.jpg``, ``.jpeg`` or ``.png``.

    Raises:
        InputError: an unknown suffix.
        UdqError: the file cannot be written.
    """
    chosen = file_format(path)
    converted = picture.convert("RGB") if chosen == "JPEG" else picture
    # quality has no effect on PNG
    write_with(path, lambda partial: converted.save(partial, chosen, quality=90))


class _Style:
    """Lengths in pixels and fonts, derived from the height of a tile."""

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


def _draw_tile(picture: Image.Image, tile: Tile, corner: tuple[int, int], style: _Style, *, is_query: bool) -> None:
    """Draw a tile whose upper left corner is ``corner``."""
    draw = ImageDraw.Draw(picture)
    left, top = corner
    draw.rectangle((left, top, left + style.width - 1, top + style.height - 1), fill=EMPTY)
    height, width = tile.image.shape[:2]
    scale = min(style.width / width, style.height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = Image.fromarray(tile.image).resize(size, Image.Resampling.LANCZOS)
    for box, colour in tile.boxes:
        x1, y1, x2, y2 = (scale * value for value in box)
        _draw_box(photo, (x1, y1, x2, y2), colour, style.stroke)
    picture.paste(photo, (left + (style.width - size[0]) // 2, top + (style.height - size[1]) // 2))
    if is_query:
        frame = style.gap // 3
        bounds = (left - frame, top - frame, left + style.width - 1 + frame, top + style.height - 1 + frame)
        draw.rectangle(bounds, outline=INK, width=frame)
    top += style.height + style.gap // 2
    indent = _draw_mark(draw, tile, (left, top), style) if tile.mark else 0
    for i, line in enumerate(tile.caption.splitlines()):
        text = _fitted(line, style.caption, style.width - indent)
        draw.text((left + indent, top + i * style.line), text, fill=QUIET if i else INK, font=style.caption)
        indent = 0


def _draw_box(photo: Image.Image, box: Box, colour: str, stroke: int) -> None:
    """Draw a box with a dark line on either side, visible on light and on dark photos."""
    draw = ImageDraw.Draw(photo)
    edge = max(1, stroke // 2)
    outer = stroke + 2 * edge
    # Clipped to the photo, because a box round the whole photo would lose its lines.
    x1 = min(max(round(box[0]), 0), photo.width - 1)
    y1 = min(max(round(box[1]), 0), photo.height - 1)
    x2 = max(min(round(box[2]) - 1, photo.width - 1), x1)
    y2 = max(min(round(box[3]) - 1, photo.height - 1), y1)
    draw.rectangle((x1, y1, x2, y2), outline=INK, width=outer)
    if x2 - x1 > 2 * edge and y2 - y1 > 2 * edge:
        draw.rectangle((x1 + edge, y1 + edge, x2 - edge, y2 - edge), outline=colour, width=stroke)
    else:  # too small for three lines: the colour alone
        draw.rectangle((x1, y1, x2, y2), outline=colour)


def _draw_mark(draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], style: _Style) -> int:
    """Draw the mark at the start of the caption's first line; return the caption's indent in pixels."""
    colour = tile.boxes[0][1] if tile.boxes else EMPTY
    red, green, blue = ImageColor.getrgb(colour)[:3]
    ink = INK if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "white"
    pad = style.gap // 3
    text = _fitted(tile.mark, style.caption, style.width - 2 * pad)
    left, top = corner
    right = left + 2 * pad + math.ceil(style.caption.getlength(text))
    draw.rounded_rectangle((left, top - pad // 2, right, top + style.line - pad // 2), pad, fill=colour)
    draw.text((left + pad, top), text, fill=ink, font=style.caption)
    return right - left + 2 * pad


def _fitted(text: str, font: _Font, width: float) -> str:
    """Return the text at most ``width`` pixels wide; a longer one has an ellipsis for its middle."""
    text = shown(text)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shortened = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if font.getlength(shortened) <= width:
            return shortened
    return "…"
