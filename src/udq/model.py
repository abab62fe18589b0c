"""What turns pooled features into codes: projection, then quantizer. One file, never unpickled."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq import projection, quantize
from udq.config import QuantizerConfig
from udq.errors import CollectionError
from udq.types import Codes, Features

# Fewer regions than these a codeword, and the codebook is the sample itself.
_REGIONS_A_CODEWORD = 4


@dataclass(frozen=True)
class Model:
    """Projection and quantizer, with a word on where they come from.

    Attributes:
        projection: pooled feature (D,) -> unit feature (d,).
        quantizer: unit feature -> code.
        origin: one sentence for ``udq info``: what it was fitted to.
    """

    projection: projection.Projection
    quantizer: quantize.Quantizer
    origin: str

    def encode(self, features: Features) -> Codes:
        """Return the codes of pooled features (eq. 4)."""
        return self.quantizer.encode(self.projection.apply(features))

    def lookup_tables(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (M, K) tables of squared distances of a pooled query feature (D,) (sec. 3.5)."""
        return self.quantizer.lookup_tables(self.projection.apply(Features(query[None])).vectors[0])

    def to_bytes(self) -> bytes:
        """Return the model as an .npz archive; ``from_bytes`` reads it back exactly."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            mean=self.projection.mean,
            components=self.projection.components,
            rotation=self.quantizer.rotation,
            codebooks=self.quantizer.codebooks,
            origin=np.array(self.origin),
        )
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Model:
        """Read ``to_bytes``; raises CollectionError where the bytes are something else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                parts = {name: arrays[name] for name in ("mean", "components", "rotation", "codebooks")}
                origin = str(arrays["origin"])
            return Model(
                projection.Projection(parts["mean"], parts["components"]),
                quantize.Quantizer(parts["rotation"], parts["codebooks"]),
                origin,
            )
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CollectionError(f"model: expected the arrays of a udq model, found: {error}") from error


def fit(sample: Features, settings: QuantizerConfig) -> Model:
    """Fit projection and quantizer to a sample of a collection's own pooled features (G, D).

    Where the sample is too small for K codewords, the stated fallback is fewer: the largest power of two that
    leaves four regions a codeword. ``Model.origin`` says so. Codebooks fitted to so few regions still search better
    than K = 256 fitted to other photos (docs/regions.md).
    """
    codewords = settings.codewords
    while codewords > max(2, len(sample) // _REGIONS_A_CODEWORD):
        codewords //= 2
    origin = f"fitted to {len(sample):,} regions of this collection"
    if codewords < settings.codewords:
        origin += f"; too few for K = {settings.codewords}, so K = {codewords}"
    projected_by = projection.fit(
        sample, dimensions=settings.dimensions, whiten=settings.whiten, multiple_of=settings.subspaces
    )
    quantizer = quantize.fit(
        projected_by.apply(sample),
        subspaces=settings.subspaces,
        codewords=codewords,
        iterations=settings.iterations,
        seed=settings.seed,
    )
    return Model(projected_by, quantizer, origin)
