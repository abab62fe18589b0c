"""Optimized product quantization: fit, encode, decode, and the lookup tables of a query (eq. 3-6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.types import Codes, Features

_PRIOR = 10


@dataclass(frozen=True)
class Quantizer:
    """A rotation and one codebook a subspace, and how far from a codeword the sub-features lie that it stands for.

    Attributes:
        rotation: (d, d) float32, orthogonal; the rotated feature is ``f @ rotation`` (R of eq. 6).
        codebooks: (M, K, d/M) float32, the codewords c of eq. 3 in the rotated space.
        residuals: (M, K) float32, the mean squared distance of a codeword to the sub-features that have it as code.
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
        """M."""
        return int(self.codebooks.shape[0])

    @property
    def codewords(self) -> int:
        """K."""
        return int(self.codebooks.shape[1])

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self.codebooks.shape[0] * self.codebooks.shape[2])

    @property
    def bits(self) -> int:
        """Bits of a code, M * log2(K)."""
        return self.subspaces * (self.codewords - 1).bit_length()

    def encode(self, features: Features) -> Codes:
        """Return the nearest codeword of each sub-vector (eq. 4), the lowest index among equals."""
        parts = self._rotated_parts(features)
        codes = np.empty((len(features), self.subspaces), np.uint8 if self.codewords <= 256 else np.uint16)
        for m, codebook in enumerate(self.codebooks):
            # ||f - c||^2 less ||f||^2, which is the same for every codeword.
            distance = (codebook**2).sum(axis=1) - 2.0 * (parts[:, m] @ codebook.T)
            codes[:, m] = distance.argmin(axis=1)
        return Codes(codes, self.codewords)

    def decode(self, codes: Codes) -> Features:
        """Return the quantized features phi(f) of eq. 3, in the rotated space; (R, d) float32."""
        chosen = [self.codebooks[m, codes.values[:, m]] for m in range(self.subspaces)]
        return Features(np.concatenate(chosen, axis=1))

    def reconstruct(self, codes: Codes) -> Features:
        """Return what codes say of their features, in the space of those; (R, d) float32."""
        return Features(self.decode(codes).vectors @ self.rotation.T)

    def errors(self, features: Features, codes: Codes) -> NDArray[np.float32]:
        """Return the squared distance (R,) of each feature to what its code says, whose mean eq. 6 minimises."""
        errors: NDArray[np.float32] = np.square(self.rotate(features).vectors - self.decode(codes).vectors).sum(axis=1)
        return errors

    def rotate(self, features: Features) -> Features:
        """Return features in the space of the codebooks; distances stay as they are."""
        return Features(features.vectors @ self.rotation)

    def lookup_tables(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the expected squared distances of each sub-vector of a query to what each codeword stands for.

        That is the squared distance to the codeword (sec. 3.5) and the codeword's mean squared residual: the squared
        asymmetric distance of eq. 5 falls short of the distance of the features by as much on average (Jegou, Douze
        and Schmid, *Product quantization for nearest neighbor search*, 2011, eq. 17; measured in docs/training.md).

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
    """Minimise the quantization error over rotation and codebooks in turn (eq. 6), by faiss.

    Args:
        features: (G, d) float32 sample, G >= 1, d a multiple of M.
        subspaces: M.
        codewords: K, a power of two.
        iterations: alternations of rotation and codebooks.
        seed: of k-means; the same seed and sample give the same quantizer.
    """
    import faiss

    dimensions = features.vectors.shape[1]
    # faiss writes out of bounds for fewer features than dimensions, and wants one a codeword; several times the same
    # features change no optimum.
    sample = np.tile(features.vectors, (-(-max(dimensions, codewords) // len(features)), 1))
    pq = faiss.ProductQuantizer(dimensions, subspaces, (codewords - 1).bit_length())
    pq.cp.seed = seed
    # Fewer than 39 points a codeword is a choice the caller has made; faiss need not print it.
    pq.cp.min_points_per_centroid = 1
    opq = faiss.OPQMatrix(dimensions, subspaces)
    opq.niter = iterations
    opq.niter_pq_0 = 10  # faiss's 40 polish codebooks that the first rotation makes obsolete
    opq.verbose = False
    opq.pq = pq
    opq.train(sample)
    rotation = faiss.vector_to_array(opq.A).reshape(dimensions, dimensions).T.copy()
    pq.train(sample @ rotation)
    codebooks = faiss.vector_to_array(pq.centroids).reshape(subspaces, codewords, dimensions // subspaces)
    return _with_residuals(rotation.astype(np.float32), codebooks.astype(np.float32), features)


def _with_residuals(rotation: NDArray[np.float32], codebooks: NDArray[np.float32], features: Features) -> Quantizer:
    """Return a quantizer that knows the residuals of a sample (G, d).

    A codeword of few members says little: its mean is taken as if it had ``_PRIOR`` more members, of the subspace's
    mean residual.
    """
    subspaces, codewords, length = codebooks.shape
    unknowing = Quantizer(rotation, codebooks, np.zeros((subspaces, codewords), np.float32))
    codes = unknowing.encode(features)
    left = np.square(unknowing.rotate(features).vectors - unknowing.decode(codes).vectors)
    squared = left.reshape(len(features), subspaces, length).sum(axis=2)
    residuals = np.empty((subspaces, codewords), np.float32)
    for m in range(subspaces):
        members = np.bincount(codes.values[:, m], minlength=codewords)
        total = np.bincount(codes.values[:, m], weights=squared[:, m], minlength=codewords)
        residuals[m] = (total + _PRIOR * squared[:, m].mean()) / (members + _PRIOR)
    return Quantizer(rotation, codebooks, residuals)
