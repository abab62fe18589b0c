"""A query and photos in codes -> these in order, each with where the object is (sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from udq.search.database import Database
from udq.search.localisation import localise
from udq.search.scan import exhaustive
from udq.types import Box, Match, Verification


@dataclass(frozen=True)
class Verified:
    """What a second look at a photo changed.

    Attributes:
        score: higher than that of eq. 2.
        box: where the object is.
        verified: what was seen.
    """

    score: float
    box: Box
    verified: Verification


@dataclass(frozen=True)
class Ranking:
    """Photos of a database, ranked for one query: all, or the nearest.

    Attributes:
        order: (n,) int64, best first: places in ``Database.images``; ties in their order, which is that of ids.
        distance: (N,) float32, of each photo in that order: expected squared distance of its best
            region (eq. 5 and residuals); nan of photos that are not ranked.
        locate: place -> (4,) float32, where the object is. Called for photos that are reported, which are few:
            the boxes of all would take far more time and memory than their ranking.
        looked_at: what a second look at photos found, by their places.
        missing: how many photos could not be looked at.
    """

    order: NDArray[np.int64]
    distance: NDArray[np.float32]
    locate: Callable[[int], NDArray[np.float32]]
    looked_at: Mapping[int, Verified] = field(default_factory=dict)
    missing: int = 0

    def box(self, image: int) -> Box:
        """Return where in an image the object is."""
        if image in self.looked_at:
            return self.looked_at[image].box
        x1, y1, x2, y2 = map(float, self.locate(image))
        return x1, y1, x2, y2

    def match(self, rank: int, image: int, name: str) -> Match:
        """Return an image as a result: a distance is a root, eq. 2's score the inverse of that."""
        seen = self.looked_at.get(image)
        verified = None if seen is None else seen.verified
        distance = float(np.sqrt(self.distance[image]))
        return Match(rank, name, distance, self.score(image), self.box(image), verified=verified)

    def score(self, image: int) -> float:
        """Return the score of an image (eq. 2), raised where a second look found the object in it."""
        if image in self.looked_at:
            return self.looked_at[image].score
        # A distance of 0 would have an infinite score, which JSON cannot say.
        return 1.0 / max(float(np.sqrt(self.distance[image])), 1e-9)


def rank(database: Database, feature: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a database by a pooled query feature (D,): the ``k`` best, or all."""
    return rank_by(database, database.model.lookup_tables(feature), k=k)


def rank_by(database: Database, lookup: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a database by a query's (M, K) tables: the ``k`` best, or all."""
    if k is not None:
        return nearest(database, lookup[None], k)[0]
    distance = database.distances(lookup)
    order = exhaustive.rank(exhaustive.BestRegions(distance, np.zeros(len(distance), np.int64)))
    return Ranking(order, distance, partial(_locate, database, lookup))


def nearest(database: Database, lookups: NDArray[np.float32], k: int) -> list[Ranking]:
    """Rank the ``k`` best photos of a database for each of several queries, by their tables (Q, M, K)."""
    rankings = []
    for lookup, found in zip(lookups, database.nearest(lookups, k), strict=True):
        distance = np.full(len(database), np.nan, np.float32)
        distance[found.place] = found.distance
        rankings.append(Ranking(found.place, distance, partial(_locate, database, lookup), missing=found.missing))
    return rankings


def _locate(database: Database, lookup: NDArray[np.float32], image: int) -> NDArray[np.float32]:
    """Return where in an image the object is, (4,) float32, by the codes of all its regions."""
    (photo,) = database.photos([image])
    distance = exhaustive.distances(lookup, photo.codes)[None]
    found: NDArray[np.float32] = localise(distance, photo.boxes, ranked=database.ranked)[0]
    return found
