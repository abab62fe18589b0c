"""Collection and benchmark -> report: mean average precision and how well the reported boxes sit."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from udq import metrics, proposals, search
from udq.datasets import GroundTruth, Query
from udq.errors import InputError
from udq.images import Source
from udq.localise import localise
from udq.progress import Progress, silent
from udq.provenance import provenance
from udq.types import Features, Match

if TYPE_CHECKING:
    from udq.collection import Collection

# A person looks at the first page of results.
_TOP = 20


@dataclass(frozen=True)
class Outcome:
    """One query's ranking, scored.

    Attributes:
        query: the query.
        ap: its average precision, 0..1.
        matches: the first page of results, without the query photo (unless kept).
        overlaps: (rank, intersection over union) of each positive whose box is known.
    """

    query: Query
    ap: float
    matches: tuple[Match, ...]
    overlaps: tuple[tuple[int, float], ...]


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
    real_valued: bool = True,
    progress: Progress = silent,
) -> Evaluation:
    """Run every query of a benchmark against a collection.

    Args:
        collection: holds the photos that the ground truth names.
        truth: queries and answers.
        keep_query: whether a query photo stays in its own ranking, as in Oxford and Paris.
        real_valued: whether to look at all photos again and also rank by their features before quantization,
            to show what the codes lose. Takes about as long as building the collection did.
        progress: is told of each query.

    Raises:
        InputError: the ground truth names photos that the collection does not hold.
    """
    photos = collection.images
    names = [photo.name for photo in photos]
    ids = {name: i for i, name in enumerate(names)}
    check_names(truth, ids, {entry["image"] for entry in collection.broken})
    features = []
    with progress("queries", len(truth.queries)) as step:
        for query in truth.queries:
            photo = photos[ids[query.image]]
            features.append(collection.extractor.describe(photo.path, query.box)[1])
            step()
    outcomes = tuple(
        _score(query, search.rank(collection, feature), names, ids, keep_query)
        for query, feature in zip(truth.queries, features, strict=True)
    )
    report: dict[str, Any] = {
        "dataset": truth.dataset,
        "queries": len(outcomes),
        "images": len(collection),
        **_summary(outcomes),
        "bytes_per_region": collection.model.quantizer.bits / 8,
        "regions": sum(len(segment.codes) for segment in collection.segments),
        "learned_on": collection.model.origin,
        "network_precision": collection.extractor.precision,
        "keep_query": keep_query,
    }
    if real_valued:
        rankings = _rank_real_valued(collection, np.stack(features), progress)
        exact = tuple(
            _score(query, ranking, names, ids, keep_query)
            for query, ranking in zip(truth.queries, rankings, strict=True)
        )
        report["real_valued"] = _summary(exact)
    report["per_query"] = [
        {
            "query": outcome.query.image,
            "box": list(outcome.query.box) if outcome.query.box else None,
            "object": outcome.query.label,
            "ap": round(outcome.ap, 6),
            "positives": len(outcome.query.positives - (set() if keep_query else {outcome.query.image})),
        }
        for outcome in outcomes
    ]
    report["config"] = collection.config.to_dict()
    report["provenance"] = provenance(seed=collection.config.sample.seed)
    return Evaluation(report, outcomes)


def check_names(truth: GroundTruth, held: Names[str], broken: Names[str]) -> None:
    """Refuse answers about other photos; a positive that could not be read counts as one never found."""
    named = {query.image for query in truth.queries}
    named |= {name for query in truth.queries for name in query.positives if name not in broken}
    missing = sorted(named - set(held))
    if missing:
        raise InputError(
            f"the ground truth names {len(missing)} photos that the collection does not hold, '{missing[0]}' first; "
            "index the folder that its names are relative to"
        )


def _score(
    query: Query, ranking: search.Ranking, names: Sequence[str], ids: dict[str, int], keep_query: bool
) -> Outcome:
    left_out = set() if keep_query else {query.image}
    order = ranking.order if keep_query else ranking.order[ranking.order != ids[query.image]]
    positives = query.positives - left_out
    if not positives:
        raise InputError(f"query {query.image}: its only positive is itself; add others or use --keep-query")
    ap = metrics.average_precision([names[i] for i in order], positives, query.junk)
    place = {names[i]: position for position, i in enumerate(order, start=1)}
    overlaps = tuple(
        (place[name], metrics.intersection_over_union(ranking.box(ids[name]), drawn))
        for name, drawn in sorted(query.boxes.items())
        if name in positives and name in place
    )
    matches = tuple(ranking.match(rank, i, names[i]) for rank, i in enumerate(order[:_TOP], start=1))
    return Outcome(query, ap, matches, overlaps)


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    overlaps = [pair for outcome in outcomes for pair in outcome.overlaps]
    first_page = [overlap for place, overlap in overlaps if place <= _TOP]
    return {
        "mAP": round(float(np.mean([outcome.ap for outcome in outcomes])), 6),
        "localisation": {
            f"top_{_TOP}": _localisation(first_page),
            "all_positives": _localisation([overlap for _, overlap in overlaps]),
        },
    }


def _localisation(overlaps: Sequence[float]) -> dict[str, float | int | None]:
    if not overlaps:
        return {"boxes": 0, "mean_iou": None, "share_iou_50": None}
    values = np.array(overlaps)
    return {
        "boxes": len(values),
        "mean_iou": round(float(values.mean()), 6),
        "share_iou_50": round(float((values >= 0.5).mean()), 6),
    }


def _rank_real_valued(
    collection: Collection, features: NDArray[np.float32], progress: Progress
) -> Iterator[search.Ranking]:
    """Look at every photo again and rank by the distance of eq. 2 between features that nothing has quantized."""
    head = collection.model.head
    queries = head.apply(Features(features)).vectors
    images = collection.images
    ranked = collection.config.features.proposals in proposals.RANKED
    distance = np.full((len(queries), len(images)), np.inf, np.float32)
    boxes = np.zeros((len(queries), len(images), 4), np.float32)
    with progress("photos, for real-valued features", len(images)) as step:
        extracted = collection.extractor.extract(Source(image.name, image.path) for image in images)
        for i, photo in enumerate(extracted):
            if photo.broken is not None:
                raise InputError(f"{photo.broken}; put the photo back, or use --no-real-valued")
            regions = head.apply(photo.features).vectors
            # Both have unit length: ||q - f||^2 = 2 - 2 q.f
            squared = 2.0 - 2.0 * (queries @ regions.T)
            distance[:, i] = squared.min(axis=1)
            boxes[:, i] = localise(squared, photo.regions.boxes, ranked=ranked)
            step()
    for row, found in zip(distance, boxes, strict=True):
        yield search.Ranking(np.argsort(row, kind="stable"), row, found.__getitem__)
