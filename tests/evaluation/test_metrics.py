"""Metrics against the arithmetic of the official evaluators and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.evaluation.metrics import average_precision, intersection_over_union, places, precision_at


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


def test_average_precision_is_the_official_evaluators_on_a_thousand_rankings():
    """Photos ranked by scores with ties, some junk, and positives that are not ranked."""
    random = np.random.default_rng(0)
    for _ in range(1000):
        count = int(random.integers(1, 60))
        names = [f"photo-{i}" for i in range(count)]
        kinds = random.choice(["positive", "junk", "other"], size=count, p=[0.3, 0.2, 0.5])
        positives = {name for name, kind in zip(names, kinds, strict=True) if kind == "positive"}
        junk = {name for name, kind in zip(names, kinds, strict=True) if kind == "junk"}
        positives |= {f"absent-{i}" for i in range(int(random.integers(0, 4)))} or {"absent"}
        distance = random.integers(0, 8, size=count)  # eight distances for up to sixty photos: ties everywhere
        ranked = [names[i] for i in np.argsort(distance, kind="stable")]

        assert average_precision(ranked, positives, junk) == pytest.approx(
            compute_ap(ranked, positives, junk), abs=1e-6
        )


def compute_map(ranks, gnd, kappas):
    """The revisited evaluator: average precision and precisions at ``kappas`` of each query.

    ``ranks`` has a column of photo numbers for each query, ``gnd`` a record of ``ok`` and ``junk``; a query without
    positives is NaN, which the means leave out.
    """

    def compute_ap(places, wanted):
        ap = 0.0
        for j, place in enumerate(places):
            before = 1.0 if place == 0 else j / place
            ap += (before + (j + 1) / (place + 1)) / wanted / 2
        return ap

    aps, prs = np.full(len(gnd), np.nan), np.full((len(gnd), len(kappas)), np.nan)
    for i, answers in enumerate(gnd):
        if not len(answers["ok"]):
            continue
        pos = np.flatnonzero(np.isin(ranks[:, i], answers["ok"]))
        junk = np.flatnonzero(np.isin(ranks[:, i], answers["junk"]))
        pos = np.array([place - (junk < place).sum() for place in pos])
        aps[i] = compute_ap(pos, len(answers["ok"]))
        for j, kappa in enumerate(kappas):
            kq = min(max(pos + 1), kappa)
            prs[i, j] = (pos + 1 <= kq).sum() / kq
    return aps, prs


def test_both_measures_are_the_revisited_evaluators():
    random = np.random.default_rng(1)
    photos, queries, kappas = 80, 200, [1, 5, 10]
    ranks = np.stack([random.permutation(photos) for _ in range(queries)], axis=1)
    gnd = []
    for _ in range(queries):
        shuffled = random.permutation(photos)
        positives, junk = int(random.integers(0, 20)), int(random.integers(0, 20))
        gnd.append({"ok": shuffled[:positives], "junk": shuffled[positives : positives + junk]})
    aps, prs = compute_map(ranks, gnd, kappas)
    assert np.isnan(aps).any()

    for i, answers in enumerate(gnd):
        if np.isnan(aps[i]):
            continue
        ranked, positives, junk = ([str(n) for n in part] for part in (ranks[:, i], answers["ok"], answers["junk"]))
        assert average_precision(ranked, positives, junk) == pytest.approx(aps[i], abs=1e-9)
        found = precision_at(kappas, places(ranked, positives, junk))
        assert [found[k] for k in kappas] == pytest.approx(list(prs[i]), abs=1e-9)


@pytest.mark.parametrize(
    ("ranked", "positives", "junk", "k", "expected"),
    [
        ("abx", "ab", "", 1, 1.0),
        ("xab", "ab", "", 1, 0.0),
        ("xab", "ab", "", 5, 2 / 3),  # the last positive is third, so only three places count
        ("abx", "ab", "", 10, 1.0),
        ("jaxb", "ab", "j", 2, 1 / 2),  # junk takes no rank
        ("axx", "ab", "", 2, 1.0),  # an absent positive has no rank
        ("xxx", "a", "", 5, 0.0),
    ],
)
def test_precision_by_hand(ranked, positives, junk, k, expected):
    assert precision_at([k], places(list(ranked), set(positives), set(junk))) == {k: pytest.approx(expected)}
