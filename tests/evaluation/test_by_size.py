"""Accuracy by the size of the object, against values worked out by hand and the metrics of a whole list."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.datasets import Query
from udq.evaluation import metrics, scoring
from udq.evaluation.by_size import SIZES, by_size, size_class, with_positives
from udq.search.ranking import Ranking

# A photo of 100 x 100 pixels and a box of each class, by the first letter of its name.
SIZE = (100, 100)
BOXES = {"t": (0, 0, 9, 9), "s": (0, 0, 20, 20), "m": (0, 0, 40, 40), "l": (0, 0, 90, 90)}
KEYS = dict(zip(BOXES, (size.key for size in SIZES), strict=True))


def scored(ranked, query, *, keep_query=False, known=True):
    """Score a ranking of names; each photo reports the box of the left half of the photo."""
    names = sorted(ranked)
    ids = {name: i for i, name in enumerate(names)}
    order = np.array([ids[name] for name in ranked])
    reported = np.array([0, 0, 50, 100], np.float32)
    ranking = Ranking(order, np.zeros(len(names), np.float32), lambda _: reported)
    sizes = [SIZE] * len(names) if known else None
    return scoring.score(query, None, ranking, names, ids, keep_query=keep_query, sizes=sizes)


def query(positives, *, junk=(), boxed=None, image="q"):
    """A query whose positives have the boxes of their first letters, or only those in ``boxed``."""
    boxes = {name: BOXES[name[0]] for name in (positives if boxed is None else boxed)}
    return Query(image, None, frozenset(positives), frozenset(junk), boxes)


@pytest.mark.parametrize(
    ("box", "key"),
    [
        ((0, 0, 9.99, 10), "below_1"),
        ((0, 0, 10, 10), "1_to_5"),
        ((0, 0, 49.9, 10), "1_to_5"),
        ((0, 0, 50, 10), "5_to_20"),
        ((0, 0, 50, 39.9), "5_to_20"),
        ((0, 0, 50, 40), "above_20"),
        ((0, 0, 100, 100), "above_20"),
        ((-90, -90, 9, 9), "below_1"),  # only the part inside the photo counts
        ((95, 0, 300, 50), "1_to_5"),
        ((100, 0, 200, 100), None),
        ((0, -5, 10, 0), None),
    ],
)
def test_the_class_of_a_box(box, key):
    assert size_class(box, *SIZE) == key


def test_photos_without_a_size_or_a_box_inside_them_have_no_class():
    boxes = {"a": (0, 0, 5, 5), "b": (0, 0, 50, 50), "c": (200, 0, 300, 9), "d": (0, 0, 5, 5)}

    found = by_size(boxes, {"b": SIZE, "a": SIZE, "c": SIZE, "e": SIZE, "d": (10, 20)})

    assert list(found.items()) == [("below_1", {"a"}), ("5_to_20", {"d"}), ("above_20", {"b"})]


def test_a_ranking_by_hand():
    """Ranks: l1 1, x 2, t1 3, unknown 4, x 5, t2 6, j 7, s1 8."""
    ranked = ["l1", "x1", "t1", "unknown", "x2", "t2", "junk", "s1"]
    asked = query(["l1", "t1", "t2", "s1", "unknown"], junk=["junk"], boxed=["l1", "t1", "t2", "s1"])

    found = scored(ranked, asked).sizes

    assert list(found) == ["below_1", "1_to_5", "above_20"]
    # Without l1, unknown, junk and s1: x1, t1, x2, t2.
    assert found["below_1"].score.ap == pytest.approx((0 + 1 / 2) / 2 / 2 + (1 / 3 + 2 / 4) / 2 / 2)
    # Without the others: x1, x2, s1.
    assert found["1_to_5"].score.ap == pytest.approx((0 + 1 / 3) / 2)
    assert found["above_20"].score.ap == 1
    assert [each.positives for each in found.values()] == [2, 1, 1]
    # Ranks are those of the whole ranking; the reported box has 5,000 pixels.
    assert found["below_1"].overlaps == ((3, pytest.approx(81 / 5000)), (6, pytest.approx(81 / 5000)))
    assert found["above_20"].overlaps == ((1, pytest.approx(50 * 90 / (5000 + 8100 - 4500))),)


def test_the_photo_of_the_query_is_no_positive_unless_it_is_kept():
    asked = query(["t1", "l1"], image="l1")

    assert list(scored(["l1", "x", "t1"], asked).sizes) == ["below_1"]
    assert list(scored(["l1", "x", "t1"], asked, keep_query=True).sizes) == ["below_1", "above_20"]


def test_a_positive_that_was_never_read_has_no_size():
    found = scored(["t1", "x"], query(["t1", "t2"]))

    assert found.score.ap == 0.5
    assert found.sizes["below_1"].score.ap == 1
    assert found.sizes["below_1"].positives == 1


def test_the_means_of_a_benchmark_by_hand():
    outcomes = [
        scored(["x", "t1", "l1"], query(["t1", "l1"])),  # AP of t1: 1/4, of l1: 1/4
        scored(["l1", "l2", "x"], query(["l1", "l2"])),  # 1
        scored(["x", "y"], query(["x"], boxed=[])),  # no known box
    ]

    found = scoring.summary(outcomes)["by_size"]

    tiny, large = found["below_1"], found["above_20"]
    assert list(found) == [size.key for size in SIZES]
    assert (tiny["queries"], tiny["positives"], tiny["mAP"]) == (1, 1, 0.25)
    assert (large["queries"], large["positives"], large["mAP"]) == (2, 3, 0.625)
    iou = pytest.approx(4500 / 8600, abs=1e-6)
    assert large["localisation"]["top_20"] == {"boxes": 3, "mean_iou": iou, "share_iou_50": 1}
    assert tiny["localisation"]["all_positives"] == {"boxes": 1, "mean_iou": 81 / 5000, "share_iou_50": 0}
    nothing = {"boxes": 0, "mean_iou": None, "share_iou_50": None}
    assert found["1_to_5"] == {
        "queries": 0,
        "positives": 0,
        "mAP": None,
        "localisation": {"top_20": nothing, "all_positives": nothing},
    }
    assert [size.key for size, _ in with_positives(found)] == ["below_1", "above_20"]


def test_the_first_page_is_that_of_the_whole_ranking():
    ranked = [*(f"x{i}" for i in range(19)), "t1", "t2"]

    found = scoring.summary([scored(ranked, query(["t1", "t2"]))])["by_size"]["below_1"]["localisation"]

    assert (found["top_20"]["boxes"], found["all_positives"]["boxes"]) == (1, 2)


def test_without_true_boxes_there_is_nothing_by_size():
    outcomes = [scored(["t1", "x"], query(["t1"], boxed=[]))]

    assert scoring.summary(outcomes)["by_size"] is None
    assert scoring.summary([scored(["t1", "x"], query(["t1"]), known=False)])["by_size"] is None
    assert with_positives(None) == []


letters = st.sampled_from("tsml")


@given(ranked=st.permutations([f"{letter}{i}" for letter in "tsmlux" for i in range(3)]), data=st.data())
def test_a_class_scores_as_if_the_other_positives_were_not_there(ranked, data):
    """Photos u are positives without a box, photos x are wrong or junk."""
    positives = data.draw(st.sets(st.sampled_from([name for name in ranked if name[0] != "x"]), min_size=1))
    junk = data.draw(st.sets(st.sampled_from(["x0", "x1"])))
    asked = query(positives, junk=junk, boxed=[name for name in positives if name[0] != "u"])

    found = scored(ranked, asked)

    assert {*found.sizes} == {KEYS[name[0]] for name in positives if name[0] != "u"}
    for letter, key in KEYS.items():
        own = {name for name in positives if name[0] == letter}
        if own:
            rest = [name for name in ranked if name not in positives - own]
            assert found.sizes[key].score.ap == pytest.approx(metrics.average_precision(rest, own, junk))
            assert found.sizes[key].score == scored(rest, query(own, junk=junk)).score
    assert sum(each.positives for each in found.sizes.values()) == len(asked.boxes)
    pairs = [pair for each in found.sizes.values() for pair in each.overlaps]
    assert sorted(pairs) == sorted(found.overlaps)  # the classes divide the known boxes


@given(letter=letters, ranks=st.lists(st.sets(st.integers(0, 11), min_size=1, max_size=6), min_size=1, max_size=4))
def test_if_all_positives_have_one_size_its_mean_is_the_mean_of_all(letter, ranks):
    outcomes = []
    for chosen in ranks:
        names = [f"{letter}{i}" if i in chosen else f"x{i}" for i in range(12)]
        outcomes.append(scored(names, query([name for name in names if name[0] == letter])))

    found = scoring.summary(outcomes)

    own = found["by_size"][KEYS[letter]]
    assert (own["mAP"], own["queries"]) == (found["mAP"], len(ranks))
    assert own["localisation"] == found["localisation"]
    assert [key for key, each in found["by_size"].items() if each["positives"]] == [KEYS[letter]]


def test_the_documentation_names_all_keys():
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (paragraph,) = re.findall(r"\*\*`by_size`\*\*.*?(?=\n\*\*)", page, re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", paragraph, re.MULTILINE))
    figures = scoring.summary([scored(["t1", "x"], query(["t1"]))])["by_size"]

    assert list(rows) == list(figures)
    assert [words.split(" of ")[0] for words in rows.values()] == [size.title for size in SIZES]
    for key in figures["below_1"]:
        assert f"`{key}`" in paragraph
