"""Pictures of verified matches: the query beside the photo, with lines between the places that match."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from udq.photos import decoding
from udq.reports.sheet import QUERY, RIGHT
from udq.types import Box, SearchResult, Verification

_INK = "#1b1f24"
_GAP = 16
# More lines hide what they join; these are spread evenly over all.
_LINES = 60
# Matches of a sheet, and pixels of the height of each.
_ROWS, _ROW = 8, 320
# Neighbouring lines can be told apart, for colour-blind eyes as well (after Okabe and Ito).
_COLOURS = ("#56b4e9", "#e69f00", "#f0e442", "#6fd6b0", "#f2a7cf")


def sheet(result: SearchResult, paths: Sequence[Path]) -> Image.Image | None:
    """Draw the first verified matches of a search below each other; None where there are none.

    Args:
        result: of a search with the stage ``verify``.
        paths: where the photo of each match is.
    """
    rows: list[Image.Image] = []
    for match, path in zip(result.matches, paths, strict=True):
        if match.verified is not None and len(rows) < _ROWS:
            example = result.examples[match.verified.example]
            x1, y1, x2, y2 = example.box or ()
            rows.append(draw(Path(example.photo), (x1, y1, x2, y2), path, match.verified, height=_ROW))
    if not rows:
        return None
    height = sum(row.height + _GAP for row in rows) - _GAP
    picture = Image.new("RGB", (max(row.width for row in rows), height), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + _GAP
    return picture


def draw(query: Path, box: Box, photo: Path, verification: Verification, *, height: int = 480) -> Image.Image:
    """Draw a query with its box beside a photo with the verified polygon, and lines between matching places.

    Args:
        query: the query photo.
        box: the object in it, x1, y1, x2, y2 in its pixels.
        photo: the photo that was verified.
        verification: what was found.
        height: of both photos in the picture, in pixels; one that is more than twice as wide is lower.

    Returns:
        An RGB picture on white; ``picture.save`` writes it.

    Raises:
        ImageError: one of the photos cannot be decoded now.
    """
    one, other = (decoding.load(path, shorter=height, longer=2 * height) for path in (query, photo))
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
        colour = _COLOURS[number % len(_COLOURS)]
        line = [tuple(here.tolist()), tuple(there.tolist())]
        pen.line(line, fill=_INK, width=3)
        pen.line(line, fill=colour, width=1)
        for x, y in line:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline=_INK)
    return picture


def _scale(photo: decoding.Photo) -> NDArray[np.float64]:
    """Return pixels of the picture for a pixel of the photo, across and down."""
    height, width = photo.pixels.shape[:2]
    return np.array([width / photo.width, height / photo.height])


def _outline(picture: Image.Image, corners: NDArray[np.floating], colour: str) -> None:
    """Draw a polygon with a dark line on either side, so that it shows on light and on dark photos."""
    pen = ImageDraw.Draw(picture)
    around = [tuple(corner) for corner in (*corners.tolist(), corners[0].tolist(), corners[1].tolist())]
    pen.line(around, fill=_INK, width=6, joint="curve")
    pen.line(around, fill=colour, width=3, joint="curve")


def _spread(verification: Verification) -> Iterable[int]:
    """Return places of at most ``_LINES`` inliers, from the top of the query to its bottom."""
    order = np.argsort(verification.query_points[:, 1], kind="stable")
    kept = np.linspace(0, len(order) - 1, min(_LINES, len(order))).round().astype(int)
    found: list[int] = order[kept].tolist()
    return found
