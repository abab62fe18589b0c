"""The model of a collection: fully connected layers and quantizer, pooled features -> codes; stored as one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.text import one_line
from udq.config import CODEWORDS, QuantizerConfig
from udq.errors import CollectionError, InputError
from udq.quantization import pca
from udq.quantization.head import Head
from udq.quantization.quantizer import Quantizer
from udq.quantization.quantizer import fit as fit_quantizer
from udq.types import Codes, Features

# With fewer regions per codeword, codebooks are little more than a copy of the sample.
_REGIONS_PER_CODEWORD = 4
# Limit of weights from a file: squares of larger ones may add up to infinity.
_LARGEST = 1e12


@dataclass(frozen=True)
class Model:
    """Fully connected layers and quantizer.

    Attributes:
        head: pooled feature (D,) -> unit feature f (d,).
        quantizer: unit feature -> code.
        origin: what the model was fitted to, for ``udq info``.
    """

    head: Head
    quantizer: Quantizer
    origin: str

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return int(self.head.layers[0].weight.shape[1])

    def encode(self, features: Features) -> Codes:
        """Return the codes of pooled features (eq. 4)."""
        return self.quantizer.encode(self.head.apply(features))

    def measured(self, features: Features) -> tuple[Codes, float]:
        """Return the codes of pooled features, and their mean squared quantization error."""
        unit = self.head.apply(features)
        codes = self.quantizer.encode(unit)
        return codes, float(self.quantizer.errors(unit, codes).mean())

    def lookup_tables(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (M, K) tables of expected squared distances of a pooled query feature (D,)."""
        if query.shape != (self.channels,):
            raise InputError(f"query: expected a pooled feature of {self.channels} numbers, found {query.shape}")
        return self.quantizer.lookup_tables(self.head.apply(Features(query[None])).vectors[0])

    def to_bytes(self) -> bytes:
        """Return the model as an .npz archive, without pickled objects; ``from_bytes`` reads it back exactly."""
        return npz.to_bytes(
            {
                **self.head.arrays(),
                "rotation": self.quantizer.rotation,
                "codebooks": self.quantizer.codebooks,
                "residuals": self.quantizer.residuals,
                "origin": np.array(self.origin),
            }
        )

    @staticmethod
    def from_bytes(data: bytes) -> Model:
        """Read a model; raises CollectionError if ``to_bytes`` did not make the bytes."""
        try:
            parts = npz.from_bytes(data)
            quantizer = Quantizer(parts.pop("rotation"), parts.pop("codebooks"), parts.pop("residuals"))
            origin = str(parts.pop("origin"))
            model = Model(Head.from_arrays(parts), quantizer, origin)
            model._check()
        except (ValueError, KeyError) as error:
            raise CollectionError(f"model: expected the arrays of a udq model, found: {one_line(error)}") from error
        return model

    def _check(self) -> None:
        """Raise ValueError if the arrays of an untrusted file are not a model; later code relies on it."""
        quantizer = self.quantizer
        weights = (*self.head.arrays().values(), quantizer.rotation, quantizer.codebooks, quantizer.residuals)
        if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights):
            raise ValueError("weights that are not finite float32")
        if any(np.abs(array).max(initial=0) > _LARGEST for array in weights):
            raise ValueError(f"weights beyond {_LARGEST:.0e}, with which sums may overflow")
        if self.head.dimensions != quantizer.dimensions:
            raise ValueError(f"features of {self.head.dimensions} and codes of {quantizer.dimensions} dimensions")
        codewords = quantizer.codewords
        # A power of two: the bits of a code then name a codeword, whatever they are.
        possible = 2 <= codewords <= max(CODEWORDS) and codewords.bit_count() == 1
        if not (possible and quantizer.dimensions and self.channels):
            raise ValueError(f"codebooks of shape {quantizer.codebooks.shape}")
        if (quantizer.residuals < 0).any():
            raise ValueError("negative residuals")


def start(sample: Features, settings: QuantizerConfig, *, threads: int | None = None) -> Head:
    """Return the head before any training: FC_S alone, as the principal components of a sample (G, D).

    Args:
        sample: the pooled features.
        settings: of the quantizer.
        threads: as for ``pca.fit``.
    """
    return pca.fit(
        sample,
        dimensions=settings.dimensions,
        whiten=settings.whiten,
        multiple_of=settings.subspaces,
        threads=threads,
    )


def start_from_pairs(
    sample: Features,
    pairs: NDArray[np.int64],
    settings: QuantizerConfig,
    *,
    shrinkage: float,
    threads: int | None = None,
) -> Head:
    """Return the head before any training, as a projection that brings the features of pairs together.

    Args:
        sample: the pooled features (G, D).
        pairs: (n, 2) rows of the sample that show the same, n >= 1.
        settings: of the quantizer.
        shrinkage, threads: as for ``pca.fit_pairs``.
    """
    return pca.fit_pairs(
        sample,
        pairs,
        shrinkage=shrinkage,
        dimensions=settings.dimensions,
        multiple_of=settings.subspaces,
        threads=threads,
    )


def codewords(regions: int, settings: QuantizerConfig) -> int:
    """Return K for a sample of that many regions.

    A sample with fewer than four regions per codeword gets fewer codewords: the largest power of two with four regions
    each. Codebooks fitted to so few regions still search better than K = 256 fitted to other photos (docs/regions.md).
    """
    fewer = settings.codewords
    while fewer > max(2, regions // _REGIONS_PER_CODEWORD):
        fewer //= 2
    return fewer


def fit(
    sample: Features,
    head: Head,
    settings: QuantizerConfig,
    *,
    seed: int,
    trained: bool = False,
    threads: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> Model:
    """Fit the quantizer to a sample of a collection's own pooled features (G, D), mapped by a head.

    Args:
        sample: the pooled features.
        head: the layers, trained or not.
        settings: of the quantizer.
        seed: of k-means.
        trained: whether the head was trained, for ``origin``.
        threads, step: as for ``quantizer.fit``.
    """
    quantizer = fit_quantizer(
        head.apply(sample),
        subspaces=settings.subspaces,
        codewords=codewords(len(sample), settings),
        iterations=settings.iterations,
        seed=seed,
        threads=threads,
        step=step,
    )
    if not settings.residuals:
        quantizer = quantizer.without_residuals()
    origin = f"{'trained on' if trained else 'fitted to'} {len(sample):,} regions of this collection"
    if quantizer.codewords < settings.codewords:
        origin += f"; too few for K = {settings.codewords}, so K = {quantizer.codewords}"
    return Model(head, quantizer, origin)
