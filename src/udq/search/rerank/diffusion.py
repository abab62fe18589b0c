"""Diffusion: similarity flows from the query over the graph of what the first photos show.

The nodes are the query and the best region of each photo, decoded from its code. Two are joined where each is among the
NEIGHBOURS nearest of the other, by w = max(f . f', 0) ** GAMMA. With S = D^-1/2 W D^-1/2,

    f = (I - ALPHA S)^-1 y,

where y is 1 at the query and its similarity at the SOURCES nearest photos. Photos are ordered by f and, at the weight
MIX, their own similarity to the query, each as a share of the largest: in a graph that falls into pieces f alone would
order those that nothing joins by chance.

A. Iscen et al.: Efficient diffusion on region manifolds: recovering small objects with compact CNN representations.
CVPR 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.search.rerank.ranked import Ranked

# Measured by benchmarks/decisions/rerank.py, which shows how much each matters.
DEPTH = 300
NEIGHBOURS = 20
GAMMA = 3
ALPHA = 0.95
SOURCES = 10
MIX = 0.3


def diffuse(ranked: Ranked) -> Ranked:
    """Order the first photos by what flows to them from the query; the others stay behind them."""
    found = ranked.found(DEPTH)
    return ranked.reordered(np.argsort(-reached(ranked.query, found), kind="stable"))


def reached(
    query: NDArray[np.float32], found: NDArray[np.float32], *, neighbours: int = NEIGHBOURS
) -> NDArray[np.float64]:
    """Return how strongly the query reaches each of some regions, (n,); higher is nearer.

    Args:
        query: (d,) of unit length.
        found: (n, d) of unit length, those of the nearest photos first.
        neighbours: of each node, that it may be joined to.
    """
    if not len(found):
        return np.empty(0)
    nodes = np.concatenate([query[None], found]).astype(np.float64)
    likeness = np.maximum(nodes @ nodes.T, 0) ** GAMMA
    np.fill_diagonal(likeness, 0)
    count = min(neighbours, len(nodes) - 1)
    least = np.partition(likeness, -count, axis=1)[:, -count]
    joined = (likeness >= least[:, None]) & (likeness >= least[None])
    weights = np.where(joined, likeness, 0)
    degree = np.sqrt(np.maximum(weights.sum(axis=1), 1e-12))
    start = np.zeros(len(nodes))
    start[: SOURCES + 1] = likeness[0, : SOURCES + 1]
    start[0] = 1
    flow = np.linalg.solve(np.eye(len(nodes)) - ALPHA * weights / np.outer(degree, degree), start)[1:]
    own = likeness[0, 1:]
    total: NDArray[np.float64] = flow / max(flow.max(), 1e-12) + MIX * own / max(own.max(), 1e-12)
    return total
