"""Grid proposer: square windows of several scales, spread evenly over the photo. Needs no training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from udq.types import Regions

# Sides as shares of the photo's shorter side. The smallest see an object of about 3 % of the photo: large objects do
# not need them (docs/regions.md), small ones have nothing else.
_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
# Neighbours of one scale share at least this much of their side.
_OVERLAP = 0.4
# A photo longer than this many times its shorter side is cut as if that side were longer: windows a pixel high have
# nothing to see, and a line of 65,535 pixels would have half a million of them.
_LONGEST = 32


def grid(width: int, height: int) -> Regions:
    """Return the whole photo and every window, the whole photo first; about 110 regions for a 4:3 photo."""
    boxes = [(0.0, 0.0, float(width), float(height))]
    shorter = max(min(width, height), max(width, height) / _LONGEST)
    for scale in _SCALES:
        across, down = min(scale * shorter, width), min(scale * shorter, height)
        for top in _starts(height, down):
            for left in _starts(width, across):
                boxes.append((left, top, left + across, top + down))
    # A square photo's largest window is the whole photo again.
    return Regions(np.array(list(dict.fromkeys(boxes)), dtype=np.float32))


def _starts(extent: float, side: float) -> NDArray[np.float64]:
    """Evenly spread first coordinates of windows of one side, with at least the overlap between neighbours."""
    # Rounding keeps 2.0000001 steps from becoming three.
    steps = math.ceil(round((extent - side) / (side * (1.0 - _OVERLAP)), 6))
    return np.linspace(0.0, extent - side, steps + 1)
