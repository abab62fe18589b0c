"""What a repair keeps, encodes again and drops, planned before anything is changed."""

from __future__ import annotations

import pytest
from test_repair import flip
from test_update import ids, opened

from udq.errors import CollectionError
from udq.indexing.repair_plan import Keep, Reencode, plan
from udq.indexing.verify import damaged_files
from udq.store import manifest as manifests


@pytest.fixture
def two(place, photos, monkeypatch):
    """A collection of two segments: astronaut, coffee, coins, rocket; chelsea, page."""
    monkeypatch.setattr("udq.store.segments.PHOTOS", 4)
    opened(place).add([photos / "chelsea.png", photos / "page.png"])
    return place


def planned(place):
    manifest = manifests.read_manifest(place / "x.udq")
    before = sorted(file for file in (place / "x.udq").rglob("*"))
    made = plan(place / "x.udq", manifest, {each.file for each in damaged_files(place / "x.udq", manifest)})
    assert sorted(file for file in (place / "x.udq").rglob("*")) == before
    return made


def damage(place, number, name):
    flip(place / "x.udq" / opened(place).manifest.segments[number]["folder"] / name)


def test_intact_segments_are_kept_and_photos_of_damaged_ones_encoded_again(two):
    collection, _ = opened(two).remove(["chelsea.png", "coins.png"])
    regions = {image.id: len(collection.segments[0].indexed(row).boxes) for row, image in enumerate(
        collection.segments[0].images)}  # fmt: skip
    damage(two, 1, "codes.npy")
    found = planned(two)

    keep, reencode = found.steps
    assert keep == Keep(collection.manifest.segments[0])
    assert [(image.name, image.id) for image in reencode.images] == [("page.png", ids(collection)["page.png"])]
    assert found.removed == {2: regions[2]}  # chelsea's segment is replaced
    assert (found.dropped, found.nameless, found.back, found.next_id) == ((), 0, 0, 6)


def test_photos_whose_ids_are_lost_come_last_under_new_ids(two):
    opened(two).remove(["coins.png"])
    damage(two, 0, "photos.npy")
    found = planned(two)

    keep, reencode = found.steps
    assert isinstance(keep, Keep)
    assert {image.name: image.id for image in reencode.images} == {
        "astronaut.png": 6, "coffee.png": 7, "coins.png": 8, "rocket.png": 9
    }  # fmt: skip
    assert (reencode.back, found.next_id) == (1, 10)


def test_photos_whose_names_are_lost_are_counted(two):
    damage(two, 0, "images.json")
    found = planned(two)

    assert [type(step) for step in found.steps] == [Keep]
    assert (found.nameless, found.next_id) == (4, 6)


def test_a_segment_of_removed_photos_alone_is_dropped(two):
    opened(two).remove(["chelsea.png", "page.png"])
    damage(two, 1, "boxes.npy")
    found = planned(two)

    assert [type(step) for step in found.steps] == [Keep]
    assert found.removed == {}


def test_before_retraining_all_segments_are_kept_and_missing_photos_dropped(two):
    flip(two / "x.udq" / opened(two).manifest.document["model"]["file"])
    damage(two, 0, "offsets.npy")
    damage(two, 1, "photos.npy")
    (two / "photos" / "coins.png").unlink()
    found = planned(two)

    assert [type(step) for step in found.steps] == [Keep]
    assert found.removed == {2: 1}  # the number of regions is lost
    assert found.dropped == ("coins.png", "chelsea.png", "page.png")
    assert not any(isinstance(step, Reencode) for step in found.steps)


def test_nothing_is_planned_while_all_photos_of_a_damaged_segment_are_missing(two, photos):
    damage(two, 0, "codes.npy")
    (two / "photos").rename(two / "elsewhere")

    with pytest.raises(CollectionError, match=r"none of the 4 photos in a damaged file exists, .*; put them back"):
        planned(two)
