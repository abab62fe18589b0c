"""Votes of a query's local features for the photos of a collection, by an inverted multi-index.

Each feature visits the nearest cells of the codebook until they hold ``VISITED`` features of the collection; from about
ten thousand photos on, one cell holds more, and the time grows with the collection (benchmarks/speed/verify.py). A
visited feature votes for its photo with

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
    def lists(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Rows of the features, sorted by cell, (P,), and the first of each cell, (65,537,)."""
        cells = points(self.points)["cell"]
        starts = np.zeros(_CELLS + 1, np.uint32)
        np.cumsum(np.bincount(cells, minlength=_CELLS), out=starts[1:])
        return np.argsort(cells, kind="stable").astype(np.uint32), starts

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
    sizes = np.sum([np.diff(part.lists[1].astype(np.int64)) for part in parts], axis=0)
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
    for part, total in zip(parts, found, strict=True):
        rows, starts = part.lists
        stored = plain(part.points)
        if extension:
            extension.vote(
                cells, visited, tables, SUBSPACES, rows, starts, part.photo_of, stored, float(FARTHEST), total
            )
        else:
            from udq.search.scan import numba_kernels

            numba_kernels.vote(
                cells, visited, tables, rows, starts, part.photo_of, read_only(stored), np.float32(FARTHEST), total
            )
    return found
