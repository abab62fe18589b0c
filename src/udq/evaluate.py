"""Collection and benchmark -> report: mean average precision and how well the reported boxes sit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Names
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udq import images, proposals, rerank, scoring
from udq.database import Database
from udq.datasets import GroundTruth, Query, matching
from udq.errors import InputError
from udq.images import Source
from udq.localise import localise
from udq.progress import Progress, silent
from udq.provenance import provenance
from udq.ranking import Ranking
from udq.rerank.ranked import Ranked
from udq.scoring import Outcome
from udq.types import Box, Example, Features
from udq.words import counted

if TYPE_CHECKING:
    from udq.collection import Collection
    from udq.extract import Extracted


@dataclass(frozen=True)
class Evaluation:
    """A benchmark run: scored queries, with the codes and, where asked for, with real-valued features."""

    report: dict[str, Any]
    outcomes: tuple[Outcome, ...]


def evaluate(
    collection: Collection,
    truth: GroundTruth,
    *,
    keep_query: bool = False,
    queries: Path | None = None,
    real_valued: bool = False,
    features: Path | None = None,
    stages: Sequence[str] = (),
    progress: Progress = silent,
) -> Evaluation:
    """Run every query of a benchmark against a collection, as the benchmark's protocol says.

    Args:
        collection: holds the photos that the ground truth names.
        truth: queries and answers.
        keep_query: whether a query photo stays in its own ranking where the protocol leaves it out.
        queries: a folder of query photos that are not in the collection. By default, where the protocol has such,
            they are looked for beside the ground truth and in the folders of the collection's photos.
        real_valued: whether to rank by features before quantization too, to show what the codes lose. A collection
            does not hold them, so that they are extracted from all photos: about as long as building it took.
        features: with ``real_valued``, a folder where these features are kept (about 0.5 MB a photo) and found again
            next time (``udq.spool.FeatureCache``).
        stages: names of ``udq.rerank.STAGES``, by which rankings by codes are ranked again.
        progress: is told of each query.

    Raises:
        InputError: the ground truth names photos that the collection does not hold, the collection holds query photos
            that the protocol keeps outside, a query photo is nowhere, or a box is not inside its photo.
    """
    stages = rerank.check(stages)
    held = {photo.name: photo.path for photo in collection.images}
    broken = {entry["image"] for entry in collection.broken}
    asked = ask(truth, held, broken, keep_query=keep_query, queries=queries)
    truth, paths, kept = asked.truth, asked.paths, asked.kept
    described = []
    with progress("queries", len(truth.queries)) as step:
        for query, box in zip(truth.queries, asked.boxes, strict=True):
            described.append(collection.extractor.describe(paths[query.image], box)[1])
            step()

    database = collection.database
    pooled = np.stack(described)
    vectors = database.model.head.apply(Features(pooled)).vectors
    outcomes = score(database, asked, rank(database, asked, vectors, stages))
    report: dict[str, Any] = {
        "dataset": truth.dataset,
        "queries": len(outcomes),
        "images": len(collection),
        **scoring.summary(outcomes),
        "bytes_per_region": collection.model.quantizer.bits / 8,
        "regions": collection.regions,
        "learned_on": collection.model.origin,
        "network": collection.extractor.engine.library,
        "network_precision": collection.extractor.precision,
        "keep_query": kept,
        "rerank": list(stages),
        "notes": notes(truth, held, broken),
    }
    rows = [_row(outcome, kept) for outcome in outcomes]
    if real_valued:
        exact = score(database, asked, _rank_real_valued(collection, pooled, progress, features))
        report["real_valued"] = scoring.summary(exact)
        rows = [row | {"ap_real_valued": _ap(outcome.score)} for row, outcome in zip(rows, exact, strict=True)]
    report["per_query"] = rows
    report["config"] = collection.config.to_dict()
    report["provenance"] = provenance(seed=collection.config.sample.seed)
    return Evaluation(report, outcomes)


@dataclass(frozen=True)
class Asked:
    """The queries of a benchmark, as a database of photos can answer them.

    Attributes:
        truth: names photos as the database does.
        paths: where each query photo is.
        boxes: of each query, inside its photo.
        kept: whether a query's own photo counts in its ranking.
    """

    truth: GroundTruth
    paths: Mapping[str, Path]
    boxes: tuple[Box | None, ...]
    kept: bool


def ask(
    truth: GroundTruth,
    held: Mapping[str, Path],
    broken: Names[str] = (),
    *,
    keep_query: bool = False,
    queries: Path | None = None,
) -> Asked:
    """Bring a benchmark and a database of photos together, as the benchmark's protocol says.

    Args:
        truth: queries and answers.
        held: where each photo of the database is, by name.
        broken: names of photos that could not be read.
        keep_query, queries: as in ``evaluate``.

    Raises:
        InputError: as in ``evaluate``.
    """
    truth = matching.resolve(truth, [*held, *broken])
    check_outside(truth, held, keep_query=keep_query)
    check_names(truth, held, broken, outside=queries is not None)
    paths = matching.query_photos(truth, held, queries, beside=sorted({path.parent for path in held.values()}))
    kept = keep_query or truth.own_photo == "kept"
    if not kept:
        _check_positives(truth)
    return Asked(truth, paths, tuple(_box(query, paths[query.image]) for query in truth.queries), kept)


def rank(
    database: Database, asked: Asked, vectors: NDArray[np.float32], stages: Sequence[str] = ()
) -> Iterator[Ranking]:
    """Rank all photos by each query of a benchmark.

    Args:
        database: the photos in codes.
        asked: the queries; a photo that the protocol leaves out of its own ranking is in none.
        vectors: (Q, d) unit features of the queries.
        stages: names of ``udq.rerank.STAGES``, by which each ranking is ranked again.
    """
    places = {image.name: place for place, image in enumerate(database.images)}
    for query, box, vector in zip(asked.truth.queries, asked.boxes, vectors, strict=True):
        own = () if asked.kept or query.image not in places else (places[query.image],)
        examples = (Example(asked.paths[query.image], box),)
        ranked = Ranked.by(database, vector, wanted=None, without=own, examples=examples)
        yield rerank.rerank(ranked, stages).ranking


def score(database: Database, asked: Asked, rankings: Iterable[Ranking]) -> tuple[Outcome, ...]:
    """Score the rankings of a benchmark's queries, one each, by its protocol."""
    names = [image.name for image in database.images]
    places = {name: place for place, name in enumerate(names)}
    return tuple(
        scoring.score(query, asked.paths[query.image], ranking, names, places, keep_query=asked.kept)
        for query, ranking in zip(asked.truth.queries, rankings, strict=True)
    )


