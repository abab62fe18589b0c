"""Average precision, precision at k and intersection over union, as the official evaluators compute them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from udq.types import Box


def average_precision(ranked: Sequence[str], positives: Collection[str], junk: Collection[str] = ()) -> float:
    """Return the trapezoidal average precision of the Oxford buildings evaluator.

    Junk does not advance the rank. The denominator counts all positives, ranked or not.

    Args:
        ranked: names of photos, best first.
        positives: names that should come first; at least one.
        junk: names that count neither way.

    Returns:
        0..1.
    """
    if not positives:
        raise ValueError("average precision: expected at least one positive, found none")
    return average_precision_of(places(ranked, positives, junk), len(set(positives)))


def places(ranked: Sequence[str], positives: Collection[str], junk: Collection[str] = ()) -> list[int]:
    """Return the ranks of the positives that are ranked, from 1, in order; junk does not advance the rank."""
    wanted, ignored = set(positives), set(junk)
    counted = (name for name in ranked if name not in ignored)
    return [place for place, name in enumerate(counted, start=1) if name in wanted]


def average_precision_of(places: Sequence[int], positives: int) -> float:
    """Return the average precision of ``average_precision`` from the ranks of the positives.

    Args:
        places: ranks of the positives that are ranked, from 1, in order.
        positives: number of positives, ranked or not; >= 1.
    """
    area = 0.0
    for count, place in enumerate(places, start=1):
        # Recall grows only at positives; the trapezoid is between the precision one rank before and at this rank.
        before = (count - 1) / (place - 1) if place > 1 else 1.0
        area += (before + count / place) / 2 / positives
    return area


def precision_at(ranks: Sequence[int], places: Sequence[int]) -> dict[int, float]:
    """Return the share of positives among the first k photos, as the revisited evaluator computes it.

    If the last positive is ranked before k, only the photos up to it count: a query with three positives has a
    precision of 1 at k = 10 if they come first.

    Args:
        ranks: the values of k, each >= 1.
        places: ranks of the positives that are ranked, from 1, in order, as ``places`` returns them.

    Returns:
        k -> precision, 0..1; 0 if no positive is ranked.
    """
    last = places[-1] if places else 1
    return {k: sum(place <= k for place in places) / min(last, k) for k in ranks}


def intersection_over_union(one: Box, other: Box) -> float:
    """Return the area of the intersection of two boxes over the area of their union, 0..1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
