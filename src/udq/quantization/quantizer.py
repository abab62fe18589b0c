"""Optimized product quantization: fit, encode, decode, and the lookup tables of a query (eq. 3-6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.types import Codes, Features

# Members of mean residual that are added to each codeword: the residual of a few members is a poor estimate.
_PRIOR = 10


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

    def _rotated_parts(self, features: Features) -> NDArray[np.float32]:
        rotated = self.rotate(features).vectors
        return rotated.reshape(len(features), self.subspaces, -1)


def fit(features: Features, *, subspaces: int, codewords: int, iterations: int, seed: int) -> Quantizer:
    """Minimise the quantization error over rotation and codebooks alternately (eq. 6), with faiss.

    Args:
        features: (G, d) float32 sample, G >= 1, d a multiple of M.
        subspaces: M.
        codewords: K, a power of two.
        iterations: alternations of rotation and codebooks.
        seed: of k-means; the same seed and sample give the same quantizer.
    """
    import faiss

    dimensions = features.vectors.shape[1]
    # faiss writes out of bounds for fewer features than dimensions, and requires one per codeword. Repeating the
    # features does not change the optimum.
    sample = np.tile(features.vectors, (-(-max(dimensions, codewords) // len(features)), 1))
    pq = faiss.ProductQuantizer(dimensions, subspaces, (codewords - 1).bit_length())
    pq.cp.seed = seed
    # Suppresses the warning about fewer than 39 points per codeword, which is the choice of the caller.
    pq.cp.min_points_per_centroid = 1
    opq = faiss.OPQMatrix(dimensions, subspaces)
    opq.niter = iterations
    opq.niter_pq_0 = 10  # the default of 40 polishes codebooks that the first rotation makes obsolete
    opq.verbose = False
    opq.pq = pq
    opq.train(sample)
    rotation = faiss.vector_to_array(opq.A).reshape(dimensions, dimensions).T.copy()
    pq.train(sample @ rotation)
    codebooks = faiss.vector_to_array(pq.centroids).reshape(subspaces, codewords, dimensions // subspaces)
    return _with_residuals(rotation.astype(np.float32), codebooks.astype(np.float32), features)


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