def check_names(truth: GroundTruth, held: Names[str], broken: Names[str], *, outside: bool = False) -> None:
    """Refuse answers about other photos; a positive that could not be read counts as one never found.

    Query photos must be held too, unless they are ``outside`` or the protocol keeps them there.
    """
    outside = outside or truth.own_photo == "outside"
    named = set() if outside else {query.image for query in truth.queries}
    for query in truth.queries:
        for positives in (query.positives, *(answers.positives for answers in query.difficulties.values())):
            named |= {name for name in positives if name not in broken}
    missing = sorted(named - set(held))
    if missing:
        raise InputError(
            f"the ground truth names {counted(len(missing), 'photo')} that the collection does not hold, "
            f"'{missing[0]}' first; "
            "index the folder that its names are relative to"
        )


def check_outside(truth: GroundTruth, held: Names[str], *, keep_query: bool) -> None:
    """Refuse a database with query photos in it, where the protocol keeps them out: each would find itself first."""
    if truth.own_photo != "outside":
        return
    if keep_query:
        raise InputError(f"--keep-query: the query photos of {truth.dataset} are not in the database; leave it out")
    inside = sorted({query.image for query in truth.queries} & set(held))
    if inside:
        raise InputError(
            f"{truth.dataset}: expected a database without query photos, found {len(inside)} of them in the "
            f"collection, '{inside[0]}' first; move them to a folder of their own (docs/benchmark.md), index the "
            "others, and name that folder with --queries"
        )


