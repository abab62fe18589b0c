"""Diffusion: similarity flows from the query through a graph of the best regions of the first photos.

The nodes are the query and the best region of each photo, decoded from its code. Two nodes are joined if each is among
the k nearest of the other, with weight w = max(f . f', 0) ** GAMMA. With S = D^-1/2 W D^-1/2,

    f = (I - ALPHA S)^-1 y,

where y is 1 at the query and its similarity at the SOURCES nearest photos. Photos are ordered by the sum of f and, with
weight MIX, their own similarity to the query, each divided by its maximum: if the graph is not connected, f alone would
order the photos that are not joined to the query by chance.

How far similarity flows follows the query: k is PER_MATCH for each photo that counts as found
(``udq.search.confidence``), NEIGHBOURS at most. With fewer than LEAST such photos the ranking stays as it is: an object
that one photo shows has other things for neighbours.

A. Iscen et al.: Efficient diffusion on region manifolds: recovering small objects with compact CNN representations.
CVPR 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.search.rerank.ranked import RankedQuery

# Chosen by benchmarks/decisions/rerank.py, which measures the effect of each, and benchmarks/decisions/pipeline.py,
# which has objects of few photos.
DEPTH = 300
NEIGHBOURS = 20
PER_MATCH, LEAST = 3, 2
GAMMA = 3
ALPHA = 0.95
SOURCES = 10
MIX = 0.3


def diffuse(ranked: RankedQuery) -> RankedQuery:
    """Reorder the first photos that are not verified, one of each content, by their diffusion scores.

    Verified photos keep their ranks: what agrees on the place of the object is better evidence than what is similar to
    similar photos. Photos after the first ones stay behind them.
    """
    stacks = ranked.stacks(DEPTH)
    matches = sum(ranked.is_sure(stack) and not ranked.shows_example(stack) for stack in stacks)
    if matches < LEAST:
        return ranked
    neighbours = min(PER_MATCH * matches, NEIGHBOURS)
    scores = diffusion_scores(ranked.query, ranked.best_regions(stacks), neighbours=neighbours)
    by_score = np.argsort(-scores, kind="stable")
    free = np.array([stack.places[0] not in ranked.ranking.verified for stack in stacks])
    order = np.arange(len(stacks))
    order[free] = by_score[free[by_score]]
    return ranked.reordered(order)


def diffusion_scores(
    query: NDArray[np.float32], regions: NDArray[np.float32], *, neighbours: int
) -> NDArray[np.float64]:
    """Return the diffusion score of each region, (n,); higher is more similar to the query.

    Args:
        query: (d,) of unit length.
        regions: (n, d) of unit length, those of the nearest photos first.
        neighbours: number of nearest nodes that a node may be joined to.
    """
    if not len(regions):
        return np.empty(0)
    nodes = np.concatenate([query[None], regions]).astype(np.float64)
    likeness = np.maximum(nodes @ nodes.T, 0) ** GAMMA
    np.fill_diagonal(likeness, 0)
    count = min(neighbours, len(nodes) - 1)
    least = np.partition(likeness, -count, axis=1)[:, -count]
    joined = (likeness >= least[:, None]) & (likeness >= least[None])
    weights = np.where(joined, likeness, 0)
    degree = np.sqrt(np.maximum(weights.sum(axis=1), 1e-12))
    own = likeness[0, 1:]
    start = np.concatenate([[1], np.where(np.arange(len(own)) < SOURCES, own, 0)])
    flow = np.linalg.solve(np.eye(len(nodes)) - ALPHA * weights / np.outer(degree, degree), start)[1:]
    total: NDArray[np.float64] = flow / max(flow.max(), 1e-12) + MIX * own / max(own.max(), 1e-12)
    return total
