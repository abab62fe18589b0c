"""Principal components of pooled features: the projection before the quantizer (sec. 4.2, PAPER_NOTES reading 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.types import Features

# Directions that carry less than this share of the largest variance are rounding noise: whitening would blow them up.
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Projection:
    """f = unit((x - mean) @ components), padded by zeros that change no distance (reading 1).

    Attributes:
        mean: (D,) float32.
        components: (D, d) float32, divided by the standard deviations where whitened.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.components.ndim != 2 or len(self.mean) != len(self.components):
            raise ValueError(
                f"projection: expected mean (D,) and components (D, d), "
                f"found {self.mean.shape} and {self.components.shape}"
            )

    @property
    def dimensions(self) -> int:
        """d, the length of a projected feature."""
        return int(self.components.shape[1])

    def apply(self, features: Features) -> Features:
        """Project (R, D) features to (R, d) features of unit length."""
        projected = (features.vectors - self.mean) @ self.components
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        return Features(projected / np.maximum(length, np.float32(1e-12)))


def fit(features: Features, *, dimensions: int, whiten: bool, multiple_of: int) -> Projection:
    """Fit the projection to a sample.

    Fewer components come out than asked for where the sample has fewer directions; zero components pad them to
    a multiple of ``multiple_of``.

    Args:
        features: (G, D) float32 sample.
        dimensions: components wanted; the paper's d.
        whiten: whether to divide each by its standard deviation.
        multiple_of: M, so that sub-vectors have one length.
    """
    sample = features.vectors
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean.astype(np.float32)
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
    return Projection(mean.astype(np.float32), components.astype(np.float32))
