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
from udq.evaluation.by_size import SIZES, by_size
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
class SizeOutcome:
    """One query, with only the positives whose object has one size; its other positives are junk.

    Attributes:
        score: by these positives.
        positives: their number, at least 1.
        overlaps: (rank, intersection over union) of each that is ranked, as in ``Outcome.overlaps``.
    """

    score: Score
    positives: int
    overlaps: tuple[tuple[int, float], ...]


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
        sizes: the same for each class of object size (``by_size.SIZES``), by key; classes without positives are
            missing.
    """

    query: Query
    photo: Path
    score: Score | None
    matches: tuple[Match, ...]
    overlaps: tuple[tuple[int, float], ...]
    difficulties: Mapping[str, Score | None] = field(default_factory=dict)
    failures: Failures | None = None
    sizes: Mapping[str, SizeOutcome] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        """Average precision, 0..1; 0 for a query without positives."""
        return self.score.ap if self.score else 0.0


@dataclass(frozen=True)
class _Ranks:
    """The ranking of one query, for lookups by name.

    Attributes:
        place: rank of each photo, from 1, by image id; 0 if it is not ranked.
        ids: image id of each photo, by name.
        left_out: the query photo, unless it counts.
    """

    place: NDArray[np.int64]
    ids: Mapping[str, int]
    left_out: frozenset[str]

    def of(self, wanted: Iterable[str]) -> NDArray[np.int64]:
        """Return the ranks of the photos that are ranked, in order."""
        ordered = np.sort(self.place[[self.ids[name] for name in wanted if name in self.ids]])
        return ordered[ordered > 0]

    def score(self, answers: Answers) -> Score | None:
        """Return the score by these answers; None if there are no positives."""
        positives = answers.positives - self.left_out
        if not positives:
            return None
        # The result of metrics.places, computed from the few photos that count instead of all ranked ones.
        among = self.of(positives - answers.junk)
        places = (among - np.searchsorted(self.of(answers.junk), among)).tolist()
        return Score(metrics.average_precision_of(places, len(positives)), metrics.precision_at(RANKS, places))


def score(
    query: Query,
    photo: Path,
    ranking: Ranking,
    names: Sequence[str],
    ids: Mapping[str, int],
    *,
    keep_query: bool,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Outcome:
    """Score the ranking of all photos by one query.

    Args:
        query: with its answers, by the names of photos in the collection.
        photo: path of the query photo.
        ranking: of all photos.
        names: of the photos, by image id.
        ids: image id of each photo, by name.
        keep_query: whether the photo of the query counts if it is in the collection.
        sizes: width and height of each photo in pixels, by image id, to score by the size of the object too.
    """
    own = None if keep_query else ids.get(query.image)
    left_out = frozenset() if own is None else frozenset({query.image})
    order = ranking.order if own is None else ranking.order[ranking.order != own]
    place = np.zeros(len(names), np.int64)  # 0: not ranked
    place[order] = np.arange(1, len(order) + 1)
    ranks = _Ranks(place, ids, left_out)
    overlaps = {
        name: metrics.intersection_over_union(ranking.box(ids[name]), true_box)
        for name, true_box in sorted(query.boxes.items())
        if name in query.positives and name in ids and place[ids[name]]
    }
    positives = query.positives - left_out - query.junk
    return Outcome(
        query,
        photo,
        ranks.score(Answers(query.positives, query.junk)),
        tuple(ranking.match(rank, i, names[i]) for rank, i in enumerate(order[:TOP], start=1)),
        tuple((int(place[ids[name]]), overlap) for name, overlap in overlaps.items()),
        {name: ranks.score(answers) for name, answers in query.difficulties.items()},
        failures(query, positives, order, place, names, ids, ranking.match, overlaps=overlaps, page=TOP)
        if positives
        else None,
        {} if sizes is None else _score_sizes(query, ranks, sizes, overlaps),
    )


def _score_sizes(
    query: Query, ranks: _Ranks, sizes: Sequence[tuple[int, int]], overlaps: Mapping[str, float]
) -> dict[str, SizeOutcome]:
    """Score a query once for each class of object size: positives of other or unknown sizes are junk."""
    counted = query.positives - ranks.left_out
    photos = {name: sizes[ranks.ids[name]] for name in counted & query.boxes.keys() if name in ranks.ids}
    found = {}
    for key, positives in by_size(query.boxes, photos).items():
        score = ranks.score(Answers(positives, query.junk | (query.positives - positives)))
        assert score is not None
        known = sorted(positives & overlaps.keys())
        pairs = tuple((int(ranks.place[ranks.ids[name]]), overlaps[name]) for name in known)
        found[key] = SizeOutcome(score, len(positives), pairs)
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the means of a benchmark as in its report.

    Returns:
        ``mAP``, ``mP@k``, ``difficulties`` (if the protocol has several), ``localisation``, and ``by_size``: for each
        class of object size ``queries``, ``positives``, ``mAP`` and ``localisation``, or None if the true box of no
        positive is known.
    """
    levels = list(outcomes[0].difficulties)
    graded = {name: [outcome.difficulties[name] for outcome in outcomes] for name in levels}
    difficulties = {name: {"queries": sum(map(bool, scores)), **_means(scores)} for name, scores in graded.items()}
    return {
        **_means([outcome.score for outcome in outcomes]),
        **({"difficulties": difficulties} if difficulties else {}),
        "localisation": _localisation(pair for outcome in outcomes for pair in outcome.overlaps),
        "by_size": _by_size(outcomes),
    }


def _by_size(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]] | None:
    if not any(outcome.sizes for outcome in outcomes):
        return None
    classes = {
        size.key: [outcome.sizes[size.key] for outcome in outcomes if size.key in outcome.sizes] for size in SIZES
    }
    return {
        key: {
            "queries": len(of_class),
            "positives": sum(each.positives for each in of_class),
            "mAP": _means([each.score for each in of_class])["mAP"],
            "localisation": _localisation(pair for each in of_class for pair in each.overlaps),
        }
        for key, of_class in classes.items()
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


def _localisation(overlaps: Iterable[tuple[int, float]]) -> dict[str, dict[str, float | int | None]]:
    """Return how well boxes fit, on the first page and in the whole ranking, from (rank, IoU) of each."""
    pairs = list(overlaps)
    first_page = [overlap for place, overlap in pairs if place <= TOP]
    return {f"top_{TOP}": _fit(first_page), "all_positives": _fit([overlap for _, overlap in pairs])}


def _fit(overlaps: Sequence[float]) -> dict[str, float | int | None]:
    if not overlaps:
        return {"boxes": 0, "mean_iou": None, "share_iou_50": None}
    values = np.array(overlaps)
    return {
        "boxes": len(values),
        "mean_iou": round(float(values.mean()), 6),
        "share_iou_50": round(float((values >= 0.5).mean()), 6),
    }
