"""Matches of local features: every kernel finds what numpy finds, from descriptors and from codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.keypoints import matching
from udq.keypoints.codebook import BYTES, Codebook
from udq.keypoints.matching import EXTENT, RATIO, STEPS
from udq.keypoints.sift import LocalFeatures

COMPILED = [name for name in matching.kernels() if name != "numpy"]


def unit(rng, count):
    """Descriptors of unit length, some of them equal."""
    vectors = rng.normal(size=(count, 128)).astype(np.float32) ** 3
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    if count > 2:
        vectors[count // 2] = vectors[0]
    return vectors


def features(descriptors):
    count = len(descriptors)
    nothing = np.zeros(count, np.float32)
    return LocalFeatures(np.zeros((count, 2), np.float32), nothing, nothing, descriptors, 1.0)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kernel", COMPILED)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_kernels_find_the_same_neighbours(kernel, n, rows, seed):
    rng = np.random.default_rng(seed)
    query, photo = unit(rng, n), unit(rng, rows)
    photo[: min(n, rows) // 2] = query[: min(n, rows) // 2]  # products as large as they can be

    assert same(matching.neighbours(query, photo, kernel=kernel), matching.neighbours(query, photo, kernel="numpy"))


@pytest.mark.parametrize("kernel", COMPILED)
@given(st.integers(1, 50), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_kernels_find_the_same_neighbours_from_codes(kernel, n, sizes, seed):
    rng = np.random.default_rng(seed)
    query = unit(rng, n)
    photos = [rng.integers(0, 256, (size, BYTES)).astype(np.uint8) for size in sizes]

    found = matching.stored_neighbours(query, photos, kernel=kernel)

    expected = matching.stored_neighbours(query, photos, kernel="numpy")
    decoded = [matching.neighbours(query, Codebook.shipped().descriptors(photo), kernel=kernel) for photo in photos]
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert all(same(one, other) for one, other in zip(found, decoded, strict=True))


@pytest.mark.parametrize("kernel", matching.kernels())
def test_neighbours_are_those_of_a_plain_loop_over_whole_steps(kernel):
    rng = np.random.default_rng(0)
    query, photo = unit(rng, 9), unit(rng, 21)
    query[0, :2] = 2.0, -2.0  # longer than any component: cut to the extent

    near = matching.neighbours(query, photo, kernel=kernel)

    steps = [
        np.clip(np.round(each.astype(np.float64) * STEPS / EXTENT), -STEPS, STEPS).astype(np.int64)
        for each in (query, photo)
    ]
    for row, one in enumerate(steps[0]):
        products = [int((one * other).sum()) for other in steps[1]]
        order = sorted(range(len(products)), key=lambda column: (-products[column], column))
        assert (near.nearest[row], near.first[row]) == (order[0], products[order[0]])
        assert near.second[row] == products[order[1]]
    assert near.best.tolist() == [max(int((one * other).sum()) for one in steps[0]) for other in steps[1]]


def test_matches_are_mutual_and_clear():
    rng = np.random.default_rng(1)
    photo = unit(rng, 40)
    photo[20:] = unit(np.random.default_rng(2), 20)
    query = photo[[3, 25, 7, 7]] + rng.normal(scale=0.01, size=(4, 128)).astype(np.float32)
    query[3] += np.float32(0.02)  # row 7 is nearest to rows 2 and 3 of the query, but only one of them is nearest to it
    query = np.concatenate([query, unit(np.random.default_rng(3), 1)])  # one that nothing resembles

    pairs = matching.match(features(query), features(photo))

    assert {(0, 3), (1, 25), (2, 7)} <= {tuple(pair) for pair in pairs.tolist()}
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs)
    assert 3 not in pairs[:, 0]
    distances = [np.linalg.norm(photo - query[row], axis=1) for row in pairs[:, 0]]
    assert all(np.sort(each)[0] < RATIO * np.sort(each)[1] + 0.02 for each in distances)


def test_stored_features_match_as_decoded_ones_do():
    rng = np.random.default_rng(4)
    shipped = Codebook.shipped()
    found = features(np.abs(unit(rng, 60)))
    query = shipped.rotated(found)
    stored = [shipped.encode(features(found.descriptors[10:50])), np.empty((0, BYTES), np.uint8)]
    stored.append(shipped.encode(features(found.descriptors[:1])))

    matches = matching.match_stored(query, stored)

    assert np.array_equal(matches[0], matching.match(query, shipped.decode(stored[0], 1.0)))
    assert len(matches[0]) > 30
    assert [len(each) for each in matches[1:]] == [0, 0]  # no features, and one, which has no second nearest
    alone = replace(query, points=query.points[:1], descriptors=query.descriptors[:1])
    assert [len(each) for each in matching.match_stored(alone, stored)] == [0, 0, 0]
