"""The box of the object in a photo, from the distances of all its regions.

Eq. 1 compares a photo by its best region, and that ranks photos well. As a position, the best region is poor: the
features of overlapping windows hardly differ, so codes of a few bytes choose between them by chance, and an object
rarely has the size of a window. Regions together are more accurate. Each region has a weight that falls with its
distance d from the query,

    w = exp(-(d - d_min) / T).

Regions elsewhere in a large photo have little weight each, but there are hundreds. So only those count that overlap
the region with the most support: the one of the heaviest regions whose overlap (IoU) with all regions, times their
weights, sums to the most. Each edge of the box is a weighted quantile of that edge over them. Regions that match a
large object are often windows of a part of it, so its edges are farther out than their median; those that match a
small object are as often larger. The quantile therefore falls from the median for small objects to a fifth for an
object as large as the photo. The whole photo is a region, too. It matches to some degree whatever it shows, so its
weight is

    w = W exp(-(d - d_min) / T' - d_90),

with a lower T', and the distance d_90 that nine of ten regions are below: it is low for a photo that is the object,
such as a scan of a painting, which gets a box of the whole photo. The ranking (eq. 1 and 2) is not affected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError

# T, in squared distances of unit vectors, which range from 0 to 4. If it is much lower, the best region alone decides,
# which is noisy; if it is much higher, the many regions of the background pull the box towards the centre.
_TEMPERATURE = 0.1
# Exponent by which the weight of a region falls with its rank, if the proposer returns its best regions first: these
# are whole objects more often than later ones, but the hundredth still has a tenth of the weight of the first.
_RANK = 0.5
# W and T' of the whole photo, and the share of the regions that are below the distance of the third term.
_WHOLE, _WHOLE_TEMPERATURE, _MOST = 7.3, 0.05, 0.9
# Number of heaviest regions of which one has the most support, and the IoU with it from which on a region counts.
_HEAVIEST, _NEAR = 16, 0.15
# Share of the weight before the left and upper edges, and after the right and lower ones: for the first estimate, for
# objects of no size, and for those of the size of the photo. At most a half, or a box could be empty.
_FIRST, _SMALL, _LARGE = 0.35, 0.5, 0.2


def localise(
    distance: NDArray[np.float32], boxes: NDArray[Any], *, ranked: bool, position: str = "regions"
) -> NDArray[np.float32]:
    """Return the box of the object of each of Q queries in one photo of R regions.

    Edges are edges of regions, so a box is inside the hull of the regions. The constants were chosen on
    all development sets with boxes together (benchmarks/decisions/localisation.py).

    Args:
        distance: (Q, R) float32, finite; expected squared distance of each query and region, unit features.
        boxes: (R, 4) real, R >= 1; x1, y1, x2, y2 of each region, x1 < x2 and y1 < y2.
        ranked: whether the regions are in the order of the proposer, best first.
        position: ``best`` for the box of the best region, as in the paper.

    Returns:
        (Q, 4) float32, x1, y1, x2, y2, in the units of ``boxes``; x1 < x2 and y1 < y2.
    """
    if distance.ndim != 2 or not distance.shape[1] or boxes.shape != (distance.shape[1], 4):
        raise InputError(f"expected distance (Q, R) and boxes (R, 4), found {distance.shape} and {boxes.shape}")
    if position == "best":
        best: NDArray[np.float32] = boxes[distance.argmin(axis=1)].astype(np.float32)
        return best
    found = [_localised(one.astype(np.float64), boxes.astype(np.float64), ranked=ranked) for one in distance]
    return np.array(found, np.float32).reshape(len(distance), 4)


def _localised(distance: NDArray[np.float64], boxes: NDArray[np.float64], *, ranked: bool) -> NDArray[np.float64]:
    """Return the box (4,) of one query."""
    excess = distance - distance.min()
    weights = np.exp(-excess / _TEMPERATURE)
    if ranked:
        weights *= (1.0 + np.arange(len(boxes))) ** -_RANK
    hull = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    whole = (boxes == hull).all(axis=1)
    weights[whole] = _WHOLE * np.exp(-excess[whole] / _WHOLE_TEMPERATURE - np.quantile(distance, _MOST))
    heaviest = np.argsort(-weights, kind="stable")[:_HEAVIEST]
    overlap = _overlap(boxes[heaviest], boxes)
    near = overlap[(overlap @ weights).argmax()] >= _NEAR
    boxes, weights = boxes[near], weights[near]
    first = _quantiles(boxes, weights, _FIRST)
    side = np.sqrt((first[2:] - first[:2]).prod() / (hull[2:] - hull[:2]).prod())
    found = _quantiles(boxes, weights, _SMALL - (_SMALL - _LARGE) * side**1.5)
    return found if (found[:2] < found[2:]).all() else first


def _overlap(some: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU (S, R) of some boxes and all boxes."""
    sides = np.minimum(some[:, None, 2:], boxes[:, 2:]) - np.maximum(some[:, None, :2], boxes[:, :2])
    common = sides.clip(0).prod(axis=2)
    areas, own = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, some))
    overlap: NDArray[np.float64] = common / (own[:, None] + areas - common)
    return overlap


def _quantiles(boxes: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return a box of edges that have a share of the weight outside: the smallest value that reaches it."""
    shares = (share, share, 1.0 - share, 1.0 - share)
    order = np.argsort(boxes, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0)
    rows = (reached >= np.array(shares) * reached[-1]).argmax(axis=0)
    edges: NDArray[np.float64] = np.take_along_axis(boxes, order, axis=0)[rows, np.arange(4)]
    return edges
