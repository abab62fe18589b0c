"""Votes of local features: both kernels count as a plain loop does, and a photo's own features vote for it most."""

from __future__ import annotations

import numpy as np
import pytest

from udq.keypoints import codebook
from udq.keypoints.codebook import Codebook
from udq.keypoints.sift import LocalFeatures
from udq.search.scan import votes
from udq.search.scan.votes import FARTHEST, PointPart


def random_features(count, seed):
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.normal(size=(count, 128))).astype(np.float32) ** 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return LocalFeatures(
        rng.uniform(0, 500, (count, 2)).astype(np.float32),
        rng.uniform(2, 40, count).astype(np.float32),
        rng.uniform(0, 6, count).astype(np.float32),
        vectors,
        1.0,
    )


@pytest.fixture(scope="module")
def features():
    return random_features(600, 0)


@pytest.fixture(scope="module")
def parts(features):
    """Two parts of three photos each; the second photo of the second part has no features."""
    stored = Codebook.shipped().encode(features)
    return [
        PointPart(stored[:300], np.array([0, 100, 200, 300])),
        PointPart(stored[300:], np.array([0, 150, 150, 300])),
    ]


@pytest.mark.parametrize("compiled", [True, False])
def test_votes_are_those_of_a_plain_loop(features, parts, compiled, monkeypatch):
    if compiled and votes.extension is None:
        pytest.skip("the extension was not built")
    if not compiled:
        monkeypatch.setattr(votes, "extension", None)
    query = features.descriptors[::7] * np.float32(0.98)
    shipped = Codebook.shipped()

    found = votes.votes(parts, query)

    tables, cells = shipped.tables(query), shipped.nearest_cells(query, 256)
    for part, total in zip(parts, found, strict=True):
        read = codebook.points(part.points)
        expected = np.zeros(3)
        for i, table in enumerate(tables):
            distance = table[np.arange(16), read["code"]].sum(axis=1)
            vote = np.where(np.isin(read["cell"], cells[i]), np.maximum(0, 1 - distance / FARTHEST) ** 2, 0)
            # All photos have fewer features than are visited, so every one of the nearest 256 cells is.
            expected += [vote[a:b].max(initial=0) for a, b in zip(part.starts[:-1], part.starts[1:], strict=True)]
        assert total == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_photo_has_most_votes_of_its_own_features(features, parts):
    first, second = votes.votes(parts, features.descriptors[100:200])

    assert first.argmax() == 1
    assert first[1] > 2 * max(first[0], first[2], *second)
    assert second[1] == 0


def test_a_query_visits_a_limited_number_of_features(features, parts, monkeypatch):
    every = votes.votes(parts, features.descriptors)
    monkeypatch.setattr(votes, "VISITED", 1)
    few = votes.votes(parts, features.descriptors)

    assert all((less <= more + 1e-5).all() for less, more in zip(few, every, strict=True))
    assert sum(map(np.sum, few)) < sum(map(np.sum, every))
    assert few[0].min() > 0  # its own cell is the nearest


def test_without_features_there_are_no_votes(features, parts):
    nothing = PointPart(codebook.NONE, np.zeros(4, np.int64))

    assert [total.tolist() for total in votes.votes([nothing], features.descriptors)] == [[0, 0, 0]]
    assert votes.votes([], features.descriptors) == []
    assert [total.sum() for total in votes.votes(parts, features.descriptors[:0])] == [0, 0]


@pytest.mark.parametrize("compiled", [True, False])
def test_of_a_large_cell_the_nearest_by_the_first_bytes_vote(features, compiled, monkeypatch):
    if compiled and votes.extension is None:
        pytest.skip("the extension was not built")
    if not compiled:
        monkeypatch.setattr(votes, "extension", None)
    monkeypatch.setattr(votes, "VISITED", 20)
    shipped = Codebook.shipped()
    query = features.descriptors[5:6]
    stored = shipped.encode(features)
    codebook.points(stored)["cell"][:] = shipped.nearest_cells(query, 1)[0, 0]
    part = PointPart(stored, np.arange(601, dtype=np.int64))  # a photo for each feature

    (total,) = votes.votes([part], query)

    (table,), code = shipped.tables(query), codebook.points(stored)["code"]
    by_key = table[0, code[:, 0]] + table[1, code[:, 1]]
    visited = by_key <= np.sort(by_key)[20]
    assert 21 <= visited.sum() < 60
    distance = table[np.arange(16), code].sum(axis=1)
    expected = np.where(visited, np.maximum(0, 1 - distance / FARTHEST) ** 2, 0)
    assert total == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert total.argmax() == 5
    # Over several parts, some of which say how near a feature must be, it is about as many.
    parts = [PointPart(stored[at : at + 50], np.arange(51, dtype=np.int64)) for at in range(0, 600, 50)]
    several = np.concatenate(votes.votes(parts, query))
    assert several.argmax() == 5
    assert 0 < (several > 0).sum() <= 60
