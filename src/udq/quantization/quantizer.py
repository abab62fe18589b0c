"""Optimized product quantization: fit, encode, decode, and the lookup tables of a query (eq. 3-6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common.progress import tracked
from udq.common.threads import pool
from udq.types import Codes, Features

# Members of mean residual that are added to each codeword: the residual of a few members is a poor estimate.
_PRIOR = 10
# Rounds of k-means: at the start, and from the codewords of the previous rotation. More at the start would polish
# codebooks that the first rotation makes obsolete.
_FIRST_ROUNDS, _ROUNDS = 10, 4
# Features that the codebooks are fitted to, at most.
_MOST = 1 << 16
_ROTATION_SEED = 1234  # of the first rotation: any one does, and it need not differ between collections


@dataclass(frozen=True)
class Quantizer:
    """A rotation, a codebook for each subspace, and the mean residual of each codeword.

    Attributes:
        rotation: (d, d) float32, orthogonal; the rotated feature is ``f @ rotation`` (R of eq. 6).
        codebooks: (M, K, d/M) float32, the codewords c of eq. 3 in the rotated space.
        residuals: (M, K) float32, the mean squared distance from a codeword to the sub-features encoded by it.
    """

    rotation: NDArray[np.float32]
    codebooks: NDArray[np.float32]
    residuals: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.codebooks.ndim != 3 or self.rotation.shape != (self.dimensions,) * 2:
            raise ValueError(
                f"quantizer: expected codebooks (M, K, d/M) and rotation (d, d), "
                f"found {self.codebooks.shape} and {self.rotation.shape}"
            )
        if self.residuals.shape != self.codebooks.shape[:2]:
            raise ValueError(f"quantizer: expected residuals {self.codebooks.shape[:2]}, found {self.residuals.shape}")

    @property
    def subspaces(self) -> int:
        """M, the number of subspaces."""
        return int(self.codebooks.shape[0])

    @property
    def codewords(self) -> int:
        """K, the number of codewords in each codebook."""
        return int(self.codebooks.shape[1])

    @property
    def dimensions(self) -> int:
        """d, the length of a feature."""
        return int(self.codebooks.shape[0] * self.codebooks.shape[2])

    @property
    def bits(self) -> int:
        """Bits per code, M * log2(K)."""
        return self.subspaces * (self.codewords - 1).bit_length()

    def encode(self, features: Features) -> Codes:
        """Return the index of the nearest codeword of each sub-vector (eq. 4); the lowest index wins ties."""
        parts = self._rotated_parts(features)
        codes = np.empty((len(features), self.subspaces), np.uint8 if self.codewords <= 256 else np.uint16)
        for m, codebook in enumerate(self.codebooks):
            # ||f - c||^2 without ||f||^2, which is the same for every codeword.
            distance = (codebook**2).sum(axis=1) - 2.0 * (parts[:, m] @ codebook.T)
            codes[:, m] = distance.argmin(axis=1)
        return Codes(codes, self.codewords)

    def decode(self, codes: Codes) -> Features:
        """Return the quantized features phi(f) of eq. 3, in the rotated space; (R, d) float32."""
        chosen = [self.codebooks[m, codes.values[:, m]] for m in range(self.subspaces)]
        return Features(np.concatenate(chosen, axis=1))

    def reconstruct(self, codes: Codes) -> Features:
        """Return the quantized features in the original space; (R, d) float32."""
        return Features(self.decode(codes).vectors @ self.rotation.T)

    def errors(self, features: Features, codes: Codes) -> NDArray[np.float32]:
        """Return the squared quantization error (R,) of each feature; eq. 6 minimises the mean."""
        errors: NDArray[np.float32] = np.square(self.rotate(features).vectors - self.decode(codes).vectors).sum(axis=1)
        return errors

    def rotate(self, features: Features) -> Features:
        """Return features in the space of the codebooks; distances do not change."""
        return Features(features.vectors @ self.rotation)

    def lookup_tables(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the expected squared distance from each sub-vector of a query to the sub-features of each codeword.

        It is the squared distance to the codeword (sec. 3.5) plus the codeword's mean squared residual, by which the
        squared asymmetric distance of eq. 5 underestimates that of the features on average (Jegou, Douze and Schmid,
        *Product quantization for nearest neighbor search*, 2011, eq. 17; measured in docs/training.md).

        Args:
            query: (d,) float32, projected but not rotated.

        Returns:
            (M, K) float32, >= 0; a region's squared distance is the sum of its M entries.
        """
        parts = self._rotated_parts(Features(query[None]))[0]
        tables: NDArray[np.float32] = ((self.codebooks - parts[:, None, :]) ** 2).sum(axis=2, dtype=np.float32)
        return tables + self.residuals

    def without_residuals(self) -> Quantizer:
        """Return the same quantizer whose lookup tables are the distances of eq. 5."""
        return Quantizer(self.rotation, self.codebooks, np.zeros_like(self.residuals))

    def _rotated_parts(self, features: Features) -> NDArray[np.float32]:
        rotated = self.rotate(features).vectors
        return rotated.reshape(len(features), self.subspaces, -1)


