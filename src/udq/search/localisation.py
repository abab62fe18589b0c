"""Where in a photo the object is: the box that a result reports, from all regions of its photo.

Eq. 1 compares a photo by its best region, and that ranks photos well. As a position that one region is poor: windows
that overlap see much the same of the network's input, so their features hardly differ, and codes of a few bytes decide
between them by chance; besides, an object is rarely as large as a window. The regions together know more. Here each
has a weight that falls with its distance d from the query,

    w = exp(-(d - d_min) / T),

and each edge of the box is a weighted quantile of that edge of all regions: the left and upper edges a little before
the median, the right and lower ones as far behind it. The ranking (eq. 1 and 2) is not touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError

# T, in squared distances of unit vectors, which go from 0 to 4. Much lower and the best region decides alone, with its
# chance; much higher and the background, of which a photo has many regions, pulls the box to the middle.
_TEMPERATURE = 0.1
# Share of the weight before the left and upper edges, and behind the right and lower ones. Windows that match often
# show a part of the object, so that its edges lie further out than the median's. Above 0.5 a box could be empty.
_QUANTILE = 0.35
# Power at which a region's weight falls with its place where the proposer's best come first: those are whole objects
# more often than later ones, but the hundredth still has a tenth of the say of the first.
_RANK = 0.5


def localise(distance: NDArray[np.float32], boxes: NDArray[Any], *, ranked: bool) -> NDArray[np.float32]:
    """Return the box of the object of each of Q queries in one photo of R regions.

    Edges are edges of regions, so a box lies within the regions' hull. It is never empty: regions with at least 0.65
    of the weight have x2 up to the box's x2, each with a smaller x1, so 0.35 of the weight is reached before it.

    Args:
        distance: (Q, R) float32, finite; expected squared distance of each query and region, unit features.
        boxes: (R, 4) real, R >= 1; x1, y1, x2, y2 of each region, x1 < x2 and y1 < y2.
        ranked: whether the regions are in the order of their proposer, which puts the best first.

    Returns:
        (Q, 4) float32, x1, y1, x2, y2, in the unit of the boxes.
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
    """Return, for each row of weights (Q, R), the lowest of the values (R,) that reaches a share of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    found: NDArray[Any] = values[order][(reached >= share * reached[:, -1:]).argmax(axis=1)]
    return found
