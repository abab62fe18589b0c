"""A query and photos in codes -> the ranking of the photos, each with the box of the object (sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from udq.search.confidence import of_verification
from udq.search.database import Database
from udq.search.distance import root
from udq.search.localisation import localise
from udq.search.scan import exhaustive
from udq.types import Box, Match, Verification

# Weight of the verified box in the merged one: the two are inaccurate in different ways
# (benchmarks/decisions/verification.py).
SHARE = 2 / 3


@dataclass(frozen=True)
class Verified:
    """What a verification changed about a photo in a ranking.

    Attributes:
        score: higher than that of eq. 2.
        verification: inliers, homography, polygon and box.
        crowd: number of photos that were verified with many inliers: the more, the larger the part of the object that
            proves that it is the same.
    """

    score: float
    verification: Verification
    crowd: int

    @property
    def confidence(self) -> float:
        """How sure it is that the photo shows the object, by the verification alone, 0..1."""
        return round(of_verification(self.verification.coverage, crowd=self.crowd), 4)


@dataclass(frozen=True)
class Ranking:
    """Photos of a database, ranked for one query: all of them, or the nearest.

    Attributes:
        order: (n,) int64, places in ``Database.images``, best first; ties are in the order of ids.
        distance: (N,) float32 by place: expected squared distance of the best region of each photo (eq. 5 and
            residuals); nan for photos that are not ranked.
        locate: place -> (4,) float32, where the object is. Called for reported photos only: computing the boxes of
            all photos would take far more time and memory than ranking them.
        verified: verified photos, by place.
        missing: number of photos that could not be scanned, at least: the largest of all steps so far.
    """

    order: NDArray[np.int64]
    distance: NDArray[np.float32]
    locate: Callable[[int], NDArray[np.float32]]
    verified: Mapping[int, Verified] = field(default_factory=dict)
    missing: int = 0

    def box(self, place: int) -> Box:
        """Return where in a photo the object is: by the index, merged with the verified box if there is one."""
        x1, y1, x2, y2 = map(float, self.locate(place))
        verified = self.verified.get(place)
        return merged((x1, y1, x2, y2), verified.verification) if verified else (x1, y1, x2, y2)

    def match(self, rank: int, place: int, name: str) -> Match:
        """Return a photo as a search result, with the root of its squared distance and the score of eq. 2."""
        verified = self.verified.get(place)
        verification = None if verified is None else verified.verification
        distance = float(root(self.distance[place]))
        return Match(rank, name, distance, self.score(place), self.box(place), verified=verification)

    def score(self, place: int) -> float:
        """Return the score of a photo (eq. 2), raised if the photo was verified."""
        return self.verified[place].score if place in self.verified else self.score_by_index(place)

    def score_by_index(self, place: int) -> float:
        """Return the score of a photo (eq. 2) by its codes alone."""
        # A distance of 0 would have an infinite score, which JSON cannot represent.
        return 1.0 / max(float(root(self.distance[place])), 1e-9)


def merged(box: Box, verification: Verification, *, share: float = SHARE) -> Box:
    """Return the mean of the box by the index and the verified box, in which ``share`` is the weight of the latter."""
    sides = zip(box, verification.box, strict=True)
    x1, y1, x2, y2 = ((1 - share) * one + share * other for one, other in sides)
    return x1, y1, x2, y2


def ranking_by_feature(database: Database, feature: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a database by the pooled feature (D,) of a query: the ``k`` best, or all."""
    return ranking_by_tables(database, database.model.lookup_tables(feature), k=k)


def ranking_by_tables(database: Database, lookup: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a database by the (M, K) tables of a query: the ``k`` best, or all."""
    if k is not None:
        return rankings_by_tables(database, lookup[None], k)[0]
    distance = database.distances(lookup)
    order = exhaustive.image_order(exhaustive.BestRegions(distance, np.zeros(len(distance), np.int64)))
    return Ranking(order, distance, partial(_locate, database, lookup))


def rankings_by_tables(database: Database, lookups: NDArray[np.float32], k: int) -> list[Ranking]:
    """Rank the ``k`` best photos of a database for each of Q queries, by their tables (Q, M, K)."""
    rankings = []
    for lookup, nearest in zip(lookups, database.nearest_images(lookups, k), strict=True):
        distance = np.full(len(database), np.nan, np.float32)
        distance[nearest.image] = nearest.distance
        locate = partial(_locate, database, lookup)
        rankings.append(Ranking(nearest.image, distance, locate, missing=nearest.missing))
    return rankings


def _locate(database: Database, lookup: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """Return where in a photo the object is, (4,) float32, by the codes of all its regions."""
    (photo,) = database.photos([place])
    distance = exhaustive.distances(lookup, photo.codes)[None]
    box: NDArray[np.float32] = localise(distance, photo.boxes, ranked=database.ranked, position=database.position)[0]
    return box
