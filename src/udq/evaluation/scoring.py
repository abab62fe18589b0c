"""Rankings and a ground truth -> the score of each query, and the means of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.datasets import Answers, Query
from udq.evaluation import metrics
from udq.evaluation.failures import Failures, failures
from udq.search.ranking import Ranking
from udq.types import Match

# Number of photos on the first page of results, which a person looks at.
TOP = 20
# The values of k of precision at k, those of the revisited protocols.
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Score:
    """One query at one difficulty.

    Attributes:
        ap: average precision, 0..1.
        precision: k -> precision at k, 0..1.
    """

    ap: float
    precision: Mapping[int, float]


@dataclass(frozen=True)
class Outcome:
    """The scored ranking of one query.

    Attributes:
        query: the query.
        photo: path of its photo.
        score: None for a query without positives, which the means leave out.
        matches: the first page of results, without the query photo unless it is kept.
        overlaps: (rank, intersection over union) of each ranked positive with a known box.
        difficulties: score at each difficulty of a protocol that has several; None if it has no positives there.
        failures: what went wrong, by ``query.positives``; None for a query without positives.
    """

    query: Query
    photo: Path
    score: Score | None
    matches: tuple[Match, ...]
    overlaps: tuple[tuple[int, float], ...]
    difficulties: Mapping[str, Score | None] = field(default_factory=dict)
    failures: Failures | None = None

    @property
    def ap(self) -> float:
        """Average precision, 0..1; 0 for a query without positives."""
        return self.score.ap if self.score else 0.0


def score(
    query: Query,
    photo: Path,
    ranking: Ranking,
    names: Sequence[str],
    ids: Mapping[str, int],
    *,
    keep_query: bool,
) -> Outcome:
    """Score the ranking of all photos by one query.

    Args:
        query: with its answers, by the names of photos in the collection.
        photo: path of the query photo.
        ranking: of all photos.
        names: of the photos, by image id.
        ids: image id of each photo, by name.
        keep_query: whether the photo of the query counts if it is in the collection.
    """
    own = None if keep_query else ids.get(query.image)
    left_out = frozenset() if own is None else {query.image}
    order = ranking.order if own is None else ranking.order[ranking.order != own]
    place = np.zeros(len(names), np.int64)  # 0: not ranked
    place[order] = np.arange(1, len(order) + 1)

    def ranks(wanted: Iterable[str]) -> NDArray[np.int64]:
        ordered = np.sort(place[[ids[name] for name in wanted if name in ids]])
        return ordered[ordered > 0]

    def measured(answers: Answers) -> Score | None:
        positives = answers.positives - left_out
        if not positives:
            return None
        # The result of metrics.places, computed from the few photos that count instead of all ranked ones.
        among = ranks(positives - answers.junk)
        places = (among - np.searchsorted(ranks(answers.junk), among)).tolist()
        return Score(metrics.average_precision_of(places, len(positives)), metrics.precision_at(RANKS, places))

    overlaps = {
        name: metrics.intersection_over_union(ranking.box(ids[name]), true_box)
        for name, true_box in sorted(query.boxes.items())
        if name in query.positives and name in ids and place[ids[name]]
    }
    positives = query.positives - left_out - query.junk
    return Outcome(
        query,
        photo,
        measured(Answers(query.positives, query.junk)),
        tuple(ranking.match(rank, i, names[i]) for rank, i in enumerate(order[:TOP], start=1)),
        tuple((int(place[ids[name]]), overlap) for name, overlap in overlaps.items()),
        {name: measured(answers) for name, answers in query.difficulties.items()},
        failures(query, positives, order, place, names, ids, ranking.match, overlaps=overlaps, page=TOP)
        if positives
        else None,
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the means of a benchmark as in its report: ``mAP``, ``mP@k``, ``difficulties`` and ``localisation``."""
    overlaps = [pair for outcome in outcomes for pair in outcome.overlaps]
    first_page = [overlap for place, overlap in overlaps if place <= TOP]
    levels = list(outcomes[0].difficulties)
    graded = {name: [outcome.difficulties[name] for outcome in outcomes] for name in levels}
    difficulties = {name: {"queries": sum(map(bool, scores)), **_means(scores)} for name, scores in graded.items()}
    return {
        **_means([outcome.score for outcome in outcomes]),
        **({"difficulties": difficulties} if difficulties else {}),
        "localisation": {
            f"top_{TOP}": _localisation(first_page),
            "all_positives": _localisation([overlap for _, overlap in overlaps]),
        },
    }


def _means(scores: Sequence[Score | None]) -> dict[str, float | None]:
    """Return the means over the queries that have positives; None if no query has any."""
    counted = [each for each in scores if each is not None]

    def mean(values: Sequence[float]) -> float | None:
        return round(float(np.mean(values)), 6) if values else None

    return {
        "mAP": mean([each.ap for each in counted]),
        **{f"mP@{k}": mean([each.precision[k] for each in counted]) for k in RANKS},
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
