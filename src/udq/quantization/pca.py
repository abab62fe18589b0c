"""Linear projections of pooled features, to which FC_S is initialised: principal components, or fitted to pairs.

The paper reduces features "by PCA to 300" before supervision (sec. 4.2): here that projection is FC_S before training.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.common.threads import Pool, pool
from udq.quantization.head import Head, Layer
from udq.types import Features

# Directions with less than this share of the largest variance are rounding noise, which whitening would amplify.
_LEAST_VARIANCE = 1e-6
# Rows of a part of the covariance, which one thread sums; the same for every number of threads.
_ROWS = 4096


def fit(features: Features, *, dimensions: int, whiten: bool, multiple_of: int, threads: int | None = None) -> Head:
    """Return a head of one layer, FC_S, that projects onto the principal components of a sample.

    There are fewer components than ``dimensions`` if the sample spans fewer. Zero components, which change no distance,
    pad them to a multiple of ``multiple_of``.

    Args:
        features: (G, D) float32 sample.
        dimensions: number of components; d in the paper.
        whiten: whether to divide each component by its standard deviation.
        multiple_of: M, so that sub-vectors are of equal length.
        threads: number of threads, which the result does not depend on; as many as there are cores if None.
    """
    with pool(threads) as workers:
        return _fit(features, dimensions, whiten, multiple_of, workers)


def fit_pairs(
    features: Features,
    pairs: NDArray[np.int64],
    *,
    shrinkage: float,
    dimensions: int,
    multiple_of: int,
    threads: int | None = None,
) -> Head:
    """Return a head of one layer that brings the features of pairs together, and keeps others apart.

    The covariance of the differences of pairs,

        C = sum over pairs (x - y)(x - y)^T / 2n + shrinkage trace / D I,

    has large entries where views of one object differ. Features are multiplied by C^(-1/2), then projected onto their
    principal components as in ``fit``. (K. Mikolajczyk and J. Matas: Improving descriptors for fast tree matching by
    optimal linear projection. ICCV 2007; without labels in F. Radenović, G. Tolias and O. Chum: Fine-tuning CNN image
    retrieval with no human annotation. TPAMI 2019.)

    Args:
        features: (G, D) float32 sample.
        pairs: (n, 2) rows of the sample, n >= 1.
        shrinkage: > 0; the larger, the nearer is the result to the principal components alone.
        dimensions, multiple_of, threads: as for ``fit``.
    """
    vectors = features.vectors
    with pool(threads) as workers:
        within = _scatter(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], workers) / (2 * len(pairs))
        within += shrinkage * max(np.trace(within), 1e-12) / len(within) * np.eye(len(within))
        variance, directions = np.linalg.eigh(within)
        # Scaled, which changes no direction of a unit feature, to numbers near 1.
        scale = np.sqrt(variance.mean() / variance)
        apart = ((directions * scale) @ directions.T).astype(np.float32)
        head = _fit(Features(vectors @ apart), dimensions, False, multiple_of, workers)
    (layer,) = head.layers
    return Head((Layer(layer.weight @ apart, layer.bias),))


def _fit(features: Features, dimensions: int, whiten: bool, multiple_of: int, workers: Pool) -> Head:
    sample = features.vectors
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean.astype(np.float32)
    if len(centred) < centred.shape[1]:
        # The covariance of few regions is large and mostly null space: with VGG16's 4,096 channels, eigh takes seconds.
        _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
        variance, vectors = lengths.astype(np.float64) ** 2 / max(1, len(sample) - 1), directions.T.astype(np.float64)
    else:
        # eigh stays on one thread: two take longer even on an idle machine.
        variance, vectors = np.linalg.eigh(_scatter(centred, workers) / max(1, len(sample) - 1))
        variance, vectors = variance[::-1], vectors[:, ::-1]
    kept = int((variance[:dimensions] > _LEAST_VARIANCE * max(variance[0], 1e-30)).sum())
    kept = max(1, min(kept, len(sample) - 1))
    components = vectors[:, :kept]
    # The signs that eigh returns are arbitrary; fixing them makes the projection reproducible.
    components = components * np.where(components[np.abs(components).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)
    if whiten:
        components = components / np.sqrt(np.maximum(variance[:kept], 1e-30))
    padding = -kept % multiple_of
    components = np.pad(components, ((0, 0), (0, padding)))
    weight = np.ascontiguousarray(components.T.astype(np.float32))
    return Head((Layer(weight, -(weight @ mean.astype(np.float32))),))


def _scatter(centred: NDArray[np.float32], workers: Pool) -> NDArray[np.float64]:
    """Return the sum (D, D) of the outer products of rows (G, D)."""
    parts = [centred[start : start + _ROWS] for start in range(0, len(centred), _ROWS)]
    total = np.zeros((centred.shape[1],) * 2)
    for part in workers.map(lambda rows: rows.T @ rows, parts):
        total += part
    return total
