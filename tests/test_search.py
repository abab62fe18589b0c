"""The nearest photos of a collection beside the ranking of all: several segments, some photos removed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from udq import scan, search
from udq.segments import PHOTO, Segment

SUBSPACES, CODEWORDS = 8, 256


def segment(rng, photos, removed):
    """A segment of made-up codes, of which some are the same."""
    offsets = np.cumsum([0, *rng.integers(1, 40, photos)])
    codes = rng.integers(0, 4, (offsets[-1], SUBSPACES)).astype(np.uint8)
    boxes = np.tile(np.array([0, 0, 8, 8], np.uint16), (len(codes), 1))
    gone = rng.random(photos) < removed
    return Segment("segments/000001", codes, boxes, offsets, (), np.zeros(photos, PHOTO), gone)


@pytest.mark.parametrize("kernel", scan.kernels())
@pytest.mark.parametrize("removed", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(), (50,), (300, 1, 120, 7)])
def test_the_nearest_are_the_first_of_all(monkeypatch, kernel, removed, sizes):
    monkeypatch.setenv("UDQ_SCAN_KERNEL", kernel)
    rng = np.random.default_rng(7)
    lookup = rng.integers(0, 6, (SUBSPACES, CODEWORDS)).astype(np.float32)
    collection = SimpleNamespace(
        model=SimpleNamespace(lookup_tables=lambda feature: lookup),
        segments=tuple(segment(rng, photos, removed) for photos in sizes),
        config=SimpleNamespace(features=SimpleNamespace(proposals="rpn")),
    )
    every = search.rank(collection, np.zeros(3, np.float32))
    assert len(every.order) == len(every.distance) == sum(len(each.living) for each in collection.segments)
    for k in (1, 20, 1000):
        nearest = search.rank(collection, np.zeros(3, np.float32), k=k)
        np.testing.assert_array_equal(nearest.order, every.order[:k])
        np.testing.assert_array_equal(nearest.distance[nearest.order], every.distance[nearest.order])
        assert len(nearest.distance) == len(every.distance)
        assert np.isnan(nearest.distance).sum() == max(0, len(every.distance) - k)
        for place in nearest.order[:3]:
            assert nearest.box(place) == every.box(place)
