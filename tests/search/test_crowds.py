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


def test_a_few_verified_photos_are_no_crowd(ranked):
    assert ranked.ranking.verified
    assert not any(each.crowded for each in ranked.ranking.verified.values())


def test_more_photos_of_one_print_than_an_object_explains_are_a_crowd(ranked, monkeypatch):
    monkeypatch.setattr(verify, "CROWD", 0)
    crowded = verify.verify(ranked)
    assert all(each.crowded for each in crowded.ranking.verified.values())


def test_in_a_crowd_only_photos_that_cover_much_of_the_box_expand_the_query(ranked):
    def moved(cells, crowded):
        verified = {
            place: dataclasses.replace(
                each, crowded=crowded, verification=dataclasses.replace(each.verification, coverage=cells / 36)
            )
            for place, each in ranked.ranking.verified.items()
        }
        changed = dataclasses.replace(ranked, ranking=dataclasses.replace(ranked.ranking, verified=verified))
        return verified_expansion.expand(changed) is not changed

    assert [moved(cells, False) for cells in (5, 6, 14, 15)] == [False, True, True, True]
    assert [moved(cells, True) for cells in (5, 6, 14, 15)] == [False, False, False, True]


def test_in_a_crowd_a_photo_counts_as_found_from_half_of_the_box_on():
    assert of_verification(6 / 36) == of_verification(18 / 36, crowded=True) == pytest.approx(THRESHOLD)
    assert of_verification(17 / 36, crowded=True) < THRESHOLD < of_verification(7 / 36)
    assert of_verification(0.0, crowded=True) == 0.0
