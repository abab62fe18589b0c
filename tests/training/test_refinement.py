"""Eq. 11-13 against loops in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.training import refinement
from udq.types import Features


def sample(regions=60, photos=9, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((regions, dimensions)).astype(np.float32)
    return unit(vectors), np.sort(rng.integers(0, photos, regions))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_loops(vectors, images, count, elsewhere, within=None):
    """Rows of the nearest neighbours of each feature, nearest first."""
    found = []
    for t in range(len(vectors)):
        allowed = [
            s
            for s in range(len(vectors))
            if (images[s] != images[t] if elsewhere else s != t) and (within is None or within[s] == within[t])
        ]
        distance = ((vectors[allowed].astype(np.float64) - vectors[t]) ** 2).sum(axis=1)
        found.append([allowed[i] for i in np.argsort(distance, kind="stable")][:count])
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.booleans(), st.integers(1, 9))
def test_exhaustive_neighbours_are_those_of_a_loop(seed, count, elsewhere, photos):
    vectors, images = sample(photos=photos, seed=seed)
    found = refinement.neighbours(Features(vectors), images, count=count, elsewhere=elsewhere)
    expected = by_loops(vectors, images, count, elsewhere)

    assert found.shape == (len(vectors), count)
    for row, rows in zip(found, expected, strict=True):
        assert row[row >= 0].tolist() == rows
        assert (row[len(rows) :] == -1).all()


@pytest.mark.parametrize("exhaustive", [True, False])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_neighbours_of_some_features_equal_their_rows_among_all(elsewhere, exhaustive):
    vectors, images = sample(regions=300, photos=30)
    rows = np.array([299, 0, 17, 17])
    options = {"count": 5, "elsewhere": elsewhere, "exhaustive": exhaustive}
    everything = refinement.neighbours(Features(vectors), images, **options)

    assert (refinement.neighbours(Features(vectors), images, rows=rows, **options) == everything[rows]).all()


def test_an_inverted_file_finds_most_neighbours():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 16))
    vectors = unit((centres[rng.integers(0, 200, 6000)] + 0.3 * rng.standard_normal((6000, 16))).astype(np.float32))
    images = np.arange(6000) // 20
    exact = refinement.neighbours(Features(vectors), images, count=10, elsewhere=True, exhaustive=True)
    found = refinement.neighbours(Features(vectors), images, count=10, elsewhere=True, exhaustive=False)
    shared = [len(set(one) & set(other)) / 10 for one, other in zip(exact, found, strict=True)]

    assert np.mean(shared) > 0.9
    assert (images[found] != images[:, None])[found >= 0].all()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_brute_force_is_equation_11(elsewhere):
    vectors, images = sample()
    nearest = refinement.neighbours(Features(vectors), images, count=10, elsewhere=elsewhere)
    refined = refinement.brute_force(Features(vectors), nearest).vectors
    for t, rows in enumerate(by_loops(vectors, images, 10, elsewhere)):
        assert refined[t] == pytest.approx(unit((vectors[t] + vectors[rows].sum(axis=0))[None])[0], abs=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_proposal_based_is_equation_12(elsewhere):
    vectors, images = sample()
    clusters = refinement.cluster(Features(vectors), clusters=6, seed=0)
    refined = refinement.proposal_based(Features(vectors), images, clusters, count=4, elsewhere=elsewhere).vectors
    for t, rows in enumerate(by_loops(vectors, images, 4, elsewhere, within=clusters.assigned)):
        assert refined[t] == pytest.approx(unit((vectors[t] + vectors[rows].sum(axis=0))[None])[0], abs=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_center_based_is_equation_13(elsewhere):
    vectors, images = sample()
    clusters = refinement.cluster(Features(vectors), clusters=6, seed=0)
    refined = refinement.center_based(Features(vectors), images, clusters, elsewhere=elsewhere).vectors
    for t in range(len(vectors)):
        centre = clusters.centres[clusters.assigned[t]]
        if elsewhere:
            others = (clusters.assigned == clusters.assigned[t]) & (images != images[t])
            centre = vectors[others].mean(axis=0) if others.any() else np.zeros_like(centre)
        assert refined[t] == pytest.approx(unit((vectors[t] + centre)[None])[0], abs=1e-5)


def test_clusters_are_the_nearest_centres():
    vectors, _ = sample()
    clusters = refinement.cluster(Features(vectors), clusters=6, seed=0)
    distance = ((vectors[:, None] - clusters.centres[None]) ** 2).sum(axis=2)

    assert (clusters.assigned == distance.argmin(axis=1)).all()


def test_a_region_without_others_stays_as_it_is():
    vectors, _ = sample(regions=5)
    images = np.zeros(5, np.int64)
    nearest = refinement.neighbours(Features(vectors), images, count=10, elsewhere=True)

    assert (nearest == -1).all()
    assert refinement.brute_force(Features(vectors), nearest).vectors == pytest.approx(vectors, abs=1e-6)
