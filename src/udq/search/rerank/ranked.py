"""A query with its ranking: what a stage of reranking takes and returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.photos import sandbox
from udq.photos.sandbox import Decoder
from udq.search.confidence import DEPTH
from udq.search.database import Database
from udq.search.ranking import Ranking, ranking_by_tables
from udq.search.scan import exhaustive
from udq.store.segments import StoredPhoto
from udq.types import Codes, Example, Features

# A place in Database.images -> the share of true matches expected among the photos at least as near.
Confidence = Callable[[int], float]


@dataclass(frozen=True)
class RankedQuery:
    """A query and the ranking of a database by it.

    Attributes:
        database: the searched photos.
        query: (d,) float32, a feature f of unit length.
        lookup: (M, K) tables of the query.
        ranking: the nearest photos, best first, or all photos.
        wanted: number of photos in a ranking; None for all.
        without: places in ``Database.images`` that are left out of every ranking, such as a benchmark's query photo.
        examples: photos and boxes that the query was encoded from.
        decoder: decodes photos, those of the examples and of the collection.
        original: the ranking before any stage; None if no stage has been applied.
    """

    database: Database
    query: NDArray[np.float32]
    lookup: NDArray[np.float32]
    ranking: Ranking
    wanted: int | None
    without: tuple[int, ...] = ()
    examples: tuple[Example, ...] = ()
    decoder: Decoder = field(default_factory=sandbox.shared)
    original: RankedQuery | None = None

    @classmethod
    def search(
        cls,
        database: Database,
        query: NDArray[np.float32],
        *,
        wanted: int | None,
        without: tuple[int, ...] = (),
        examples: tuple[Example, ...] = (),
        decoder: Decoder | None = None,
    ) -> RankedQuery:
        """Search a database and return the query with its ranking; arguments as in the attributes."""
        lookup = database.model.quantizer.lookup_tables(query)
        ranking = _ranking_without(database, lookup, wanted, without)
        return cls(database, query, lookup, ranking, wanted, without, examples, decoder or sandbox.shared())

    def search_again(self, query: NDArray[np.float32]) -> RankedQuery:
        """Search the same database by another query (d,) of unit length."""
        lookup = self.database.model.quantizer.lookup_tables(query)
        ranking = _ranking_without(self.database, lookup, self.wanted, self.without)
        return replace(self, query=query, lookup=lookup, ranking=ranking, original=self.original or self)

    def reordered(self, order: NDArray[np.int64]) -> RankedQuery:
        """Return the same with the first photos in another order: ``order`` contains their ranks, from 0."""
        first = self.ranking.order[: len(order)][order]
        ranking = replace(self.ranking, order=np.concatenate([first, self.ranking.order[len(order) :]]))
        return replace(self, ranking=ranking, original=self.original or self)

    @cached_property
    def confidence(self) -> Confidence:
        """Confidence in each photo by the original ranking (``udq.search.confidence``); stages do not change it.

        Photos that the examples come from have a confidence of 1, and are left out when that of others is computed.
        """
        if self.original is not None:
            return self.original.confidence
        example_paths = {Path(example.photo).name: os.path.realpath(example.photo) for example in self.examples}

        def is_example(photo: StoredPhoto) -> bool:
            path = photo.image.path
            return path.name in example_paths and os.path.realpath(path) == example_paths[path.name]

        # Photos after the first DEPTH change no confidence before them.
        order = self.ranking.order[: max(self.wanted or 0, DEPTH)].tolist()
        own = {place for place, photo in zip(order, self.database.photos(order), strict=True) if is_example(photo)}
        others = [place for place in order if place not in own]
        values = self.database.calibration.confidence(self.lookup, self.ranking.distance[others]).tolist()
        known = {**dict(zip(others, values, strict=True)), **dict.fromkeys(own, 1.0)}
        # Confidence never increases with the distance: for photos farther than these, the last value is a bound.
        last = values[-1] if values else 0.0
        return lambda place: round(known.get(place, last), 4)

    def best_regions(self, count: int, *, least: float = 0.0) -> NDArray[np.float32]:
        """Return the best region of each of the first ``count`` photos, decoded from its code.

        Photos of a confidence below ``least`` are left out.

        Returns:
            (n, d) float32 of unit length, in the space of the query.
        """
        quantizer = self.database.model.quantizer
        best = []
        first = self.ranking.order[:count].tolist()
        if least > 0:
            first = [place for place in first if self.confidence(place) >= least]
        for photo in self.database.photos(first):
            best.append(photo.codes[exhaustive.distances(self.lookup, photo.codes).argmin()])
        if not best:
            return np.empty((0, quantizer.dimensions), np.float32)
        return quantizer.reconstruct(Codes(np.stack(best), quantizer.codewords)).unit().vectors


def _ranking_without(
    database: Database, lookup: NDArray[np.float32], wanted: int | None, without: tuple[int, ...]
) -> Ranking:
    """Return the ranking by tables (M, K) of ``wanted`` photos, or all, without those at some places."""
    ranking = ranking_by_tables(database, lookup, k=None if wanted is None else wanted + len(without))
    if not without:
        return ranking
    return replace(ranking, order=ranking.order[~np.isin(ranking.order, without)][:wanted])


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector (d,) scaled to unit length."""
    scaled: NDArray[np.float32] = Features(vector[None].astype(np.float32)).unit().vectors[0]
    return scaled
