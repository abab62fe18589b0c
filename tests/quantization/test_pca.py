"""Projections: one that is fitted to pairs brings them together; with much shrinkage it is that of the components."""

from __future__ import annotations

import numpy as np
import pytest

from udq.quantization import pca
from udq.types import Features

SETTINGS = {"dimensions": 16, "multiple_of": 8, "threads": 1}


@pytest.fixture(scope="module")
def objects():
    """Features of 40 objects, eight views each: few directions tell objects apart, and views differ in others."""
    rng = np.random.default_rng(0)
    own, noise = rng.normal(size=(40, 6)), 4 * rng.normal(size=(320, 6))
    shown = np.repeat(np.arange(40), 8)
    basis = np.linalg.qr(rng.normal(size=(24, 24)))[0][:12]
    vectors = np.concatenate([own[shown], noise], axis=1) @ basis + 0.05 * rng.normal(size=(320, 24))
    return Features(vectors.astype(np.float32)).unit(), shown


def pairs_of(shown):
    rows = np.arange(len(shown))
    return np.stack([rows[::2], rows[1::2]], axis=1)  # views of one object are next to each other


def share_of_own_neighbours(features, shown):
    alike = features.vectors @ features.vectors.T
    np.fill_diagonal(alike, -2)
    return (shown[alike.argmax(axis=1)] == shown).mean()


def test_pairs_teach_what_does_not_matter(objects):
    features, shown = objects
    plain = pca.fit(features, whiten=False, **SETTINGS)
    taught = pca.fit_pairs(features, pairs_of(shown), shrinkage=0.1, **SETTINGS)

    before, after = (share_of_own_neighbours(head.apply(features), shown) for head in (plain, taught))

    assert before < 0.5
    assert after > before + 0.3


def test_the_result_is_the_formula(objects):
    features, shown = objects
    pairs = pairs_of(shown)
    head = pca.fit_pairs(features, pairs, shrinkage=0.2, **SETTINGS)

    vectors = features.vectors.astype(np.float64)
    differences = vectors[pairs[:, 0]] - vectors[pairs[:, 1]]
    within = differences.T @ differences / (2 * len(pairs))
    within += 0.2 * np.trace(within) / 24 * np.eye(24)
    values, directions = np.linalg.eigh(within)
    moved = (vectors - vectors.mean(axis=0)) @ (directions / np.sqrt(values)) @ directions.T
    components = np.linalg.svd(moved, full_matrices=False)[2][:16]
    expected = moved @ components.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = head.apply(features).vectors
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-3)


def test_much_shrinkage_leaves_the_principal_components(objects):
    features, shown = objects
    plain = pca.fit(features, whiten=False, **SETTINGS).apply(features).vectors
    shrunk = pca.fit_pairs(features, pairs_of(shown), shrinkage=1e6, **SETTINGS).apply(features).vectors

    assert shrunk @ shrunk.T == pytest.approx(plain @ plain.T, abs=1e-3)


def test_pairs_of_equal_features_change_nothing(objects):
    features, _ = objects
    same = np.array([[0, 0], [1, 1]])

    head = pca.fit_pairs(features, same, shrinkage=0.1, **SETTINGS)

    plain = pca.fit(features, whiten=False, **SETTINGS).apply(features).vectors
    found = head.apply(features).vectors
    assert found @ found.T == pytest.approx(plain @ plain.T, abs=1e-3)
