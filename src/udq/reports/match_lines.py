"""Pictures of verified matches: the query beside the photo, with lines between matching points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from udq.photos import decoding, sandbox
from udq.photos.indexed import PhotoPath
from udq.photos.sandbox import Decoder
from udq.reports.palette import INK, LIGHT_SERIES, QUERY, RIGHT
from udq.types import Box, SearchResult, Verification

_GAP = 16  # pixels between photos
# Most lines of a picture: more would hide the photos. They are spread evenly over all inliers.
_LINES = 60
# Most matches of a sheet, and the height of each in pixels.
_ROWS, _ROW_HEIGHT = 8, 320


def sheet(result: SearchResult, photos: Sequence[PhotoPath], decoder: Decoder | None = None) -> Image.Image | None:
    """Draw the first verified matches of a search below each other; return None if no match is verified.

    Args:
        result: of a search with the stage ``verify``.
        photos: the file of each match.
        decoder: as in ``draw``.
    """
    rows: list[Image.Image] = []
    for match, photo in zip(result.matches, photos, strict=True):
        if match.verified is not None and len(rows) < _ROWS:
            example = result.examples[match.verified.example]
            x1, y1, x2, y2 = example.box or ()
            query, box = Path(example.photo), (x1, y1, x2, y2)
            rows.append(draw(query, box, photo, match.verified, height=_ROW_HEIGHT, decoder=decoder))
    if not rows:
        return None
    height = sum(row.height + _GAP for row in rows) - _GAP
    picture = Image.new("RGB", (max(row.width for row in rows), height), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + _GAP
    return picture


def draw(
    query: Path,
    box: Box,
    photo: PhotoPath,
    verification: Verification,
    *,
    height: int = 480,
    decoder: Decoder | None = None,
) -> Image.Image:
    """Draw a query with its box beside a photo with the verified polygon, and lines between matching points.

    Args:
        query: the query photo.
        box: the object in it, x1, y1, x2, y2 in its pixels.
        photo: the photo that was verified.
        verification: the matching points and the polygon.
        height: of both photos in the picture, in pixels; a photo wider than 2:1 gets the width ``2 * height``.
        decoder: decodes the photos; that of this process if None.

    Returns:
        An RGB picture on white; ``sheet.save`` writes it.

    Raises:
        ImageError: one of the photos cannot be decoded now.
    """
    decode = (decoder or sandbox.shared()).decode
    one, other = (decode(each, shorter=height, longer=2 * height) for each in (query, photo))
    left, right = (Image.fromarray(each.pixels) for each in (one, other))
    x1, y1, x2, y2 = box
    start, end = _scale(one), _scale(other)
    _outline(left, np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) * start, QUERY)
    _outline(right, verification.polygon * end, RIGHT)
    picture = Image.new("RGB", (left.width + _GAP + right.width, max(left.height, right.height)), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width + _GAP, 0))
    pen = ImageDraw.Draw(picture)
    offset = np.array([left.width + _GAP, 0.0])
    for number, row in enumerate(_spread(verification)):
        here = verification.query_points[row] * start
        there = verification.photo_points[row] * end + offset
        colour = LIGHT_SERIES[number % len(LIGHT_SERIES)]
        line = [tuple(here.tolist()), tuple(there.tolist())]
        pen.line(line, fill=INK, width=3)
        pen.line(line, fill=colour, width=1)
        for x, y in line:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline=INK)
    return picture


def _scale(photo: decoding.Photo) -> NDArray[np.float64]:
    """Return pixels of the picture per pixel of the photo, (2,) float64: across, down."""
    height, width = photo.pixels.shape[:2]
    return np.array([width / photo.width, height / photo.height])


def _outline(picture: Image.Image, corners: NDArray[np.floating], colour: str) -> None:
    """Draw a polygon with a dark line on either side, visible on light and on dark photos."""
    pen = ImageDraw.Draw(picture)
    outline = [tuple(corner) for corner in (*corners.tolist(), corners[0].tolist(), corners[1].tolist())]
    pen.line(outline, fill=INK, width=6, joint="curve")
    pen.line(outline, fill=colour, width=3, joint="curve")


def _spread(verification: Verification) -> Iterable[int]:
    """Return indices of at most ``_LINES`` inliers, from the top of the query to its bottom."""
    order = np.argsort(verification.query_points[:, 1], kind="stable")
    kept = np.linspace(0, len(order) - 1, min(_LINES, len(order))).round().astype(int)
    indices: list[int] = order[kept].tolist()
    return indices
