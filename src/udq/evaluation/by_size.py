"""Classes of positives by the size of their object: the share of the photo's area that its true box takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from udq.types import Box


class SizeClass(NamedTuple):
    """A range of shares of a photo's area.

    Attributes:
        key: name in a report.
        title: the same in words.
        least: smallest share in the class, 0..1; the next class starts where it ends.
    """

    key: str
    title: str
    least: float


SIZES = (
    SizeClass("below_1", "below 1 %", 0.0),
    SizeClass("1_to_5", "1 to 5 %", 0.01),
    SizeClass("5_to_20", "5 to 20 %", 0.05),
    SizeClass("above_20", "above 20 %", 0.2),
)
"""All classes, smallest first."""


def size_class(box: Box, width: int, height: int) -> str | None:
    """Return the key of a box's class; None if no part of the box is inside its photo.

    Args:
        box: x1, y1, x2, y2 in pixels; only its part inside the photo counts.
        width, height: of the photo in pixels.
    """
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    if x1 >= x2 or y1 >= y2:
        return None
    share = (x2 - x1) * (y2 - y1) / (width * height)
    return next(size.key for size in reversed(SIZES) if share >= size.least)


def by_size(boxes: Mapping[str, Box], photos: Mapping[str, tuple[int, int]]) -> dict[str, frozenset[str]]:
    """Sort photos by the class of the box in them.

    Args:
        boxes: the box in each photo, by name.
        photos: width and height of each photo in pixels, by name; photos without either are left out.

    Returns:
        key -> names, smallest class first; classes without photos are missing.
    """
    found: dict[str | None, set[str]] = {}
    for name in boxes.keys() & photos.keys():
        found.setdefault(size_class(boxes[name], *photos[name]), set()).add(name)
    return {size.key: frozenset(found[size.key]) for size in SIZES if size.key in found}


def with_positives(figures: Mapping[str, Mapping[str, Any]] | None) -> list[tuple[SizeClass, Mapping[str, Any]]]:
    """Return the classes that have positives, smallest first, each with its figures.

    Args:
        figures: ``by_size`` of a report; None if no true box is known.
    """
    return [(size, figures[size.key]) for size in SIZES if figures and figures[size.key]["positives"]]
