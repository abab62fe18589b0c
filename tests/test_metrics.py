"""Metrics against the arithmetic of the official evaluators and values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.metrics import average_precision, intersection_over_union


def compute_ap(ranked, positives, junk):
    """The loop of the Oxford buildings evaluator, compute_ap.cpp, statement by statement."""
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    intersect_size, i, j = 0, 0, 0
    while i < len(ranked):
        if ranked[i] in junk:
            i += 1
            continue
        if ranked[i] in positives:
            intersect_size += 1
        recall = intersect_size / len(positives)
        precision = intersect_size / (j + 1.0)
        ap += (recall - old_recall) * ((old_precision + precision) / 2.0)
        old_recall, old_precision = recall, precision
        i += 1
        j += 1
    return ap


@given(
    ranked=st.permutations([f"photo-{i}" for i in range(12)]),
    kinds=st.lists(st.sampled_from(["positive", "junk", "other"]), min_size=12, max_size=12),
    shown=st.integers(0, 12),
)
def test_average_precision_is_the_official_evaluators(ranked, kinds, shown):
    of = {kind: {f"photo-{i}" for i, found in enumerate(kinds) if found == kind} for kind in ("positive", "junk")}
    if not of["positive"]:
        of["positive"] = {"photo-never-ranked"}
    found = average_precision(ranked[:shown], of["positive"], of["junk"])

    assert found == pytest.approx(compute_ap(ranked[:shown], of["positive"], of["junk"]), abs=1e-12)
    assert 0 <= found <= 1


@pytest.mark.parametrize(
    ("ranked", "positives", "junk", "expected"),
    [
        ("ab", "ab", "", 1.0),
        ("xa", "a", "", 0.25),  # between precision 0 before and 1/2 at the second rank
        ("axb", "ab", "", 0.5 + 0.5 * (1 / 2 + 2 / 3) / 2),
        ("jab", "ab", "j", 1.0),  # junk takes no rank
        ("a", "ab", "", 0.5),  # a positive that is never found counts in the denominator
        ("", "a", "", 0.0),
    ],
)
def test_average_precision_by_hand(ranked, positives, junk, expected):
    assert average_precision(list(ranked), set(positives), set(junk)) == pytest.approx(expected)


def test_no_positives_is_an_error():
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(["a"], [])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # touching is not overlapping
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
    ],
)
def test_intersection_over_union_by_hand(one, other, expected):
    assert intersection_over_union(one, other) == pytest.approx(expected)


sides = st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(1, 100)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(one=sides, other=sides)
def test_intersection_over_union_is_symmetric_and_one_only_for_itself(one, other):
    found = intersection_over_union(one, other)

    assert found == pytest.approx(intersection_over_union(other, one))
    assert 0 <= found <= 1 + 1e-9
    assert intersection_over_union(one, one) == pytest.approx(1)
