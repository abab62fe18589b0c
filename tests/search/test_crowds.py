"""Verified photos in a crowd: one print in many places proves less than in few."""

from __future__ import annotations

import dataclasses

import pytest

from udq.search.confidence import THRESHOLD, of_verification
from udq.search.rerank import verified_expansion, verify
from udq.search.rerank.ranked import RankedQuery
from udq.types import Example, Features


@pytest.fixture
def ranked(collection, photos):
    """The cup of coffee, verified; its photo is in the collection once."""
    example = Example(photos / "coffee.png", (81.0, 20.0, 478.0, 386.0))
    box, feature = collection.extractor.describe(photos / "coffee.png", example.box)
    (vector,) = collection.model.head.apply(Features(feature[None])).vectors
    found = RankedQuery.search(
        collection.database, vector, wanted=None, examples=(dataclasses.replace(example, box=box),)
    )
    return verify.verify(found)


def test_verified_photos_know_how_many_have_many_inliers(ranked):
    verified = ranked.ranking.verified.values()

    assert verified
    assert {each.crowd for each in verified} == {sum(each.verification.inliers >= verify.SURE for each in verified)}


def test_in_a_crowd_only_photos_that_cover_much_of_the_box_expand_the_query(ranked):
    def moved(cells, crowd):
        verified = {
            place: dataclasses.replace(
                each, crowd=crowd, verification=dataclasses.replace(each.verification, coverage=cells / 36)
            )
            for place, each in ranked.ranking.verified.items()
        }
        changed = dataclasses.replace(ranked, ranking=dataclasses.replace(ranked.ranking, verified=verified))
        return verified_expansion.expand(changed) is not changed

    assert [moved(cells, 0) for cells in (6, 7, 17, 18)] == [False, True, True, True]
    assert [moved(cells, 100) for cells in (6, 7, 17, 18)] == [False, False, False, True]


@pytest.mark.parametrize(("crowd", "cells"), [(0, 7), (20, 7), (30, 12.5), (40, 18), (1000, 18)])
def test_the_larger_the_crowd_the_more_of_the_box_a_photo_that_counts_as_found_covers(crowd, cells):
    assert of_verification(cells / 36, crowd=crowd) == pytest.approx(THRESHOLD)
    assert of_verification((cells - 1) / 36, crowd=crowd) < THRESHOLD < of_verification((cells + 1) / 36, crowd=crowd)
    assert 0 <= of_verification(0.0, crowd=crowd) < 0.5


def test_in_a_crowd_a_verified_photo_is_raised_less_and_not_at_all_by_few_cells():
    few, crowded = ([verify.raised(1.0, cells / 36, crowd=crowd) for cells in range(37)] for crowd in (0, 40))

    assert few[0] > 1.2
    assert crowded[:7] == [1.0] * 7
    assert all(one > other for one, other in zip(few, crowded, strict=True))
    assert crowded == sorted(crowded)
    halfway = [verify.raised(1.0, cells / 36, crowd=30) for cells in range(37)]
    assert halfway == pytest.approx([(one + other) / 2 for one, other in zip(few, crowded, strict=True)])
