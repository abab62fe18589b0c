"""What stages of post-processing hand to each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.photos import decoding
from udq.search import confidence
from udq.search.database import Database
from udq.search.ranking import Ranking, rank_by
from udq.search.scan import exhaustive
from udq.store.segments import StoredPhoto
from udq.types import Codes, Example, Features

# A place in Database.images -> the share of true matches expected among the photos at least as near.
Confidence = Callable[[int], float]


@dataclass(frozen=True)
class Ranked:
    """A query and its ranking.

    Attributes:
        database: what was searched.
        query: (d,) float32, a feature f of unit length.
        lookup: (M, K) tables of the query.
        ranking: the nearest photos, best first, or all.
        wanted: how many photos a ranking is to hold; all where None.
        without: places in ``Database.images`` that no ranking holds, as a benchmark's own query photo.
        examples: photos and boxes that the query was made of.
        load_crop: decodes those; ``Decoder.load_crop`` where they may be a stranger's.
        plain: the ranking by distance to the query as it was asked, which this came from; None where this is it.
    """

    database: Database
    query: NDArray[np.float32]
    lookup: NDArray[np.float32]
    ranking: Ranking
    wanted: int | None
    without: tuple[int, ...] = ()
    examples: tuple[Example, ...] = ()
    load_crop: decoding.LoadCrop = decoding.load_crop
    plain: Ranked | None = None

    @staticmethod
    def by(
        database: Database,
        query: NDArray[np.float32],
        *,
        wanted: int | None,
        without: tuple[int, ...] = (),
        examples: tuple[Example, ...] = (),
        load_crop: decoding.LoadCrop = decoding.load_crop,
    ) -> Ranked:
        """Rank the photos of a database by a query; everything else as in the attributes."""
        lookup = database.model.quantizer.lookup_tables(query)
        ranking = _without(database, lookup, wanted, without)
        return Ranked(database, query, lookup, ranking, wanted, without, examples, load_crop)

    @cached_property
    def sure(self) -> Confidence:
        """Confidence in each photo by the plain ranking (``udq.search.confidence``); stages do not change it.

        Photos that the examples are of come out with 1, and speak for no others.
        """
        if self.plain is not None:
            return self.plain.sure
        drawn_on = {Path(example.photo).name: os.path.realpath(example.photo) for example in self.examples}

        def drawn(photo: StoredPhoto) -> bool:
            path = photo.image.path
            return path.name in drawn_on and os.path.realpath(path) == drawn_on[path.name]

        # What comes after the first few changes no answer before it.
        order = self.ranking.order[: max(self.wanted or 0, confidence.DEPTH)].tolist()
        own = {place for place, photo in zip(order, self.database.photos(order), strict=True) if drawn(photo)}
        others = [place for place in order if place not in own]
        values = self.database.calibration.confidence(self.lookup, self.ranking.distance[others]).tolist()
        known = {**dict(zip(others, values, strict=True)), **dict.fromkeys(own, 1.0)}
        # It never rises: what is farther than all of these is at most as sure as the last.
        last = values[-1] if values else 0.0
        return lambda place: round(known.get(place, last), 4)

    def again(self, query: NDArray[np.float32]) -> Ranked:
        """Rank by another query."""
        lookup = self.database.model.quantizer.lookup_tables(query)
        ranking = _without(self.database, lookup, self.wanted, self.without)
        return replace(self, query=query, lookup=lookup, ranking=ranking, plain=self.plain or self)

    def reordered(self, order: NDArray[np.int64]) -> Ranked:
        """Return the same with the first photos in another order: ``order`` holds their ranks, from 0."""
        first = self.ranking.order[: len(order)][order]
        ranking = replace(self.ranking, order=np.concatenate([first, self.ranking.order[len(order) :]]))
        return replace(self, ranking=ranking, plain=self.plain or self)

    def found(self, count: int, *, least: float = 0.0) -> NDArray[np.float32]:
        """Return what the first ``count`` photos, or all, show of the object.

        That is the best region of each, decoded and of unit length: (n, d) float32 in the space of the query. Photos
        that are less sure than ``least`` are left out.
        """
        quantizer = self.database.model.quantizer
        best = []
        first = self.ranking.order[:count].tolist()
        if least > 0:
            first = [image for image in first if self.sure(image) >= least]
        for photo in self.database.photos(first):
            best.append(photo.codes[exhaustive.distances(self.lookup, photo.codes).argmin()])
        if not best:
            return np.empty((0, quantizer.dimensions), np.float32)
        return quantizer.reconstruct(Codes(np.stack(best), quantizer.codewords)).unit().vectors


def _without(database: Database, lookup: NDArray[np.float32], wanted: int | None, without: tuple[int, ...]) -> Ranking:
    ranking = rank_by(database, lookup, k=None if wanted is None else wanted + len(without))
    if not without:
        return ranking
    return replace(ranking, order=ranking.order[~np.isin(ranking.order, without)][:wanted])


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector (d,) at unit length."""
    found: NDArray[np.float32] = Features(vector[None].astype(np.float32)).unit().vectors[0]
    return found