def fit(
    features: Features,
    *,
    subspaces: int,
    codewords: int,
    iterations: int,
    seed: int,
    threads: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> Quantizer:
    """Minimise the quantization error over rotation and codebooks alternately (eq. 6), with the k-means of faiss.

    Each subspace is fitted on one thread, so that the quantizer does not depend on the number of threads.

    Args:
        features: (G, d) float32 sample, G >= 1, d a multiple of M.
        subspaces: M.
        codewords: K, a power of two.
        iterations: alternations of rotation and codebooks.
        seed: of k-means; the same seed and sample give the same quantizer on one machine.
        threads: number of threads; as many as there are cores if None.
        step: called before each of ``iterations + 1`` fits of the codebooks, which take about as long as each other.
    """
    import faiss  # before the pool, which limits its threads

    dimensions = features.vectors.shape[1]
    with pool(threads) as workers:
        sample = _sample(features.vectors, max(dimensions, codewords))
        mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = sample - mean
        fitted = [_Codebook(codewords, dimensions // subspaces, seed) for _ in range(subspaces)]
        rotation, _ = np.linalg.qr(faiss.randn(dimensions**2, _ROTATION_SEED).reshape(dimensions, dimensions).T)
        for iteration in tracked(range(iterations + 1), step):
            last = iteration == iterations
            rotated = (sample if last else centred) @ rotation
            parts = rotated.reshape(len(sample), subspaces, -1).swapaxes(0, 1)
            quantized = np.concatenate(list(workers.map(_Codebook.fit, fitted, parts)), axis=1)
            if not last:
                left, _, right = np.linalg.svd(centred.T @ quantized)
                rotation = left @ right
        codebooks = np.stack([codebook.centres for codebook in fitted])
        return _with_residuals(np.ascontiguousarray(rotation), codebooks, features)


def _sample(vectors: NDArray[np.float32], least: int) -> NDArray[np.float32]:
    """Return the features to fit to: at least ``least``, which k-means requires, and a limited number.

    Repeating features does not change the optimum.
    """
    if len(vectors) > _MOST:
        vectors = vectors[np.sort(np.random.default_rng(_ROTATION_SEED).permutation(len(vectors))[:_MOST])]
    return np.tile(vectors, (-(-least // len(vectors)), 1))


class _Codebook:
    """The codebook of one subspace, which k-means improves with every fit.

    Attributes:
        centres: (K, d/M) float32.
    """

    def __init__(self, codewords: int, length: int, seed: int) -> None:
        """Start without codewords; the first fit draws them from the sub-features."""
        import faiss

        self._clustering: Any = faiss.ProductQuantizer(length, 1, (codewords - 1).bit_length())
        settings = self._clustering.cp
        settings.seed = seed
        settings.niter = _FIRST_ROUNDS
        settings.max_points_per_centroid = 1000
        # Suppresses the warning about fewer than 39 points per codeword, which is the choice of the caller.
        settings.min_points_per_centroid = 1
        self._shape = codewords, length

    @property
    def centres(self) -> NDArray[np.float32]:
        """(K, d/M) float32, the codewords."""
        import faiss

        centres: NDArray[np.float32] = faiss.vector_to_array(self._clustering.centroids).reshape(self._shape)
        return centres

    def fit(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        """Improve the codewords by some rounds of k-means, and return the quantized sub-features (G, d/M)."""
        import faiss

        part = np.ascontiguousarray(part)
        self._clustering.train(part)
        self._clustering.train_type = faiss.ProductQuantizer.Train_hot_start
        self._clustering.cp.niter = _ROUNDS
        quantized: NDArray[np.float32] = self._clustering.decode(self._clustering.compute_codes(part))
        return quantized


def _with_residuals(rotation: NDArray[np.float32], codebooks: NDArray[np.float32], features: Features) -> Quantizer:
    """Return a quantizer with the residuals of a sample (G, d).

    The mean of each codeword includes ``_PRIOR`` additional members with the mean residual of the subspace.
    """
    subspaces, codewords, length = codebooks.shape
    plain = Quantizer(rotation, codebooks, np.zeros((subspaces, codewords), np.float32))
    codes = plain.encode(features)
    left = np.square(plain.rotate(features).vectors - plain.decode(codes).vectors)
    squared = left.reshape(len(features), subspaces, length).sum(axis=2)
    residuals = np.empty((subspaces, codewords), np.float32)
    for m in range(subspaces):
        members = np.bincount(codes.values[:, m], minlength=codewords)
        total = np.bincount(codes.values[:, m], weights=squared[:, m], minlength=codewords)
        residuals[m] = (total + _PRIOR * squared[:, m].mean()) / (members + _PRIOR)
    return Quantizer(rotation, codebooks, residuals)
