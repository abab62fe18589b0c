"""A collection and a benchmark -> a report: mean average precision and the overlap of the reported boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Names
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udq.common.progress import Progress, silent
from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import MAX_MEGAPIXELS
from udq.datasets import GroundTruth, matching, protocol
from udq.errors import InputError
from udq.evaluation import scoring, truth_boxes
from udq.evaluation.scoring import Outcome
from udq.features import proposals
from udq.photos.sandbox import Decoder
from udq.photos.source import Source
from udq.search import rerank
from udq.search.database import Database
from udq.search.localisation import localise
from udq.search.ranking import Ranking
from udq.search.reader import Reader
from udq.search.rerank.ranked import RankedQuery
from udq.types import Box, Example, Features

if TYPE_CHECKING:
    from udq.features.extractor import ExtractedPhoto


@dataclass(frozen=True)
class Evaluation:
    """A benchmark run: the report, and the scored ranking of each query by codes."""

    report: dict[str, Any]
    outcomes: tuple[Outcome, ...]


@one_core_each()
def evaluate(
    collection: Reader,
    truth: GroundTruth,
    *,
    keep_query: bool = False,
    queries: Path | None = None,
    real_valued: bool = False,
    features: Path | None = None,
    stages: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Run every query of a benchmark against a collection, by the protocol of the benchmark.

    Args:
        collection: contains the photos that the ground truth names.
        truth: queries and answers.
        keep_query: whether a query photo stays in its own ranking even if the protocol leaves it out.
        queries: a folder of query photos that are not in the collection. If the protocol has such queries, the default
            is to search for them beside the ground truth and in the folders of the collection's photos.
        real_valued: whether to rank by features before quantization too, to measure the loss by the codes. They are
            extracted from all photos, because a collection does not hold them: about as long as building it took.
        features: with ``real_valued``, a folder that keeps these features for the next time, about 0.5 MB per photo
            (``udq.features.feature_store.FeatureStore``).
        stages: names of ``udq.search.rerank.STAGES``, which rerank the rankings by codes; the default of a search if
            None.
        progress: called for each query.

    Raises:
        InputError: the ground truth names photos that are not in the collection, the collection contains query photos
            that the protocol excludes, a query photo is not found, or a box is not inside its photo.
    """
    stages = rerank.resolve(stages, collection.database)
    photos = {photo.name: photo.path for photo in collection.images}
    broken = {entry["image"] for entry in collection.broken}
    sizes = {photo.name: (photo.width, photo.height) for photo in collection.images}
    limit = collection.config.images.max_megapixels
    resolved = protocol_queries(truth, photos, broken, keep_query=keep_query, queries=queries, sizes=sizes, limit=limit)
    database = collection.database
    pooled = _query_features(collection, resolved, progress)
    vectors = database.model.head.apply(Features(pooled)).vectors
    ranked = rankings(database, resolved, vectors, stages, decoder=collection.decoder, progress=progress)
    outcomes = score(database, resolved, ranked)
    report: dict[str, Any] = {
        "dataset": resolved.truth.dataset,
        "queries": len(outcomes),
        "images": len(collection),
        **scoring.summary(outcomes),
        "bytes_per_region": collection.model.quantizer.bits / 8,
        "regions": collection.regions,
        "learned_on": collection.model.origin,
        "network": collection.extractor.engine.library,
        "network_precision": collection.extractor.precision,
        "keep_query": resolved.keep_query,
        "rerank": list(stages),
        "notes": protocol.notes(resolved.truth, photos, broken),
    }
    rows = [_row(outcome, resolved.keep_query) for outcome in outcomes]
    if real_valued:
        exact = score(database, resolved, _rank_real_valued(collection, pooled, progress, features))
        report["real_valued"] = scoring.summary(exact)
        rows = [row | {"ap_real_valued": _ap(outcome.score)} for row, outcome in zip(rows, exact, strict=True)]
    facts = {"config": collection.config.to_dict(), "provenance": provenance(seed=collection.config.sample.seed)}
    return Evaluation(report | {"per_query": rows} | facts, outcomes)


@dataclass(frozen=True)
class ProtocolQueries:
    """The queries of a benchmark, resolved against the photos of a database.

    Attributes:
        truth: queries and answers, by the names of photos in the database.
        paths: path of each query photo, by name.
        boxes: of each query, inside its photo.
        keep_query: whether the photo of a query counts in its own ranking.
    """

    truth: GroundTruth
    paths: Mapping[str, Path]
    boxes: tuple[Box | None, ...]
    keep_query: bool


