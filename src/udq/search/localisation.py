"""The box of the object in a photo, from the distances of all its regions.

Eq. 1 compares a photo by its best region, and that ranks photos well. As a position, the best region is poor: the
features of overlapping windows hardly differ, so codes of a few bytes choose between them by chance, and an object
rarely has the size of a window. All regions together are more accurate. Each region has a weight that falls with its
distance d from the query,

    w = exp(-(d - d_min) / T),

and each edge of the box is a weighted quantile of that edge over all regions: somewhat below the median for the left
and upper edges, and as far above it for the right and lower ones. The ranking (eq. 1 and 2) is not affected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError

# T, in squared distances of unit vectors, which range from 0 to 4. If it is much lower, the best region alone decides,
# which is noisy; if it is much higher, the many regions of the background pull the box towards the centre.
_TEMPERATURE = 0.1
# Share of the weight before the left and upper edges, and after the right and lower ones. Windows that match often
# contain only a part of the object, so its edges are farther out than the median. Above 0.5 a box could be empty.
_QUANTILE = 0.35
# Exponent by which the weight of a region falls with its rank, if the proposer returns its best regions first: these
# are whole objects more often than later ones, but the hundredth still has a tenth of the weight of the first.
_RANK = 0.5


def localise(distance: NDArray[np.float32], boxes: NDArray[Any], *, ranked: bool) -> NDArray[np.float32]:
    """Return the box of the object of each of Q queries in one photo of R regions.

    Edges are edges of regions, so a box is inside the hull of the regions. It is never empty: regions with at least
    0.65 of the weight end at or before the x2 of the box, and each has a smaller x1, so x1 reaches 0.35 before that.

    Args:
        distance: (Q, R) float32, finite; expected squared distance of each query and region, unit features.
        boxes: (R, 4) real, R >= 1; x1, y1, x2, y2 of each region, x1 < x2 and y1 < y2.
        ranked: whether the regions are in the order of the proposer, best first.

    Returns:
        (Q, 4) float32, x1, y1, x2, y2, in the units of ``boxes``.
    """
    if distance.ndim != 2 or not distance.shape[1] or boxes.shape != (distance.shape[1], 4):
        raise InputError(f"expected distance (Q, R) and boxes (R, 4), found {distance.shape} and {boxes.shape}")
    nearest = distance.min(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp((nearest - distance) / _TEMPERATURE)
    if ranked:
        weights *= (1.0 + np.arange(len(boxes))) ** -_RANK
    shares = (_QUANTILE, _QUANTILE, 1.0 - _QUANTILE, 1.0 - _QUANTILE)
    edges = [_quantile(edge, weights, share) for edge, share in zip(boxes.T, shares, strict=True)]
    return np.stack(edges, axis=1).astype(np.float32)


def _quantile(values: NDArray[Any], weights: NDArray[np.float64], share: float) -> NDArray[Any]:
    """Return, for each row of weights (Q, R), the smallest of the values (R,) that reaches a share of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    quantile: NDArray[Any] = values[order][(reached >= share * reached[:, -1:]).argmax(axis=1)]
    return quantile
