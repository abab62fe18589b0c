"""What stages of post-processing hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq import scan
from udq.ranking import Ranking, rank_by, regions_of
from udq.types import Codes, Features

if TYPE_CHECKING:
    from udq.collection import Collection


@dataclass(frozen=True)
class Ranked:
    """A query and its ranking.

    Attributes:
        collection: what was searched.
        query: (d,) float32, a feature f of unit length.
        lookup: (M, K) tables of the query.
        ranking: the nearest photos, best first, or all.
        wanted: how many photos a ranking is to hold; all where None.
        without: places in ``Collection.images`` that no ranking holds, as a benchmark's own query photo.
    """

    collection: Collection
    query: NDArray[np.float32]
    lookup: NDArray[np.float32]
    ranking: Ranking
    wanted: int | None
    without: tuple[int, ...]

    @staticmethod
    def by(
        collection: Collection, query: NDArray[np.float32], *, wanted: int | None, without: tuple[int, ...] = ()
    ) -> Ranked:
        """Rank the photos of a collection by a query; everything else as in the attributes."""
        lookup = collection.model.quantizer.lookup_tables(query)
        ranking = rank_by(collection, lookup, k=None if wanted is None else wanted + len(without))
        if without:
            ranking = replace(ranking, order=ranking.order[~np.isin(ranking.order, without)][:wanted])
        return Ranked(collection, query, lookup, ranking, wanted, without)

    def again(self, query: NDArray[np.float32]) -> Ranked:
        """Rank by another query."""
        return Ranked.by(self.collection, query, wanted=self.wanted, without=self.without)

    def reordered(self, order: NDArray[np.int64]) -> Ranked:
        """Return the same with the first photos in another order: ``order`` holds their ranks, from 0."""
        first = self.ranking.order[: len(order)][order]
        ranking = replace(self.ranking, order=np.concatenate([first, self.ranking.order[len(order) :]]))
        return replace(self, ranking=ranking)

    def found(self, count: int) -> NDArray[np.float32]:
        """Return what the first ``count`` photos, or all, show of the object.

        That is the best region of each, decoded and of unit length: (n, d) float32 in the space of the query.
        """
        quantizer = self.collection.model.quantizer
        best = []
        for image in self.ranking.order[:count].tolist():
            segment, rows = regions_of(self.collection.segments, image)
            best.append(segment.codes[rows][scan.distances(self.lookup, segment.codes[rows]).argmin()])
        if not best:
            return np.empty((0, quantizer.dimensions), np.float32)
        return quantizer.reconstruct(Codes(np.stack(best), quantizer.codewords)).unit().vectors


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector (d,) at unit length."""
    found: NDArray[np.float32] = Features(vector[None].astype(np.float32)).unit().vectors[0]
    return found
