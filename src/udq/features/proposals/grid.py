"""Grid proposer: square windows of several scales, evenly spaced over a view. Needs no training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Sides as shares of the photo's shorter side. The smallest windows fit an object of about 3 % of the photo: large
# objects do not need them (docs/regions.md), small ones have no other window.
_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
# Neighbouring windows of one scale overlap by at least this share of their side.
_OVERLAP = 0.4
# A photo longer than this many times its shorter side is divided as if that side were longer: windows one pixel high
# show nothing, and a photo of 65,535 x 1 pixels would have half a million of them.
_LONGEST = 32


def grid(width: float, height: float, *, shorter: float | None = None) -> NDArray[np.float32]:
    """Return the whole view and then the windows, (R, 4) float32; about 110 for a photo of 4:3.

    Args:
        width, height: size of the view.
        shorter: that the sides of windows are shares of; the shorter side of the view if None.
    """
    boxes = [(0.0, 0.0, float(width), float(height))]
    shorter = max(shorter or min(width, height), max(width, height) / _LONGEST)
    for scale in _SCALES:
        across, down = min(scale * shorter, width), min(scale * shorter, height)
        for top in _starts(height, down):
            for left in _starts(width, across):
                boxes.append((left, top, left + across, top + down))
    # The largest window of a square view is the whole view: keep one of them.
    return np.array(list(dict.fromkeys(boxes)), dtype=np.float32)


def _starts(extent: float, side: float) -> NDArray[np.float64]:
    """Return the evenly spaced first coordinates of windows of one side that overlap enough."""
    # Rounding keeps 2.0000001 steps from becoming 3.
    steps = math.ceil(round((extent - side) / (side * (1.0 - _OVERLAP)), 6))
    return np.linspace(0.0, extent - side, steps + 1)
