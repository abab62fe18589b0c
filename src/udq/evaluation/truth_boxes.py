"""The boxes of a ground truth, checked against the photos that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from udq.common.text import counted, shown
from udq.config import MAX_MEGAPIXELS
from udq.datasets import GroundTruth, Query
from udq.errors import ImageError, InputError
from udq.photos import boxes, decoding
from udq.types import Box

# Pixels that a box may reach beyond its photo: corners in official files are rounded.
_ROUNDED = 1.0
# Faults that a message names.
_SHOWN = 10


def inside(
    truth: GroundTruth,
    paths: Mapping[str, Path],
    photos: Mapping[str, Path],
    sizes: Mapping[str, tuple[int, int]] | None = None,
    *,
    limit: int = MAX_MEGAPIXELS,
) -> tuple[Box | None, ...]:
    """Return the box of each query, x1, y1, x2, y2 inside its photo; None for the whole photo.

    A box that reaches less than a pixel beyond its photo is clipped.

    Args:
        truth: queries and answers, by the names of photos in the database.
        paths: path of each query photo, by name.
        photos: path of each photo of the database, by name.
        sizes: width and height in pixels of each, as a viewer shows it; read from the files if None.
        limit: the largest number of megapixels of a query photo.

    Raises:
        InputError: a box of a query, or one of a positive in a ground truth of one's own, is not inside its photo. The
            first ten are named by file and row. Official annotations of positives are not checked.
        ImageError: a query photo cannot be read.
    """
    found: list[Box | None] = []
    faults: list[str] = []
    for query in truth.queries:
        try:
            if query.box is None:
                found.append(None)
            else:
                found.append(_clipped(query.box, *decoding.shown_size(paths[query.image], limit=limit)))
        except InputError as error:
            faults.append(f"{_place(query)}: {error}")
        if truth.official is None:
            faults += _of_positives(query, photos, sizes)
    if faults:
        more = f"; and {counted(len(faults) - _SHOWN, 'more box', 'more boxes')}" if len(faults) > _SHOWN else ""
        raise InputError(
            f"{'; '.join(faults[:_SHOWN])}{more}; the boxes of a ground truth refer to its own photos, at full size"
        )
    return tuple(found)


def _of_positives(
    query: Query, photos: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]] | None
) -> Iterator[str]:
    """Yield a line for each box that is not inside its photo, if the photo is in the database and can be read."""
    for name in sorted(query.boxes.keys() & photos.keys()):
        try:
            _clipped(query.boxes[name], *(decoding.shown_size(photos[name]) if sizes is None else sizes[name]))
        except InputError as error:
            yield f"{_place(query)}: positive {shown(name)}: {error}"
        except ImageError:
            continue


def _place(query: Query) -> str:
    return f"{query.place}: query {shown(query.image)}" if query.place else f"query {shown(query.image)}"


def _clipped(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    if min(x1, y1) > -_ROUNDED and x2 < width + _ROUNDED and y2 < height + _ROUNDED:
        clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
            return clipped
    return boxes.check_box(box, width, height)
