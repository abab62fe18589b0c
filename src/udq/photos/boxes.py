"""Checks of the boxes that users draw in photos."""

from __future__ import annotations

import math
from collections.abc import Sequence

from udq.common.text import one_line
from udq.errors import InputError
from udq.types import Box

_EXPECTED = "expected four finite numbers x1,y1,x2,y2 (left, top, right, bottom)"


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return ``box`` as floats, or raise InputError if it is not x1,y1,x2,y2 inside a photo of that size."""
    x1, y1, x2, y2 = check_shape(box)
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise InputError(
            f"box {listed(box)}: expected x1,y1,x2,y2 (left, top, right, bottom) inside the photo, which is {width} x "
            f"{height} pixels"
        )
    return x1, y1, x2, y2


def check_shape(box: Sequence[float]) -> Box:
    """Return ``box`` as floats, or raise InputError if it is not x1,y1,x2,y2 of a photo of any size."""
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        raise InputError(f"box {one_line(repr(box))[:80]}: {_EXPECTED}") from None
    found = listed(numbers)
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise InputError(f"box {found}: {_EXPECTED}")
    x1, y1, x2, y2 = numbers
    if x1 >= x2 or y1 >= y2:
        # Its last two numbers may be a size; a size that is larger than the corner cannot be told from a corner.
        corners = f"; if it is x,y,width,height, write {listed((x1, y1, x1 + x2, y1 + y2))}" if x2 > 0 < y2 else ""
        raise InputError(
            f"box {found}: expected x1 < x2 and y1 < y2 (left, top, right, bottom), found it inverted or empty{corners}"
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
