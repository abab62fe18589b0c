"""Votes of a query's local features for the photos of a collection, by an inverted multi-index.

Each feature visits the nearest cells of the codebook until they hold ``VISITED`` features of the collection. From about
ten thousand photos on, one cell holds more: then about ``VISITED`` of its features are visited, those that are nearest
by the first bytes of their codes. A visited feature votes for its photo with

    w = max(0, 1 - d^2 / FARTHEST)^2

where d^2 is the squared distance by its code. Of one photo, only the best vote counts, so that repeated patterns do not
(H. Jégou, M. Douze and C. Schmid: On the burstiness of visual elements. CVPR 2009). Votes know no geometry: they find
candidates, which are verified afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udq.common.cores import cores
from udq.common.threads import one_core_each
from udq.keypoints.codebook import SUBSPACES, Codebook, points
from udq.search.scan.kernels import extension, in_threads, plain, read_only

VISITED = 1000
"""Features of the collection that each feature of a query visits, about."""
FARTHEST = 0.7
"""Squared distance from which on a feature does not vote; descriptors have unit length."""

_CELLS = 1 << 16
# Most cells that a feature visits: small collections have few features in each.
_MOST_CELLS = 256
# Features of the query whose votes are counted together.
_TOGETHER = 100
# Bytes of a code that choose among the features of a large cell, and how many features are looked at to say how near
# those must be.
_KEYS, _SAMPLED = 2, 1024


@dataclass(frozen=True)
class MostVoted:
    """The n photos with the most votes, most first; ties are in the order of photos.

    image: int64 (n,), places in ``Database.images``.
    votes: float32 (n,), the sum of the votes for each.
    missing: number of images that could not be asked, as in ``NearestImages``.
    """

    image: NDArray[np.int64]
    votes: NDArray[np.float32]
    missing: int = 0

    @staticmethod
    def of(image: NDArray[np.int64], votes: NDArray[np.float32], count: int, *, missing: int = 0) -> MostVoted:
        """Return the ``count`` images with the most votes, fewer if others have none."""
        order = np.lexsort((image, -votes))[:count]
        order = order[votes[order] > 0]
        return MostVoted(image[order], votes[order], missing)


class Lists(NamedTuple):
    """Local features of some photos by cell.

    rows: (P,) uint32, rows of the features, sorted by cell.
    keys: (P, 2) uint8, the first bytes of their codes.
    starts: (65,537,) uint32, the first of each cell.
    """

    rows: NDArray[np.uint32]
    keys: NDArray[np.uint8]
    starts: NDArray[np.uint32]


@dataclass(frozen=True)
class PointPart:
    """Local features of some photos.

    Attributes:
        points: (P, 24) uint8, as stored.
        starts: (N+1,) int64, where those of each photo begin.
    """

    points: NDArray[np.uint8]
    starts: NDArray[np.int64]

    @cached_property
    def lists(self) -> Lists:
        """Its features by cell."""
        read = points(self.points)
        cells = read["cell"]
        starts = np.zeros(_CELLS + 1, np.uint32)
        np.cumsum(np.bincount(cells, minlength=_CELLS), out=starts[1:])
        rows = np.argsort(cells, kind="stable").astype(np.uint32)
        return Lists(rows, np.ascontiguousarray(read["code"][:, :_KEYS])[rows], starts)

    @cached_property
    def photo_of(self) -> NDArray[np.uint32]:
        """The photo of each feature, (P,)."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.uint32), np.diff(self.starts))


def votes(
    parts: Sequence[PointPart], descriptors: NDArray[np.float32], *, threads: int | None = None
) -> list[NDArray[np.float32]]:
    """Return the sum of the votes for each photo of each part, (N,) float32; the same for any number of threads.

    Args:
        parts: the collection.
        descriptors: (n, 128) float32 of the query.
        threads: one for each ``_TOGETHER`` features, but at most this number; as many as there are cores if None.
    """
    if not len(descriptors) or not any(len(part.points) for part in parts):
        return [np.zeros(len(part.starts) - 1, np.float32) for part in parts]
    sizes = np.sum([np.diff(part.lists.starts.astype(np.int64)) for part in parts], axis=0)
    blocks = [descriptors[start : start + _TOGETHER] for start in range(0, len(descriptors), _TOGETHER)]
    edges = np.linspace(0, len(blocks), min(len(blocks), threads or cores()) + 1).astype(int).tolist()
    with one_core_each():
        by_thread = in_threads(
            lambda start, end: [_votes(parts, sizes, block) for block in blocks[start:end]], pairwise(edges)
        )
    return [np.sum(totals, axis=0) for totals in zip(*chain(*by_thread), strict=True)]


def _votes(
    parts: Sequence[PointPart], sizes: NDArray[np.int64], descriptors: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Return the votes of some features for each photo of each part; ``sizes`` has the features of each cell."""
    found = [np.zeros(len(part.starts) - 1, np.float32) for part in parts]
    codebook = Codebook.shipped()
    cells = codebook.nearest_cells(descriptors, _MOST_CELLS)
    reached = np.cumsum(sizes[cells], axis=1)
    visited = np.minimum((reached < VISITED).sum(axis=1) + 1, _MOST_CELLS)
    tables = codebook.tables(descriptors)
    limits = _limits(parts, cells, visited, reached[np.arange(len(reached)), visited - 1], tables)
    for part, total in zip(parts, found, strict=True):
        stored, lists = plain(part.points), part.lists
        query = cells, visited, limits, tables
        if extension:
            extension.vote(*query, SUBSPACES, *lists, part.photo_of, stored, float(FARTHEST), total)
        else:
            from udq.search.scan import numba_kernels

            numba_kernels.vote(*query, *lists, part.photo_of, read_only(stored), np.float32(FARTHEST), total)
    return found


def _limits(
    parts: Sequence[PointPart],
    cells: NDArray[np.uint16],
    visited: NDArray[np.int64],
    reached: NDArray[np.int64],
    tables: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the largest distance by key of a feature to visit, (n,) float32: about ``VISITED`` are within it.

    Args:
        parts: the collection.
        cells: (n, most) the nearest cells of each feature of the query.
        visited: (n,) number of cells to visit.
        reached: (n,) number of features in these.
        tables: (n, M, K) of the features.
    """
    limits = np.full(len(reached), np.inf, np.float32)
    for i in np.flatnonzero(reached > 2 * VISITED).tolist():
        # Cells of a large collection are alike in all parts: as many as have enough features, spread over all.
        some = parts[:: max(1, int(reached[i]) // _SAMPLED)]
        keys = np.concatenate(
            [
                part.lists.keys[part.lists.starts[cell] : part.lists.starts[int(cell) + 1]]
                for part in some
                for cell in cells[i, : visited[i]]
            ]
        )
        if len(keys):
            distance = tables[i, 0, keys[:, 0]] + tables[i, 1, keys[:, 1]]
            last = min(len(keys) - 1, round(len(keys) * VISITED / reached[i]))
            limits[i] = np.partition(distance, last)[last]
    return limits
