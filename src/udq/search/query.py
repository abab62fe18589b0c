"""One or several query photos with boxes -> ranked photos with boxes (sec. 3.5).

Several views of the object are one query: the mean of their unit features f. Views of something else push it away, as
in Rocchio's relevance feedback,

    q = unit(mean(f of right examples) - GAMMA mean(f of wrong examples)).

J. J. Rocchio: Relevance feedback in information retrieval. The SMART retrieval system, 1971.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.common.progress import Progress, silent
from udq.errors import InputError
from udq.photos import sandbox
from udq.photos.sandbox import Decoder
from udq.search import rerank
from udq.search.confidence import DEPTH, THRESHOLD
from udq.search.copies import Stack
from udq.search.ranking import rankings_by_tables
from udq.search.rerank.ranked import RankedQuery
from udq.types import Box, Example, Features, SearchResult

if TYPE_CHECKING:
    from udq.features.extractor import Extractor
    from udq.search.reader import Reader

# An example -> its box in pixels and the pooled feature (D,) of what is inside.
ExtractFeature = Callable[[Example], tuple[Box, NDArray[np.float32]]]

# How strongly wrong examples push the query away (benchmarks/decisions/refine_query.py).
GAMMA = 0.4


@dataclass(frozen=True)
class EncodedQuery:
    """A query, encoded.

    Attributes:
        examples: the views that the query was encoded from, each with its box.
        vector: (d,) feature f of unit length.
        seconds: time that the encoding took.
    """

    examples: tuple[Example, ...]
    vector: NDArray[np.float32]
    seconds: float


def search(
    collection: Reader,
    examples: Sequence[Example],
    *,
    k: int,
    offset: int = 0,
    min_score: float | None = None,
    stages: Sequence[str] | None = None,
    extract_feature: ExtractFeature | None = None,
    decoder: Decoder | None = None,
    stack: bool = True,
    progress: Progress = silent,
) -> SearchResult:
    """Encode the examples, scan the codes, and return the best photos with the box of the object in each.

    Args:
        collection: the photos to search.
        examples: views of the object, and of other things if ``wrong``; at least one right one.
        k: number of matches to return, >= 1.
        offset: number of best matches to skip, for pagination.
        min_score: photos of a lower score are left out.
        stages: names of ``udq.search.rerank.STAGES`` to rerank by, in this order; None for ``rerank.DEFAULT`` if the
            collection stores local features.
        extract_feature: computes the feature of an example; the network of the collection if None.
        decoder: decodes photos for stages that need their pixels; that of the collection if None.
        stack: whether copies of a photo are one match (``udq.search.copies``); if False, each is a match of its own.
        progress: reports the steps of stages that take long.
    """
    _check_k(k)
    names = rerank.resolve(stages, collection.database)
    encoded = encode(collection, examples, extract_feature)
    clock = time.perf_counter
    started = clock()
    contents = max(offset + k if stack else 1, rerank.depth(names))
    ranked = RankedQuery.search(
        collection.database,
        encoded.vector,
        wanted=_wanted(max(offset + k, contents)),
        examples=encoded.examples,
        decoder=decoder or collection.decoder,
        contents=contents,
        progress=progress,
    )
    seconds = {"encode": encoded.seconds, "scan": clock() - started}
    ranked = _reranked(ranked, names, seconds)
    return _result(ranked, seconds, k, offset, min_score, names, stack=stack)


def search_many(
    collection: Reader,
    queries: Sequence[Sequence[Example]],
    *,
    k: int,
    stages: Sequence[str] | None = None,
    stack: bool = True,
) -> list[SearchResult]:
    """Return the results of ``search`` for several queries, in one pass over the codes; arguments as there."""
    _check_k(k)
    names = rerank.resolve(stages, collection.database)
    batch = [encode(collection, examples) for examples in queries]
    if not batch:
        return []
    started = time.perf_counter()
    database = collection.database
    lookups = np.stack([database.model.quantizer.lookup_tables(encoded.vector) for encoded in batch])
    contents = max(k if stack else 1, rerank.depth(names))
    wanted = _wanted(max(k, contents))
    results = []
    for encoded, lookup, ranking in zip(batch, lookups, rankings_by_tables(database, lookups, wanted), strict=True):
        ranked = RankedQuery(
            database,
            encoded.vector,
            lookup,
            ranking,
            wanted,
            examples=encoded.examples,
            decoder=collection.decoder,
            contents=contents,
        ).deepened()
        results.append((encoded, ranked))
    scan = (time.perf_counter() - started) / len(batch)
    found = []
    for encoded, ranked in results:
        seconds = {"encode": encoded.seconds, "scan": scan}
        reranked = _reranked(ranked, names, seconds)
        found.append(_result(reranked, seconds, k, stages=names, stack=stack))
    return found


def _reranked(ranked: RankedQuery, names: tuple[str, ...], seconds: dict[str, float]) -> RankedQuery:
    """Apply stages, if there are any, and note the time that they take."""
    if not names:
        return ranked
    started = time.perf_counter()
    reranked = rerank.apply_stages(ranked, names)
    seconds["rerank"] = time.perf_counter() - started
    return reranked


def encode(
    collection: Reader, examples: Sequence[Example], extract_feature: ExtractFeature | None = None
) -> EncodedQuery:
    """Encode examples as one query; ``extract_feature`` as in ``search``."""
    if all(example.wrong for example in examples):
        raise InputError("examples: expected at least one that shows what is searched for, found none")
    if extract_feature is None:
        sandbox.shared().prepare()  # while the network is loaded
        extract_feature = partial(_extract_feature, collection.extractor)
    started = time.perf_counter()
    extracted = [extract_feature(example) for example in examples]
    vectors = collection.model.head.apply(Features(np.stack([feature for _, feature in extracted]))).vectors
    vector = combined(vectors, np.array([example.wrong for example in examples]))
    boxed = (replace(example, box=box) for example, (box, _) in zip(examples, extracted, strict=True))
    return EncodedQuery(tuple(boxed), vector, time.perf_counter() - started)


def _extract_feature(extractor: Extractor, example: Example) -> tuple[Box, NDArray[np.float32]]:
    return extractor.describe(Path(example.photo), example.box)


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k: expected 1 or more, found {k}")


def _wanted(matches: int) -> int:
    """Return the number of photos to rank for a number of matches: more, as some may be copies."""
    return max(matches + matches // 4, DEPTH)


def _result(
    ranked: RankedQuery,
    seconds: Mapping[str, float],
    k: int,
    offset: int = 0,
    min_score: float | None = None,
    stages: tuple[str, ...] = (),
    *,
    stack: bool,
) -> SearchResult:
    """Return one page of a ranking as a result; ``seconds`` is the time of each step so far."""
    started = time.perf_counter()
    ranking = ranked.ranking
    if stack:
        entries = ranked.stacks()[offset : offset + k]
    else:
        places = ranking.order[offset : offset + k].tolist()
        photos = ranked.database.photos(places)
        entries = [Stack((place,), (photo,)) for place, photo in zip(places, photos, strict=True)]
    matches = []
    for rank, entry in enumerate(entries, start=offset + 1):
        place, image = entry.places[0], entry.photos[0].image
        # After a stage of reranking, photos of lower scores may come before others: no early end.
        if min_score is not None and ranking.score(place) < min_score:
            continue
        match = ranking.match(rank, place, image.name)
        matches.append(
            replace(
                match,
                id=image.id,
                width=image.width,
                height=image.height,
                confidence=ranked.sureness(place),
                copies=entry.copies(),
            )
        )
    total = sum(seconds.values()) + time.perf_counter() - started
    elapsed_ms = {name: 1e3 * value for name, value in {**seconds, "total": total}.items()}
    return SearchResult(ranked.examples, tuple(matches), elapsed_ms, stages, THRESHOLD, ranking.missing)


def combined(vectors: NDArray[np.float32], wrong: NDArray[np.bool_], *, gamma: float = GAMMA) -> NDArray[np.float32]:
    """Combine examples into one query (d,) of unit length.

    Args:
        vectors: (E, d) unit features f of the examples.
        wrong: (E,) bool, whether an example shows something else; at least one is False.
        gamma: how strongly wrong examples push the query away.
    """
    if len(vectors) > 1:
        query = vectors[~wrong].mean(axis=0, keepdims=True)
        if wrong.any():
            query = query - np.float32(gamma) * vectors[wrong].mean(axis=0)
        vectors = Features(query).unit().vectors
    combination: NDArray[np.float32] = vectors[0]
    return combination
