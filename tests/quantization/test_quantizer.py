"""Projection, quantizer and model against NumPy in float64, scikit-learn and faiss."""

from __future__ import annotations

import io
import pickle

import faiss
import numpy as np
import pytest
from sklearn.decomposition import PCA

from udq.config import QuantizerConfig
from udq.errors import CollectionError
from udq.quantization import model, pca
from udq.quantization import quantizer as quantizers
from udq.types import Features


def features(rows, dimensions, seed=0):
    """Features of a few clusters with directions of very different variance."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dimensions)) * np.geomspace(3, 0.05, dimensions)
    noise = rng.standard_normal((rows, dimensions)) * np.geomspace(1, 0.02, dimensions)
    return Features((centres[rng.integers(0, 20, rows)] + noise + 1).astype(np.float32))


SAMPLE = features(2000, 32)


def fit(sample):
    settings = QuantizerConfig(dimensions=16, iterations=1)
    return model.fit(sample, model.start(sample, settings), settings, seed=0)


@pytest.fixture(scope="module")
def quantizer():
    return quantizers.fit(SAMPLE, subspaces=4, codewords=64, iterations=3, seed=0)


@pytest.mark.parametrize("rows", [2000, 20])
@pytest.mark.parametrize("whiten", [False, True])
def test_projection_is_scikit_learns_up_to_sign_and_length(whiten, rows):
    sample = features(rows, 32)
    ours = pca.fit(sample, dimensions=8, whiten=whiten, multiple_of=4).apply(sample).vectors
    theirs = PCA(8, whiten=whiten, svd_solver="full").fit_transform(sample.vectors.astype(np.float64))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)

    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(np.abs(ours) - np.abs(theirs)).max() < 2e-3


def test_padding_makes_equal_subvectors_and_changes_no_distance():
    padded = pca.fit(SAMPLE, dimensions=30, whiten=False, multiple_of=8)
    plain = pca.fit(SAMPLE, dimensions=30, whiten=False, multiple_of=1)

    assert (plain.dimensions, padded.dimensions) == (30, 32)
    assert np.abs(padded.apply(SAMPLE).vectors[:, :30] - plain.apply(SAMPLE).vectors).max() < 1e-6
    assert (padded.apply(SAMPLE).vectors[:, 30:] == 0).all()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_sample_of_few_rows_has_a_finite_projection(rows):
    few = features(rows, 32)
    found = pca.fit(few, dimensions=16, whiten=True, multiple_of=4)

    assert found.dimensions % 4 == 0
    assert np.isfinite(found.apply(SAMPLE).vectors).all()


def test_codes_are_the_nearest_codewords(quantizer):
    parts = (SAMPLE.vectors.astype(np.float64) @ quantizer.rotation.astype(np.float64)).reshape(-1, 4, 1, 8)
    distance = ((parts - quantizer.codebooks[None].astype(np.float64)) ** 2).sum(axis=3)
    chosen = np.take_along_axis(distance, quantizer.encode(SAMPLE).values[..., None].astype(int), axis=2)[..., 0]

    assert (chosen <= distance.min(axis=2) + 1e-4).all()
    assert (quantizer.encode(SAMPLE).values == distance.argmin(axis=2)).mean() > 0.999  # but for rounding


def test_codes_are_faiss_codes(quantizer):
    pq = faiss.ProductQuantizer(32, 4, 6)
    faiss.copy_array_to_vector(quantizer.codebooks.ravel(), pq.centroids)
    theirs = faiss.unpack_bitstrings(pq.compute_codes(quantizer.rotate(SAMPLE).vectors), 4, 6)

    assert (quantizer.encode(SAMPLE).values == theirs).mean() > 0.999


def test_lookup_tables_sum_to_the_asymmetric_distance_and_the_residuals(quantizer):
    codes = quantizer.encode(SAMPLE)
    query = SAMPLE.vectors[7]
    tables = quantizer.lookup_tables(query)
    summed = sum(tables[m, codes.values[:, m]] for m in range(4))
    asymmetric = ((query @ quantizer.rotation - quantizer.decode(codes).vectors) ** 2).sum(axis=1)
    expected = asymmetric + sum(quantizer.residuals[m, codes.values[:, m]] for m in range(4))

    assert tables.shape == (4, 64)
    assert tables.dtype == np.float32
    assert summed == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_residuals_are_mean_squared_distances_of_the_members_and_ten_times_the_mean(quantizer):
    parts = (SAMPLE.vectors @ quantizer.rotation).reshape(-1, 4, 8).astype(np.float64)
    codes = quantizer.encode(SAMPLE).values
    for m in range(4):
        squared = ((parts[:, m] - quantizer.codebooks[m, codes[:, m]]) ** 2).sum(axis=1)
        for k in range(0, 64, 7):
            members = squared[codes[:, m] == k]
            expected = (members.sum() + 10 * squared.mean()) / (len(members) + 10)
            assert quantizer.residuals[m, k] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_distances_of_codes_are_those_of_the_features_on_average(quantizer):
    other = Features(features(4000, 32).vectors[2000:])
    codes = quantizer.encode(other).values
    queries = features(50, 32).vectors
    true = ((queries[:, None] - other.vectors) ** 2).sum(axis=2).mean()
    found = np.mean([sum(quantizer.lookup_tables(query)[m, codes[:, m]] for m in range(4)) for query in queries])

    assert found == pytest.approx(true, rel=0.01)


def test_the_rotation_is_orthogonal(quantizer):
    assert np.abs(quantizer.rotation.T @ quantizer.rotation - np.eye(32)).max() < 1e-4


def test_the_rotation_lowers_the_error_of_faiss_without_one(quantizer):
    plain = faiss.ProductQuantizer(32, 4, 6)
    plain.train(SAMPLE.vectors)
    decoded = plain.decode(plain.compute_codes(SAMPLE.vectors))
    ours = quantizer.rotate(SAMPLE).vectors - quantizer.decode(quantizer.encode(SAMPLE)).vectors

    assert (ours**2).sum() < ((SAMPLE.vectors - decoded) ** 2).sum()


def test_the_same_seed_gives_the_same_quantizer(quantizer):
    again = quantizers.fit(SAMPLE, subspaces=4, codewords=64, iterations=3, seed=0)

    assert (again.rotation == quantizer.rotation).all()
    assert (again.codebooks == quantizer.codebooks).all()


@pytest.mark.parametrize(
    ("subspaces", "codewords", "dtype"), [(2, 16, np.uint8), (16, 256, np.uint8), (8, 512, np.uint16)]
)
def test_every_shape_of_code_can_be_fitted(subspaces, codewords, dtype):
    made = quantizers.fit(SAMPLE, subspaces=subspaces, codewords=codewords, iterations=1, seed=0)
    codes = made.encode(SAMPLE)

    assert (codes.values.shape, codes.values.dtype) == ((2000, subspaces), dtype)
    assert made.bits == subspaces * np.log2(codewords)
    assert len(np.unique(codes.values)) > codewords // 2


@pytest.mark.parametrize("rows", [1, 5, 20])
def test_fewer_features_than_dimensions_or_codewords_can_be_fitted(rows):
    made = quantizers.fit(features(rows, 32), subspaces=4, codewords=16, iterations=2, seed=0)

    assert np.isfinite(made.codebooks).all()


@pytest.mark.parametrize(("rows", "codewords"), [(1, 2), (3, 2), (40, 8), (1023, 128), (1024, 256), (2000, 256)])
def test_a_small_sample_gets_fewer_codewords_and_says_so(rows, codewords):
    fitted = fit(features(rows, 32))

    assert fitted.quantizer.codewords == codewords
    assert (f"so K = {codewords}" in fitted.origin) == (codewords < 256)
    assert fitted.encode(SAMPLE).values.max() < codewords


def test_a_model_comes_back_from_its_bytes_exactly():
    made = fit(SAMPLE)
    back = model.Model.from_bytes(made.to_bytes())

    assert back.origin == made.origin
    assert (back.encode(SAMPLE).values == made.encode(SAMPLE).values).all()
    assert (back.lookup_tables(SAMPLE.vectors[0]) == made.lookup_tables(SAMPLE.vectors[0])).all()


class _Trap:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["garbage", "pickle", "object array", "missing array"])
def test_bytes_that_are_not_a_model_are_refused_and_not_unpickled(tmp_path, kind):
    trap, buffer = tmp_path / "sprung", io.BytesIO()
    if kind == "garbage":
        buffer.write(b"garbage")
    elif kind == "pickle":
        pickle.dump(_Trap(trap), buffer)
    elif kind == "object array":
        np.savez(buffer, rotation=np.array([_Trap(trap)], dtype=object))
    else:
        np.savez(buffer, rotation=np.zeros(3, np.float32))

    with pytest.raises(CollectionError, match="expected the arrays of a udq model"):
        model.Model.from_bytes(buffer.getvalue())
    assert not trap.exists()
