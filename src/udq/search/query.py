"""Query photo and box, or several of them -> ranked photos with boxes (sec. 3.5).

Several views of the object are one query: the mean of their unit features f. Views of something else push it away, as
in Rocchio's relevance feedback,

    q = unit(mean(f of right ones) - GAMMA mean(f of wrong ones)).

J. J. Rocchio: Relevance feedback in information retrieval. The SMART retrieval system, 1971.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError
from udq.photos import decoding
from udq.search import confidence, rerank
from udq.search.database import Database
from udq.search.ranking import Ranking, nearest
from udq.search.rerank.ranked import Confidence, Ranked
from udq.types import Box, Example, Features, SearchResult

if TYPE_CHECKING:
    from udq.search.reader import Reader

# An example -> its box and its pooled feature (D,).
Describe = Callable[[Example], tuple[Box, NDArray[np.float32]]]

# How strongly wrong examples push the query away (benchmarks/decisions/refine_query.py).
GAMMA = 0.4


@dataclass(frozen=True)
class EncodedQuery:
    """A query, encoded.

    Attributes:
        examples: what is searched for, each with its box.
        query: (d,) feature f, of unit length.
        took: seconds that encoding took.
    """

    examples: tuple[Example, ...]
    query: NDArray[np.float32]
    took: float


def search(
    collection: Reader,
    examples: Sequence[Example],
    *,
    k: int,
    offset: int = 0,
    min_score: float | None = None,
    stages: Sequence[str] = (),
    describe: Describe | None = None,
    load_crop: decoding.LoadCrop = decoding.load_crop,
) -> SearchResult:
    """Encode the examples, scan the codes, and return the best photos with where the object is.

    Args:
        collection: what is searched.
        examples: at least one that is not wrong.
        k: photos wanted, >= 1.
        offset: so many of the best are left out, for pages.
        min_score: photos of a lower score are left out.
        stages: names of ``udq.search.rerank.STAGES``, by which what was found is ranked again.
        describe: encodes an example; the collection's own network where None.
        load_crop: decodes the examples for stages that look at them.
    """
    _check_wanted(k)
    names = rerank.check(stages)
    asked = encode(collection, examples, describe)
    clock = time.perf_counter
    started = clock()
    ranked = Ranked.by(
        collection.database,
        asked.query,
        wanted=max(offset + k, rerank.depth(names), confidence.DEPTH),
        examples=asked.examples,
        load_crop=load_crop,
    )
    sure = ranked.sure
    took = {"encode": asked.took, "scan": clock() - started}
    if names:
        started = clock()
        ranked = rerank.rerank(ranked, names)
        took["rerank"] = clock() - started
    return _result(collection.database, asked, ranked.ranking, sure, took, k, offset, min_score, names)


def search_many(collection: Reader, queries: Sequence[Sequence[Example]], *, k: int) -> list[SearchResult]:
    """Do what ``search`` does for each of several queries, in one pass over the codes."""
    _check_wanted(k)
    asked = [encode(collection, examples) for examples in queries]
    if not asked:
        return []
    started = time.perf_counter()
    database = collection.database
    lookups = np.stack([database.model.quantizer.lookup_tables(each.query) for each in asked])
    rankings = nearest(database, lookups, max(k, confidence.DEPTH))
    share = (time.perf_counter() - started) / len(asked)
    return [
        _result(
            database,
            each,
            ranking,
            Ranked(database, each.query, lookup, ranking, k, examples=each.examples).sure,
            {"encode": each.took, "scan": share},
            k,
        )
        for each, lookup, ranking in zip(asked, lookups, rankings, strict=True)
    ]


def encode(collection: Reader, examples: Sequence[Example], describe: Describe | None = None) -> EncodedQuery:
    """Return the one query that examples are; ``describe`` as in ``search``."""
    if all(example.wrong for example in examples):
        raise InputError("examples: expected at least one that shows what is searched for, found none")
    extractor = collection.extractor
    see = describe or (lambda example: extractor.describe(Path(example.photo), example.box))
    started = time.perf_counter()
    seen = [see(example) for example in examples]
    vectors = collection.model.head.apply(Features(np.stack([feature for _, feature in seen]))).vectors
    query = combined(vectors, np.array([example.wrong for example in examples]))
    boxed = (replace(example, box=box) for example, (box, _) in zip(examples, seen, strict=True))
    return EncodedQuery(tuple(boxed), query, time.perf_counter() - started)


def _check_wanted(k: int) -> None:
    if k < 1:
        raise InputError(f"k: expected 1 or more, found {k}")


def _result(
    database: Database,
    asked: EncodedQuery,
    ranking: Ranking,
    sure: Confidence,
    took: Mapping[str, float],
    k: int,
    offset: int = 0,
    min_score: float | None = None,
    stages: tuple[str, ...] = (),
) -> SearchResult:
    """Return the photos of a ranking; ``took`` is how many seconds each step took."""
    started = time.perf_counter()
    matches = []
    places = ranking.order[offset : offset + k].tolist()
    for position, (i, photo) in enumerate(zip(places, database.photos(places), strict=True), start=offset + 1):
        # After a stage of post-processing, photos of lower scores may stand before others.
        if min_score is not None and ranking.score(i) < min_score:
            continue
        image = photo.image
        match = ranking.match(position, i, image.name)
        matches.append(replace(match, id=image.id, width=image.width, height=image.height, confidence=sure(i)))
    seconds = {**took, "total": sum(took.values()) + time.perf_counter() - started}
    elapsed = {name: 1e3 * value for name, value in seconds.items()}
    return SearchResult(asked.examples, tuple(matches), elapsed, stages, confidence.THRESHOLD, ranking.missing)


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
