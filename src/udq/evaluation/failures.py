"""What went wrong with a query: wrong photos before right ones, right ones that came late, boxes that sit badly.

Of each kind the first few are kept and the others counted, so that a benchmark of many queries over a large collection
stays small in memory: a ranking is forgotten once it is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.datasets import Query
from udq.types import Match

# A row of photos, which is what a person looks at.
KEPT = 6
# Intersection over union under which a box counts as badly placed, as detection benchmarks have it.
LEAST_OVERLAP = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Some(Generic[T]):
    """The first of many: ``shown`` of ``total``."""

    shown: tuple[T, ...]
    total: int


@dataclass(frozen=True)
class Failures:
    """What went wrong with one query. Ranks are those of the whole ranking, in which junk has a place.

    Attributes:
        ranks: of every positive that is ranked, in order, from 1.
        unranked: positives that are not: photos that could not be read when the collection was built.
        false_positives: wrong photos before the last positive, best first.
        misses: positives with a wrong photo before them, worst first.
        misplaced: positives of the first page whose box has an IoU with the true one under ``LEAST_OVERLAP``, with
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
        place: rank of each image, from 1, by image id; 0 where it is not ranked.
        names: of the photos; position is image id.
        ids: the other way round.
        match: rank, image id and name -> the photo as a result, with the box that is reported for it.
        overlaps: IoU of the reported box with the true one, by name, where that is known.
        page: how many photos the first page of results has.
    """
    ranked = sorted((int(place[ids[name]]), name) for name in positives if name in ids and place[ids[name]])
    junk = np.sort(place[[ids[name] for name in query.junk - positives if name in ids]])
    junk = junk[junk > 0]
    ranks = np.array([rank for rank, _ in ranked], np.int64)
    # Wrong photos before each positive: all photos before it, less the positives and the junk among them.
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