def protocol_queries(
    truth: GroundTruth,
    photos: Mapping[str, Path],
    broken: Names[str] = (),
    *,
    keep_query: bool = False,
    queries: Path | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    limit: int = MAX_MEGAPIXELS,
) -> ProtocolQueries:
    """Resolve the queries of a benchmark against the photos of a database, by the protocol of the benchmark.

    Args:
        truth: queries and answers.
        photos: path of each photo of the database, by name.
        broken: names of photos that could not be read.
        keep_query, queries: as in ``evaluate``.
        sizes: width and height in pixels of each photo of the database; read from the files if None.
        limit: the largest number of megapixels of a query photo.

    Raises:
        InputError: as in ``evaluate``.
    """
    truth = matching.resolve(truth, [*photos, *broken])
    protocol.check_outside(truth, photos, keep_query=keep_query)
    protocol.check_names(truth, photos, broken, outside=queries is not None)
    paths = matching.query_photos(truth, photos, queries, beside=sorted({path.parent for path in photos.values()}))
    keep_query = keep_query or truth.own_photo == "kept"
    if not keep_query:
        protocol.check_positives(truth)
    return ProtocolQueries(truth, paths, truth_boxes.inside(truth, paths, photos, sizes, limit=limit), keep_query)


def rankings(
    database: Database,
    queries: ProtocolQueries,
    vectors: NDArray[np.float32],
    stages: Sequence[str] = (),
    *,
    decoder: Decoder | None = None,
    progress: Progress = silent,
) -> Iterator[Ranking]:
    """Rank all photos by each query of a benchmark.

    Args:
        database: the photos in codes.
        queries: of the benchmark; if the protocol leaves the photo of a query out, its ranking does not contain it.
        vectors: (Q, d) unit features of the queries.
        stages: names of ``udq.search.rerank.STAGES``, which rerank each ranking.
        decoder: decodes photos for stages that need their pixels; that of this process if None.
        progress: called for each query.
    """
    places = {image.name: place for place, image in enumerate(database.images)}
    with progress("rankings", len(vectors)) as step:
        for query, box, vector in zip(queries.truth.queries, queries.boxes, vectors, strict=True):
            own = () if queries.keep_query or query.image not in places else (places[query.image],)
            examples = (Example(queries.paths[query.image], box),)
            ranked = RankedQuery.search(database, vector, wanted=None, without=own, examples=examples, decoder=decoder)
            yield rerank.apply_stages(ranked, stages).ranking
            step()


def score(database: Database, queries: ProtocolQueries, rankings: Iterable[Ranking]) -> tuple[Outcome, ...]:
    """Score one ranking for each query of a benchmark, by its protocol."""
    names = [image.name for image in database.images]
    places = {name: place for place, name in enumerate(names)}
    sizes = [(image.width, image.height) for image in database.images]
    keep = queries.keep_query
    return tuple(
        scoring.score(query, queries.paths[query.image], ranking, names, places, keep_query=keep, sizes=sizes)
        for query, ranking in zip(queries.truth.queries, rankings, strict=True)
    )


def _query_features(collection: Reader, queries: ProtocolQueries, progress: Progress) -> NDArray[np.float32]:
    """Return the pooled features (Q, D) of the queries."""
    features = []
    with progress("queries", len(queries.boxes)) as step:
        for query, box in zip(queries.truth.queries, queries.boxes, strict=True):
            features.append(collection.extractor.describe(queries.paths[query.image], box)[1])
            step()
    return np.stack(features)


def _ap(score: scoring.Score | None) -> float | None:
    return round(score.ap, 6) if score else None


def _row(outcome: Outcome, keep_query: bool) -> dict[str, Any]:
    query = outcome.query
    row: dict[str, Any] = {
        "query": query.image,
        "box": list(query.box) if query.box else None,
        "object": query.label,
        "ap": _ap(outcome.score),
        "positives": len(query.positives - (set() if keep_query else {query.image})),
    }
    if outcome.difficulties:
        row["difficulties"] = {
            name: {
                "ap": _ap(graded),
                "positives": len(query.difficulties[name].positives),
            }
            for name, graded in outcome.difficulties.items()
        }
    return row


def _rank_real_valued(
    collection: Reader, features: NDArray[np.float32], progress: Progress, folder: Path | None = None
) -> Iterator[Ranking]:
    """Rank by the distance of eq. 2 between features before quantization, extracted or stored in a folder."""
    extract: Callable[[Iterable[Source]], Iterable[ExtractedPhoto]] = collection.extractor.extract
    if folder is not None:
        from udq.features.feature_store import FeatureStore  # imports torch

        extract = FeatureStore(folder, collection.extractor.proposing(), collection.config).extract
    head = collection.model.head
    queries = head.apply(Features(features)).vectors
    images = collection.images
    ranked, position = collection.config.features.proposals in proposals.RANKED, collection.config.search.position
    distance = np.full((len(queries), len(images)), np.inf, np.float32)
    boxes = np.zeros((len(queries), len(images), 4), np.float32)
    with progress("photos, for real-valued features", len(images)) as step:
        for i, photo in enumerate(extract(Source(image.name, image.path) for image in images)):
            if photo.broken is not None:
                raise InputError(f"{photo.broken}; put the photo back, or leave out --real-valued")
            regions = head.apply(photo.features).vectors
            # Both have unit length: ||q - f||^2 = 2 - 2 q.f
            squared = 2.0 - 2.0 * (queries @ regions.T)
            distance[:, i] = squared.min(axis=1)
            boxes[:, i] = localise(squared, photo.regions.boxes, ranked=ranked, position=position)
            step()
    for row, found in zip(distance, boxes, strict=True):
        yield Ranking(np.argsort(row, kind="stable"), row, found.__getitem__)