def _check_positives(truth: GroundTruth) -> None:
    for query in truth.queries:
        if query.positives == {query.image}:
            raise InputError(f"query {query.image}: its only positive is itself; add others or use --keep-query")


def _box(query: Query, path: Path) -> Box | None:
    """Return a query's box inside its photo.

    One that reaches less than a pixel beyond it is cut: corners in official files are rounded.
    """
    if query.box is None:
        return None
    width, height = images.shown_size(path)
    x1, y1, x2, y2 = query.box
    if min(x1, y1) > -1 and x2 < width + 1 and y2 < height + 1:
        return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    try:
        return images.check_box(query.box, width, height)
    except InputError as error:
        raise InputError(
            f"query {query.image}: {error}; the boxes of a ground truth belong to its own photos, at full size"
        ) from None


def notes(truth: GroundTruth, held: Names[str], broken: Names[str], *, distractors: bool = False) -> list[str]:
    """Say what keeps a figure from being compared with published ones, a line each.

    Photos of the answers are not among them: those that the collection lacks are an error (see ``ask``). Without others
    the search is easier than the published one.

    Args:
        truth: names photos as the database does.
        held: names of the database's photos.
        broken: names of photos that could not be read.
        distractors: whether photos of other data sets are meant to be there.
    """
    if truth.official is None:
        return []
    queries, photos = truth.official
    found = []
    if len(truth.queries) != queries:
        count = counted(len(truth.queries), "query", "queries")
        found.append(f"{count}; {truth.dataset} has {queries:,}: not the published protocol")
    own = set(truth.database)
    if len(own) != photos:
        count = counted(len(own), "photo")
        found.append(f"the ground truth lists {count}; {truth.dataset} has {photos:,}: not the published protocol")
    for what, names in (("missing", own - {*held, *broken}), ("unreadable", own & set(broken))):
        if names:
            count = f"{len(names):,} of the {counted(len(own), 'photo')} of {truth.dataset}"
            found.append(f"{what}: {count}, '{min(names)}' first; published figures are of all")
    strange = {*held, *broken} - own
    if strange and not distractors:
        count = counted(len(strange), "photo")
        found.append(
            f"not of {truth.dataset}: {count}, '{min(strange)}' first; published figures are of its own, or of these "
            "and known distractors"
        )
    return found


def _ap(score: scoring.Score | None) -> float | None:
    return round(score.ap, 6) if score else None


def _row(outcome: Outcome, kept: bool) -> dict[str, Any]:
    query = outcome.query
    row: dict[str, Any] = {
        "query": query.image,
        "box": list(query.box) if query.box else None,
        "object": query.label,
        "ap": _ap(outcome.score),
        "positives": len(query.positives - (set() if kept else {query.image})),
    }
    if outcome.difficulties:
        row["difficulties"] = {
            name: {
                "ap": _ap(found),
                "positives": len(query.difficulties[name].positives),
            }
            for name, found in outcome.difficulties.items()
        }
    return row


def _rank_real_valued(
    collection: Collection, features: NDArray[np.float32], progress: Progress, folder: Path | None = None
) -> Iterator[Ranking]:
    """Rank by the distance of eq. 2 between features before quantization, extracted or kept in a folder."""
    extract: Callable[[Iterable[Source]], Iterable[Extracted]] = collection.extractor.extract
    if folder is not None:
        from udq.spool import FeatureCache  # imports torch

        extract = FeatureCache(folder, collection.extractor.proposing(), collection.config).extract
    head = collection.model.head
    queries = head.apply(Features(features)).vectors
    images = collection.images
    ranked = collection.config.features.proposals in proposals.RANKED
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
            boxes[:, i] = localise(squared, photo.regions.boxes, ranked=ranked)
            step()
    for row, found in zip(distance, boxes, strict=True):
        yield Ranking(np.argsort(row, kind="stable"), row, found.__getitem__)
