"""Grid proposer: square windows of several scales, evenly spaced over the photo. Needs no training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from udq.types import Regions

# Sides as shares of the photo's shorter side. The smallest windows fit an object of about 3 % of the photo: large
# objects do not need them (docs/regions.md), small ones have no other window.
_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
# Neighbouring windows of one scale overlap by at least this share of their side.
_OVERLAP = 0.4
# A photo longer than this many times its shorter side is divided as if that side were longer: windows one pixel high
# show nothing, and a photo of 65,535 x 1 pixels would have half a million of them.
_LONGEST = 32


def grid(width: int, height: int) -> Regions:
    """Return the whole photo and then the windows; about 110 regions for a 4:3 photo."""
    boxes = [(0.0, 0.0, float(width), float(height))]
    shorter = max(min(width, height), max(width, height) / _LONGEST)
    for scale in _SCALES:
        across, down = min(scale * shorter, width), min(scale * shorter, height)
        for top in _starts(height, down):
            for left in _starts(width, across):
                boxes.append((left, top, left + across, top + down))
    # The largest window of a square photo is the whole photo: keep one of them.
    return Regions(np.array(list(dict.fromkeys(boxes)), dtype=np.float32))


def _starts(extent: float, side: float) -> NDArray[np.float64]:
    """Return the evenly spaced first coordinates of windows of one side that overlap enough."""
    # Rounding keeps 2.0000001 steps from becoming 3.
    steps = math.ceil(round((extent - side) / (side * (1.0 - _OVERLAP)), 6))
    return np.linspace(0.0, extent - side, steps + 1)
