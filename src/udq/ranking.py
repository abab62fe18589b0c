"""A query and photos in codes -> these in order, each with where the object is (sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from udq import scan
from udq.database import Database
from udq.localise import localise
from udq.segments import Segment
from udq.types import Box, Match, Verification


@dataclass(frozen=True)
class LookedAt:
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
    """

    order: NDArray[np.int64]
    distance: NDArray[np.float32]
    locate: Callable[[int], NDArray[np.float32]]
    looked_at: Mapping[int, LookedAt] = field(default_factory=dict)

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
    # A removed photo is scanned along with the others: its codes lie between theirs, until the collection is compacted.
    every = [scan.best_regions(lookup, s.codes, s.offsets).distance[s.living] for s in database.segments]
    distance = np.concatenate([np.empty(0, np.float32), *every])
    order = scan.rank(scan.BestRegions(distance, np.zeros(len(distance), np.int64)))
    return Ranking(order, distance, _locator(database, lookup))


def nearest(database: Database, lookups: NDArray[np.float32], k: int) -> list[Ranking]:
    """Rank the ``k`` best photos of a database for each of several queries, by their tables (Q, M, K)."""
    segments = database.segments
    if database.looked_at is not None and segments:
        found = [database.index.nearest_images(lookup, k, looked_at=database.looked_at) for lookup in lookups]
    else:
        found = scan.nearest_images_of_each(lookups, [segment.part for segment in segments], k)
    rankings = []
    for lookup, images in zip(lookups, found, strict=True):
        order = _places(segments, images.image)
        distance = np.full(sum(len(segment.living) for segment in segments), np.nan, np.float32)
        distance[order] = images.distance
        rankings.append(Ranking(order, distance, _locator(database, lookup)))
    return rankings


def _locator(database: Database, lookup: NDArray[np.float32]) -> Callable[[int], NDArray[np.float32]]:
    return partial(_locate, database.segments, lookup, database.ranked)


def _places(segments: Sequence[Segment], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return places in ``Database.images`` of photos numbered through all segments, removed ones too."""
    row = np.cumsum([0, *(len(segment.removed) for segment in segments)])
    place = np.cumsum([0, *(len(segment.living) for segment in segments)])
    holder = np.searchsorted(row, rows, side="right") - 1
    within = [np.searchsorted(segments[s].living, r) for s, r in zip(holder, rows - row[holder], strict=True)]
    return place[holder] + np.array(within, np.int64)


def _locate(segments: Sequence[Segment], lookup: NDArray[np.float32], ranked: bool, image: int) -> NDArray[np.float32]:
    """Return where in an image the object is, (4,) float32, by the codes of all its regions."""
    segment, rows = regions_of(segments, image)
    distance = scan.distances(lookup, segment.codes[rows])[None]
    found: NDArray[np.float32] = localise(distance, segment.boxes[rows], ranked=ranked)[0]
    return found


def regions_of(segments: Sequence[Segment], image: int) -> tuple[Segment, slice]:
    """Return the segment that holds an image, by its place in ``Database.images``, and the rows of its regions."""
    for segment in segments:
        if image < len(segment.living):
            break
        image -= len(segment.living)
    row = segment.living[image]
    return segment, slice(segment.offsets[row], segment.offsets[row + 1])
