"""Query photo and box, or several of them -> ranked photos with boxes (sec. 3.5).

Several views of the object are one query: the mean of their unit features f. Views of something else push it away, as
in Rocchio's relevance feedback,

    q = unit(mean(f of right ones) - GAMMA mean(f of wrong ones)).

J. J. Rocchio: Relevance feedback in information retrieval. The SMART retrieval system, 1971.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udq import proposals, scan
from udq.errors import InputError
from udq.localise import localise
from udq.types import Box, Example, Features, Match, SearchResult

if TYPE_CHECKING:
    from udq.collection import Collection
    from udq.segments import Segment

# An example -> its box and its pooled feature (D,).
Describe = Callable[[Example], tuple[Box, NDArray[np.float32]]]

# How strongly wrong examples push the query away (benchmarks/refine_query.py).
GAMMA = 0.4


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
        return Match(rank, name, float(np.sqrt(self.distance[image])), self.score(image), self.box(image))

    def score(self, image: int) -> float:
        """Return the score of an image (eq. 2)."""
        # A distance of 0 would have an infinite score, which JSON cannot say.
        return 1.0 / max(float(np.sqrt(self.distance[image])), 1e-9)


@dataclass(frozen=True)
class Asked:
    """A query, encoded.

    Attributes:
        examples: what is searched for, each with its box.
        lookup: (M, K) tables.
        took: seconds that encoding took.
    """

    examples: tuple[Example, ...]
    lookup: NDArray[np.float32]
    took: float


def search(
    collection: Collection,
    examples: Sequence[Example],
    *,
    k: int,
    offset: int = 0,
    min_score: float | None = None,
    describe: Describe | None = None,
) -> SearchResult:
    """Encode the examples, scan the codes, and return the best photos with where the object is.

    Args:
        collection: what is searched.
        examples: at least one that is not wrong.
        k: photos wanted, >= 1.
        offset: so many of the best are left out, for pages.
        min_score: photos of a lower score are left out.
        describe: encodes an example; the collection's own network where None.
    """
    _check_wanted(k)
    asked = encode(collection, examples, describe)
    started = time.perf_counter()
    ranking = rank_by(collection, asked.lookup, k=offset + k)
    return _result(collection, asked, ranking, time.perf_counter() - started, offset, min_score)


def search_many(collection: Collection, queries: Sequence[Sequence[Example]], *, k: int) -> list[SearchResult]:
    """Do what ``search`` does for each of several queries, in one pass over the codes."""
    _check_wanted(k)
    asked = [encode(collection, examples) for examples in queries]
    if not asked:
        return []
    started = time.perf_counter()
    rankings = nearest(collection, np.stack([each.lookup for each in asked]), k)
    share = (time.perf_counter() - started) / len(asked)
    return [_result(collection, each, ranking, share) for each, ranking in zip(asked, rankings, strict=True)]


def encode(collection: Collection, examples: Sequence[Example], describe: Describe | None = None) -> Asked:
    """Return the one query that examples are; ``describe`` as in ``search``."""
    if all(example.wrong for example in examples):
        raise InputError("examples: expected at least one that shows what is searched for, found none")
    extractor = collection.extractor
    see = describe or (lambda example: extractor.describe(Path(example.photo), example.box))
    started = time.perf_counter()
    seen = [see(example) for example in examples]
    vectors = collection.model.head.apply(Features(np.stack([feature for _, feature in seen]))).vectors
    query = combined(vectors, np.array([example.wrong for example in examples]))
    lookup = collection.model.quantizer.lookup_tables(query)
    boxed = (replace(example, box=box) for example, (box, _) in zip(examples, seen, strict=True))
    return Asked(tuple(boxed), lookup, time.perf_counter() - started)


def _check_wanted(k: int) -> None:
    if k < 1:
        raise InputError(f"k: expected 1 or more, found {k}")


def _result(
    collection: Collection,
    asked: Asked,
    ranking: Ranking,
    scanned: float,
    offset: int = 0,
    min_score: float | None = None,
) -> SearchResult:
    """Return the photos of a ranking; ``scanned`` is how many seconds it took."""
    started = time.perf_counter()
    matches = []
    for position, i in enumerate(ranking.order[offset:].tolist(), start=offset + 1):
        if min_score is not None and ranking.score(i) < min_score:
            break
        image = collection.images[i]
        match = ranking.match(position, i, image.name)
        matches.append(replace(match, id=image.id, width=image.width, height=image.height))
    total = asked.took + scanned + time.perf_counter() - started
    elapsed = {"encode": 1e3 * asked.took, "scan": 1e3 * scanned, "total": 1e3 * total}
    return SearchResult(asked.examples, tuple(matches), elapsed)


def combined(vectors: NDArray[np.float32], wrong: NDArray[np.bool_], *, gamma: float = GAMMA) -> NDArray[np.float32]:
    """Return the one query (d,), of unit length, that several examples are.

    Args:
        vectors: (E, d) unit features f of the examples.
        wrong: (E,) bool, those that show something else; at least one does not.
        gamma: how strongly those push the query away.
    """
    if len(vectors) > 1:
        query = vectors[~wrong].mean(axis=0, keepdims=True)
        if wrong.any():
            query = query - np.float32(gamma) * vectors[wrong].mean(axis=0)
        vectors = Features(query).unit().vectors
    found: NDArray[np.float32] = vectors[0]
    return found


def rank(collection: Collection, feature: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a collection by a pooled query feature (D,): the ``k`` best, or all."""
    return rank_by(collection, collection.model.lookup_tables(feature), k=k)


def rank_by(collection: Collection, lookup: NDArray[np.float32], *, k: int | None = None) -> Ranking:
    """Rank the photos of a collection by a query's (M, K) tables: the ``k`` best, or all."""
    if k is not None:
        return nearest(collection, lookup[None], k)[0]
    # A removed photo is scanned along with the others: its codes lie between theirs, until the collection is compacted.
    every = [scan.best_regions(lookup, s.codes, s.offsets).distance[s.living] for s in collection.segments]
    distance = np.concatenate([np.empty(0, np.float32), *every])
    order = scan.rank(scan.BestRegions(distance, np.zeros(len(distance), np.int64)))
    return Ranking(order, distance, _locator(collection, lookup))


def nearest(collection: Collection, lookups: NDArray[np.float32], k: int) -> list[Ranking]:
    """Rank the ``k`` best photos of a collection for each of several queries, by their tables (Q, M, K)."""
    segments = collection.segments
    if collection.looked_at is not None and segments:
        found = [collection.index.nearest_images(lookup, k, looked_at=collection.looked_at) for lookup in lookups]
    else:
        found = scan.nearest_images_of_each(lookups, [segment.part for segment in segments], k)
    rankings = []
    for lookup, images in zip(lookups, found, strict=True):
        order = _places(segments, images.image)
        distance = np.full(sum(len(segment.living) for segment in segments), np.nan, np.float32)
        distance[order] = images.distance
        rankings.append(Ranking(order, distance, _locator(collection, lookup)))
    return rankings


def _locator(collection: Collection, lookup: NDArray[np.float32]) -> Callable[[int], NDArray[np.float32]]:
    ranked = collection.config.features.proposals in proposals.RANKED
    return partial(_locate, collection.segments, lookup, ranked)


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
