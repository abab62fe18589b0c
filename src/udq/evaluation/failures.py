"""What went wrong with a query: false positives, positives that are ranked late, and badly placed boxes.

The first few of each kind are kept and the others only counted, so that a benchmark with many queries on a large
collection needs little memory: a ranking can be discarded once it is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.datasets import Query
from udq.types import Match

# Number of examples of each kind that are kept: one row of photos in a report.
KEPT = 6
# Intersection over union below which a box counts as badly placed, as in detection benchmarks.
LEAST_OVERLAP = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Some(Generic[T]):
    """The first of many: ``shown`` of ``total``."""

    shown: tuple[T, ...]
    total: int


@dataclass(frozen=True)
class Failures:
    """What went wrong with one query. Ranks are those of the whole ranking, junk included.

    Attributes:
        ranks: rank of every ranked positive, from 1, in order.
        unranked: positives that are not ranked: photos that could not be read when the collection was built.
        false_positives: wrong photos before the last positive, best first.
        misses: positives after a wrong photo, worst first.
        misplaced: positives on the first page whose box has an IoU below ``LEAST_OVERLAP`` with the true box, with
            that IoU; worst first.
    """

    ranks: tuple[int, ...]
    unranked: tuple[str, ...]
    false_positives: Some[Match]
    misses: Some[Match]
    misplaced: Some[tuple[Match, float]]


def failures(
    query: Query,
    positives: frozenset[str],
    order: NDArray[np.int64],
    place: NDArray[np.int64],
    names: Sequence[str],
    ids: Mapping[str, int],
    match: Callable[[int, int, str], Match],
    *,
    overlaps: Mapping[str, float],
    page: int,
) -> Failures:
    """Find what went wrong with a query.

    Args:
        query: the query.
        positives: those that count, without junk and without a query photo that is left out.
        order: image ids, best first.
        place: rank of each image, from 1, by image id; 0 if it is not ranked.
        names: of the photos, by image id.
        ids: image id of each photo, by name.
        match: rank, image id and name -> the photo as a search result, with its reported box.
        overlaps: IoU of the reported with the true box, by name, if the true box is known.
        page: number of photos on the first page of results.
    """
    ranked = sorted((int(place[ids[name]]), name) for name in positives if name in ids and place[ids[name]])
    junk = np.sort(place[[ids[name] for name in query.junk - positives if name in ids]])
    junk = junk[junk > 0]
    ranks = np.array([rank for rank, _ in ranked], np.int64)
    # Wrong photos before each positive: all photos before it, minus the positives and the junk among them.
    before = ranks - 1 - np.arange(len(ranks)) - np.searchsorted(junk, ranks)
    known = {ids[name] for name in positives | query.junk if name in ids}
    wrong: list[Match] = []
    last = ranked[-1][0] if ranked else 0
    for rank, image in enumerate(order[:last].tolist(), start=1):
        if len(wrong) == KEPT:
            break
        if image not in known:
            wrong.append(match(rank, image, names[image]))
    late = [pair for pair, ahead in zip(ranked, before, strict=True) if ahead][::-1]
    badly = sorted(
        (overlaps[name], rank, name)
        for rank, name in ranked
        if rank <= page and overlaps.get(name, 1.0) < LEAST_OVERLAP
    )  # fmt: skip
    return Failures(
        tuple(ranks.tolist()),
        tuple(sorted(positives - {name for _, name in ranked})),
        Some(tuple(wrong), int(before[-1]) if ranked else 0),
        Some(tuple(match(rank, ids[name], name) for rank, name in late[:KEPT]), len(late)),
        Some(
            tuple((match(rank, ids[name], name), overlap) for overlap, rank, name in badly[:KEPT]),
            len(badly),
        ),
    )
