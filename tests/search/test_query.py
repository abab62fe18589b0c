"""Queries of several examples; the nearest photos against the ranking of all, with segments and removed photos."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.errors import InputError
from udq.search.database import LocalDatabase
from udq.search.distance import root
from udq.search.query import combined
from udq.search.ranking import Ranking, ranking_by_tables
from udq.search.scan import kernels
from udq.store.segments import PHOTO, Image, Segment
from udq.types import Example, Features

SUBSPACES, CODEWORDS = 8, 256


def segment(rng, photos, removed):
    """A segment of random codes with duplicates."""
    offsets = np.cumsum([0, *rng.integers(1, 40, photos)])
    codes = rng.integers(0, 4, (offsets[-1], SUBSPACES)).astype(np.uint8)
    boxes = np.tile(np.array([0, 0, 8, 8], np.uint16), (len(codes), 1))
    gone = rng.random(photos) < removed
    images = tuple(Image(f"{i}.jpg", "/", 8, 8, i) for i in range(photos))
    return Segment("segments/000001", codes, boxes, offsets, images, np.zeros(photos, PHOTO), gone)


@pytest.mark.parametrize("kernel", kernels.kernels())
@pytest.mark.parametrize("removed", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("sizes", [(), (50,), (300, 1, 120, 7)])
def test_the_nearest_photos_are_the_first_of_the_full_ranking(monkeypatch, kernel, removed, sizes, inverted):
    if inverted and kernels.kernels() == ("numba",):
        pytest.skip("the extension was not built")
    monkeypatch.setenv("UDQ_SCAN_KERNEL", kernel)
    rng = np.random.default_rng(7)
    lookup = rng.integers(0, 6, (SUBSPACES, CODEWORDS)).astype(np.float32)
    segments = tuple(segment(rng, photos, removed) for photos in sizes)
    model = SimpleNamespace(quantizer=SimpleNamespace(codewords=CODEWORDS))
    database = LocalDatabase(model, segments, ranked=True, looked_at=1.0 if inverted else None)
    every = ranking_by_tables(database, lookup)
    assert len(every.order) == len(every.distance) == sum(len(each.living) for each in segments)
    for k in (1, 20, 1000):
        nearest = ranking_by_tables(database, lookup, k=k)
        np.testing.assert_array_equal(nearest.order, every.order[:k])
        np.testing.assert_array_equal(nearest.distance[nearest.order], every.distance[nearest.order])
        assert len(nearest.distance) == len(every.distance)
        assert np.isnan(nearest.distance).sum() == max(0, len(every.distance) - k)
        for place in nearest.order[:3]:
            assert nearest.box(place) == every.box(place)


@pytest.mark.parametrize("looked_at", [None, 0.5])
def test_the_threads_of_a_database_are_those_of_its_scan(looked_at):
    if looked_at is not None and kernels.kernels() == ("numba",):
        pytest.skip("the extension was not built")
    rng = np.random.default_rng(3)
    model = SimpleNamespace(quantizer=SimpleNamespace(codewords=CODEWORDS))
    lookups = rng.random((1, SUBSPACES, CODEWORDS), np.float32)
    segments = (segment(rng, 30, 0.0),)
    found = [
        LocalDatabase(model, segments, ranked=True, looked_at=looked_at, threads=threads).nearest_images(lookups, 5)[0]
        for threads in (None, 1, 4)
    ]
    assert all(np.array_equal(found[0].image, other.image) for other in found)
    with pytest.raises(InputError, match="expected at least 1 thread, found 0"):
        LocalDatabase(model, segments, ranked=True, looked_at=looked_at, threads=0).nearest_images(lookups, 5)


def unit(rng, rows):
    return Features(rng.standard_normal((rows, 16)).astype(np.float32)).unit().vectors


@given(seed=st.integers(0, 2**32 - 1), right=st.integers(1, 5), wrong=st.integers(0, 5))
def test_wrong_examples_push_the_query_away(seed, right, wrong):
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([unit(rng, right), unit(rng, wrong)])
    signs = np.arange(right + wrong) >= right
    query = combined(vectors, signs)
    order = rng.permutation(len(vectors))
    without = combined(vectors[:right], signs[:right])

    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(combined(vectors[order], signs[order]), query, atol=1e-5)
    if wrong:
        away = vectors[right:].mean(axis=0)
        assert query @ away <= without @ away + 1e-5


def test_right_examples_are_averaged():
    vectors = np.eye(3, dtype=np.float32)
    query = combined(vectors, np.array([False, False, True]), gamma=0.5)

    np.testing.assert_allclose(query, np.array([0.5, 0.5, -0.5]) / np.sqrt(0.75), atol=1e-6)
    assert (combined(vectors[:1], np.array([False])) == vectors[0]).all()


def test_a_negative_squared_distance_counts_as_none():
    """Residuals and rounding can make an expected squared distance slightly negative."""
    distance = np.array([-1e-6, 0, 0.25, np.nan], np.float32)
    ranking = Ranking(np.arange(3), distance, lambda place: np.array([0, 0, 1, 1], np.float32))
    matches = [ranking.match(place + 1, place, "a.jpg") for place in range(3)]

    assert [match.distance for match in matches] == [0, 0, 0.5]
    assert [match.score for match in matches] == pytest.approx([1e9, 1e9, 2])
    assert root(distance).dtype == np.float32
    assert np.isnan(root(distance)[3])


class Failing:
    """A database some photos of which do not answer in one step of a search, and in later ones do."""

    def __init__(self, database, step, after=0):
        self._database, self._step, self._left = database, step, after

    def __getattr__(self, name):
        return getattr(self._database, name)

    def __len__(self):
        return len(self._database)

    def _missing(self, step):
        if step != self._step:
            return 0
        self._left -= 1
        return 3 if self._left == -1 else 0

    def nearest_images(self, lookups, k):
        missing = self._missing("scan")
        return [dataclasses.replace(found, missing=missing) for found in self._database.nearest_images(lookups, k)]

    def most_voted(self, descriptors, count):
        missing = self._missing("votes")
        return dataclasses.replace(self._database.most_voted(descriptors, count), missing=missing)


@pytest.mark.parametrize(("step", "after"), [("scan", 0), ("scan", 1), ("votes", 0)])
def test_photos_that_one_step_of_a_search_lacks_are_missing(collection, photos, monkeypatch, step, after):
    query, box = photos / "coffee.png", (81, 20, 478, 386)
    assert collection.search(query, box).missing == 0
    failing = Failing(collection.database, step, after)
    monkeypatch.setattr(type(collection), "database", property(lambda _: failing))

    found = collection.search(query, box)

    assert found.rerank == ("verify", "verified-qe", "diffusion")
    assert found.missing == 3
    assert collection.search(query, box).missing == 0


def test_a_photo_that_shows_something_else_is_neither_first_nor_sure(collection, photos):
    cup = Example(photos / "coffee.png", (81.0, 20.0, 478.0, 386.0))
    before = collection.search_examples([cup], k=10).matches
    other = before[-1]

    marked = [cup, Example(photos / other.image, other.box, wrong=True)]
    after = collection.search_examples(marked, k=10).matches

    assert after[0].image == "coffee.png"
    assert after[0].confidence == 1
    again = [match for match in after if match.image == other.image]
    assert all(match.rank >= other.rank and match.confidence < 1 for match in again)
