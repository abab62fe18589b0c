"""Query photo and box -> ranked photos with boxes (sec. 3.5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udq import proposals, scan
from udq.errors import InputError
from udq.localise import localise
from udq.types import Box, Match, SearchResult

if TYPE_CHECKING:
    from udq.collection import Collection
    from udq.segments import Segment


@dataclass(frozen=True)
class Ranking:
    """Photos of a collection, ranked for one query: all, or the nearest.

    Attributes:
        order: (n,) int64, best first: places in ``Collection.images``; ties in their order, which is that of ids.
        distance: (N,) float32, of each photo in that order: expected squared distance of its best
            region (eq. 5 and residuals); nan of photos that are not ranked.
        locate: place -> (4,) float32, where the object is. Called for photos that are reported, which are few:
            the boxes of all would take far more time and memory than their ranking.
    """

    order: NDArray[np.int64]
    distance: NDArray[np.float32]
    locate: Callable[[int], NDArray[np.float32]]

    def box(self, image: int) -> Box:
        """Return where in an image the object is."""
        x1, y1, x2, y2 = map(float, self.locate(image))
        return x1, y1, x2, y2

    def match(self, rank: int, image: int, name: str) -> Match:
        """Return an image as a result: a distance is a root, eq. 2's score the inverse of that."""
        distance = float(np.sqrt(self.distance[image]))
        # A distance of 0 would have an infinite score, which JSON cannot say.
        return Match(rank, name, distance, 1.0 / max(distance, 1e-9), self.box(image))


def search(collection: Collection, query: Path, box: Sequence[float] | None, *, k: int) -> SearchResult:
    """Encode the query, scan every code, and return the ``k`` best photos with where the object is."""
    if k < 1:
        raise InputError(f"k: expected 1 or more, found {k}")
    extractor, images = collection.extractor, collection.images
    started = time.perf_counter()
    found_box, feature = extractor.describe(query, box)
    encoded = time.perf_counter()
    ranking = rank(collection, feature, k=k)
    scanned = time.perf_counter()
    matches = tuple(ranking.match(position, i, images[i].name) for position, i in enumerate(ranking.order, start=1))
    finished = time.perf_counter()
    elapsed = {"encode": encoded - started, "scan": scanned - encoded, "total": finished - started}
    return SearchResult(str(query), found_box, matches, {name: 1e3 * took for name, took in elapsed.items()})


def rank(collection: Collection, feature: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a collection by a pooled query feature (D,): the ``k`` best, or all."""
    lookup = collection.model.lookup_tables(feature)
    segments = collection.segments
    locate = partial(_locate, segments, lookup, collection.config.features.proposals in proposals.RANKED)
    if k is not None:
        nearest = scan.nearest_images(lookup, [segment.part for segment in segments], k)
        order = _places(segments, nearest.image)
        distance = np.full(sum(len(segment.living) for segment in segments), np.nan, np.float32)
        distance[order] = nearest.distance
        return Ranking(order, distance, locate)
    # A removed photo is scanned along with the others: its codes lie between theirs, until the collection is compacted.
    every = [scan.best_regions(lookup, s.codes, s.offsets).distance[s.living] for s in segments]
    distance = np.concatenate([np.empty(0, np.float32), *every])
    return Ranking(scan.rank(scan.BestRegions(distance, np.zeros(len(distance), np.int64))), distance, locate)


def _places(segments: Sequence[Segment], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return places in ``Collection.images`` of photos numbered through all segments, removed ones too."""
    row = np.cumsum([0, *(len(segment.removed) for segment in segments)])
    place = np.cumsum([0, *(len(segment.living) for segment in segments)])
    holder = np.searchsorted(row, rows, side="right") - 1
    within = [np.searchsorted(segments[s].living, r) for s, r in zip(holder, rows - row[holder], strict=True)]
    return place[holder] + np.array(within, np.int64)


def _locate(segments: Sequence[Segment], lookup: NDArray[np.float32], ranked: bool, image: int) -> NDArray[np.float32]:
    """Return where in an image the object is, (4,) float32, by the codes of all its regions."""
    for segment in segments:
        if image < len(segment.living):
            break
        image -= len(segment.living)
    row = segment.living[image]
    rows = slice(segment.offsets[row], segment.offsets[row + 1])
    return place(lookup, segment.codes[rows], segment.boxes[rows], ranked=ranked)


def place(
    lookup: NDArray[np.float32], codes: NDArray[np.uint8] | NDArray[np.uint16], boxes: NDArray[Any], *, ranked: bool
) -> NDArray[np.float32]:
    """Return where in a photo the object is, (4,) float32.

    Args:
        lookup: (M, K) tables of a query.
        codes: (R, M), of all regions of the photo.
        boxes: (R, 4), x1, y1, x2, y2 in pixels.
        ranked: whether regions are in the order of their proposer, which puts the best first.
    """
    found: NDArray[np.float32] = localise(scan.distances(lookup, codes)[None], boxes, ranked=ranked)[0]
    return found
