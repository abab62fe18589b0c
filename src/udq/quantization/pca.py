"""Principal components of pooled features: where FC_S starts.

The paper reduces them "by PCA to 300" before supervision (sec. 4.2): here the projection is FC_S before training.
"""

from __future__ import annotations

import numpy as np

from udq.quantization.head import Head, Layer
from udq.types import Features

# Directions that carry less than this share of the largest variance are rounding noise: whitening would blow them up.
_LEAST_VARIANCE = 1e-6


def fit(features: Features, *, dimensions: int, whiten: bool, multiple_of: int) -> Head:
    """Return FC_S alone, as the projection of a sample onto its principal components.

    Fewer components come out than asked for where the sample has fewer directions; zero components that change no
    distance pad them to a multiple of ``multiple_of``.

    Args:
        features: (G, D) float32 sample.
        dimensions: components wanted; the paper's d.
        whiten: whether to divide each by its standard deviation.
        multiple_of: M, so that sub-vectors have one length.
    """
    sample = features.vectors
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean.astype(np.float32)
    if len(centred) < centred.shape[1]:
        # Of few regions, the covariance is large and mostly null space: VGG16's 4,096 channels take seconds.
        _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
        variance, vectors = lengths.astype(np.float64) ** 2 / max(1, len(sample) - 1), directions.T.astype(np.float64)
    else:
        covariance = (centred.T @ centred).astype(np.float64) / max(1, len(sample) - 1)
        variance, vectors = np.linalg.eigh(covariance)
        variance, vectors = variance[::-1], vectors[:, ::-1]
    kept = int((variance[:dimensions] > _LEAST_VARIANCE * max(variance[0], 1e-30)).sum())
    kept = max(1, min(kept, len(sample) - 1))
    components = vectors[:, :kept]
    # eigh leaves each sign open; fixing it makes the same sample give the same projection everywhere.
    components = components * np.where(components[np.abs(components).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)
    if whiten:
        components = components / np.sqrt(np.maximum(variance[:kept], 1e-30))
    padding = -kept % multiple_of
    components = np.pad(components, ((0, 0), (0, padding)))
    weight = np.ascontiguousarray(components.T.astype(np.float32))
    return Head((Layer(weight, -(weight @ mean.astype(np.float32))),))
