"""Checks of the boxes that users draw in photos."""

from __future__ import annotations

import math
from collections.abc import Sequence

from udq.errors import InputError
from udq.types import Box


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return ``box`` as floats, or raise InputError if it is not x1,y1,x2,y2 inside a photo of that size."""
    x1, y1, x2, y2 = check_shape(box)
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise InputError(f"box {listed(box)}: expected a box inside the photo, which is {width} x {height} pixels")
    return x1, y1, x2, y2


def check_shape(box: Sequence[float]) -> Box:
    """Return ``box`` as floats, or raise InputError if it is not x1,y1,x2,y2 of a photo of any size."""
    found = listed(box)
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise InputError(f"box {found}: expected four finite numbers x1,y1,x2,y2")
    x1, y1, x2, y2 = map(float, box)
    if x1 >= x2 or y1 >= y2:
        raise InputError(
            f"box {found}: expected x1 < x2 and y1 < y2 (left, top, right, bottom), found it inverted or empty"
        )
    return x1, y1, x2, y2


def pixels_of(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the whole pixels of a box inside a photo of that size: at least one column and one row.

    Sides are rounded; a box thinner than a pixel that rounding would leave empty is the pixel its middle is in.
    """

    def side(low: float, high: float, end: int) -> tuple[int, int]:
        first, last = round(low), round(high)
        if first < last:
            return first, last
        middle = min(int((low + high) / 2), end - 1)
        return middle, middle + 1

    (x1, x2), (y1, y2) = side(box[0], box[2], width), side(box[1], box[3], height)
    return x1, y1, x2, y2


def listed(box: Sequence[float]) -> str:
    """Return the numbers of a box as users write them, separated by commas."""
    return ",".join(f"{value:g}" for value in box)
