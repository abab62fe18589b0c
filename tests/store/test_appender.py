"""Photos are appended to the last segment until it is full; full segments are never written again."""

from __future__ import annotations

import numpy as np
import pytest
from test_manifest import indexed, random_codes, read, write

from udq.store import manifest as manifests
from udq.store import segments
from udq.store.appender import SegmentAppender
from udq.store.transaction import Transaction


def photos(first, count):
    """Photos with ids from ``first`` on, of two regions each."""
    made = []
    for number in range(first, first + count):
        [photo] = indexed(random_codes(2, 4, 32, number), [2], [f"{number}.jpg"])
        image = segments.Image(f"{number}.jpg", "/photos/", 100, 80, number)
        made.append(segments.StoredPhoto(image, photo.content, photo.boxes, photo.codes, 0.5))
    return made


@pytest.fixture
def path(tmp_path):
    """A collection of photos 0 and 1 in its first segment, and 2 in its second, which has 3 regions."""
    return write(tmp_path / "x.udq")


def held(path):
    """Ids of the photos that are not removed, by segment."""
    return [segment.photos["id"][segment.living].tolist() for segment in read(path)]


def test_the_last_segment_grows_until_it_is_full(path, monkeypatch):
    monkeypatch.setattr(segments, "PHOTOS", 3)
    with Transaction(path) as transaction:
        appender = SegmentAppender(transaction, read(path), codewords=32)
        appender.append(photos(3, 1), next_id=4)
        first = transaction.manifest.segments
        assert held(path) == [[0, 1], [2, 3]]
        appender.append(photos(4, 5), next_id=9)

    manifest = manifests.read_manifest(path)
    assert held(path) == [[0, 1], [2, 3, 4], [5, 6, 7], [8]]
    assert manifest.segments[0] == first[0]
    assert (manifest.images, manifest.regions, manifest.next_id) == (9, 8 + 6 * 2, 9)
    for photo in photos(5, 3):
        row = photo.image.id - 5
        assert np.array_equal(read(path)[2].indexed(row).codes, photo.codes)


def test_full_segments_are_kept_and_their_removed_photos_listed(path, monkeypatch):
    monkeypatch.setattr(segments, "PHOTOS", 2)
    before = manifests.read_manifest(path).segments
    with Transaction(path) as transaction:
        appender = SegmentAppender(transaction, read(path), codewords=32)
        appender.append(photos(3, 2), next_id=5)  # fills the segment of photo 2
        appender.append([], removed={0, 2})
        appender.append(photos(5, 1), removed={4}, next_id=6)

    manifest = manifests.read_manifest(path)
    assert held(path) == [[1], [3], [5]]
    assert manifest.segments[0] == before[0]
    assert manifests.read_removed(path, manifest).tolist() == [0, 2]  # photo 4 was in the last segment
    assert manifest.removed == {"images": 2, "regions": 2 + 3}


def test_an_interrupted_batch_leaves_the_previous_one(path, monkeypatch):
    monkeypatch.setattr(segments, "PHOTOS", 2)

    def stop(*_, **__):
        raise KeyboardInterrupt

    def append():
        with Transaction(path) as transaction:
            appender = SegmentAppender(transaction, read(path), codewords=32)
            appender.append(photos(3, 1), next_id=4)
            monkeypatch.setattr(transaction, "commit", stop)
            appender.append(photos(4, 3), next_id=7)

    with pytest.raises(KeyboardInterrupt):
        append()
    assert held(path) == [[0, 1], [2, 3]]
    with Transaction(path) as transaction:
        SegmentAppender(transaction, read(path), codewords=32).append(photos(4, 1), next_id=5)
    assert held(path) == [[0, 1], [2, 3], [4]]
