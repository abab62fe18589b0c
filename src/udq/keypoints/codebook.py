"""Local features in 24 bytes each, by a codebook that is shipped with udq and the same for every collection.

A descriptor is encoded twice by product quantizers (eq. 3 and 4). The code of M = 16 bytes stands for the descriptor
when photos are matched. The cell, of M = 2 bytes, is its place in an inverted multi-index of 65,536 cells (A. Babenko
and V. Lempitsky: The inverted multi-index. CVPR 2012), by which features of a whole collection are searched.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.errors import CollectionError
from udq.keypoints.sift import DIMENSIONS, LocalFeatures
from udq.quantization.quantizer import Quantizer
from udq.quantization.quantizer import fit as fit_quantizer
from udq.types import Features

POINT = np.dtype([("x", "<u2"), ("y", "<u2"), ("size", "u1"), ("angle", "u1"), ("cell", "<u2"), ("code", "u1", (16,))])
"""One local feature as it is stored: place in whole pixels, size and angle in steps, cell and code."""
BYTES = POINT.itemsize
NONE: NDArray[np.uint8] = np.empty((0, BYTES), np.uint8)
"""The local features of a photo that has none."""

SUBSPACES, _CODEWORDS, _HALVES = 16, 256, 2
# Steps of size per octave, and of angle per turn.
_PER_OCTAVE, _PER_TURN = 16, 256
_ITERATIONS, _SEED = 8, 0
_FILE = "weights/sift.npz"


@dataclass(frozen=True)
class Codebook:
    """Two quantizers of descriptors.

    Attributes:
        codes: M = 16, of the code.
        cells: M = 2, of the cell.
    """

    codes: Quantizer
    cells: Quantizer

    def __post_init__(self) -> None:
        for name, subspaces in (("codes", SUBSPACES), ("cells", _HALVES)):
            found = getattr(self, name).codebooks.shape
            if found != (wanted := (subspaces, _CODEWORDS, DIMENSIONS // subspaces)):
                raise ValueError(f"{name}: expected codebooks {wanted}, found {found}")

    @staticmethod
    @cache
    def shipped() -> Codebook:
        """Return the codebook of this package."""
        with importlib.resources.as_file(importlib.resources.files("udq.keypoints") / _FILE) as file:
            return Codebook.from_bytes(Path(file).read_bytes())

    @staticmethod
    def fit(descriptors: NDArray[np.float32]) -> Codebook:
        """Fit a codebook to the descriptors (G, 128) of photos."""
        sample = Features(descriptors)
        codes, cells = (
            fit_quantizer(sample, subspaces=subspaces, codewords=_CODEWORDS, iterations=_ITERATIONS, seed=_SEED)
            for subspaces in (SUBSPACES, _HALVES)
        )
        return Codebook(codes, cells)

    def to_bytes(self) -> bytes:
        """Return the codebook as an .npz archive."""
        arrays = {"codes": self.codes, "cells": self.cells}
        return npz.to_bytes(
            {
                f"{name}_{part}": getattr(quantizer, part)
                for name, quantizer in arrays.items()
                for part in ("rotation", "codebooks", "residuals")
            }
        )

    @staticmethod
    def from_bytes(data: bytes) -> Codebook:
        """Read a codebook; raises CollectionError if ``to_bytes`` did not make the bytes."""
        try:
            parts = npz.from_bytes(data)
            codes, cells = (
                Quantizer(*(parts[f"{name}_{part}"] for part in ("rotation", "codebooks", "residuals")))
                for name in ("codes", "cells")
            )
            return Codebook(codes, cells)
        except (ValueError, KeyError) as error:
            raise CollectionError(f"codebook of local features: damaged; install udq again ({error})") from error

    def encode(self, features: LocalFeatures) -> NDArray[np.uint8]:
        """Return features (n, 24) as they are stored; ``points`` reads them."""
        if not len(features):
            return NONE
        stored = np.zeros(len(features), POINT)
        descriptors = Features(features.descriptors)
        place = np.clip(np.round(features.points), 0, 2**16 - 1).astype(np.uint16)
        stored["x"], stored["y"] = place.T
        stored["size"] = np.clip(np.round(_PER_OCTAVE * np.log2(np.maximum(features.sizes, 1))), 0, 255)
        stored["angle"] = np.round(features.angles * (_PER_TURN / (2 * np.pi))).astype(np.int64) % _PER_TURN
        high, low = self.cells.encode(descriptors).values.astype(np.uint16).T
        stored["cell"] = high * _CODEWORDS + low
        stored["code"] = self.codes.encode(descriptors).values
        return stored.view(np.uint8).reshape(len(stored), BYTES)

    def decode(self, stored: NDArray[np.uint8], step: float) -> LocalFeatures:
        """Return stored features (n, 24) with descriptors from their codes, rotated as ``rotated`` rotates a query's.

        Args:
            stored: as ``encode`` returns them.
            step: pixels of the photo per pixel of the view that they were extracted from.
        """
        read = points(stored)
        return LocalFeatures(
            np.stack([read["x"], read["y"]], axis=1).astype(np.float32),
            np.exp2(read["size"] / np.float32(_PER_OCTAVE)).astype(np.float32),
            (read["angle"] * np.float32(2 * np.pi / _PER_TURN)).astype(np.float32),
            self.descriptors(stored),
            step,
        )

    def descriptors(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the rotated descriptors (n, 128) of stored features (n, 24)."""
        code = points(stored)["code"]
        # One take of all codewords is three times as fast as an index by subspace and codeword.
        codewords = self.codes.codebooks.reshape(SUBSPACES * _CODEWORDS, -1)
        return codewords.take(code + np.arange(0, len(codewords), _CODEWORDS), axis=0).reshape(len(code), DIMENSIONS)

    def rotated(self, features: LocalFeatures) -> LocalFeatures:
        """Return a query's features with descriptors in the space of the codes, where products are the same."""
        rotated = self.codes.rotate(Features(features.descriptors)).vectors
        return LocalFeatures(features.points, features.sizes, features.angles, rotated, features.step)

    def nearest_cells(self, descriptors: NDArray[np.float32], count: int) -> NDArray[np.uint16]:
        """Return the ``count`` nearest cells of each descriptor, nearest first.

        Args:
            descriptors: (n, 128) float32, as extracted.
            count: cells; of each half, the nearest 2 sqrt(count) codewords are combined.

        Returns:
            (n, count) uint16.
        """
        side = min(_CODEWORDS, 2 * round(np.sqrt(count)))
        parts = self.cells.rotate(Features(descriptors)).vectors.reshape(len(descriptors), _HALVES, -1)
        near, far = [], []
        for half, codebook in enumerate(self.cells.codebooks):
            distance = (codebook**2).sum(axis=1) - 2 * parts[:, half] @ codebook.T
            chosen = np.argpartition(distance, side - 1, axis=1)[:, :side]
            near.append(chosen)
            far.append(np.take_along_axis(distance, chosen, axis=1))
        sums = (far[0][:, :, None] + far[1][:, None, :]).reshape(len(descriptors), -1)
        cells = (near[0][:, :, None] * _CODEWORDS + near[1][:, None, :]).reshape(len(descriptors), -1)
        kept = np.argpartition(sums, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(kept, np.take_along_axis(sums, kept, axis=1).argsort(axis=1, kind="stable"), axis=1)
        return np.take_along_axis(cells, order, axis=1).astype(np.uint16)

    def tables(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the tables (n, 16, 256) of squared distances from descriptors (n, 128) to codewords."""
        parts = self.codes.rotate(Features(descriptors)).vectors.reshape(len(descriptors), SUBSPACES, -1)
        tables = np.empty((len(descriptors), SUBSPACES, _CODEWORDS), np.float32)
        for m, codebook in enumerate(self.codes.codebooks):
            np.matmul(-2 * parts[:, m], codebook.T, out=tables[:, m])
            tables[:, m] += (codebook**2).sum(axis=1)
        tables += (parts**2).sum(axis=2)[:, :, None]
        return np.maximum(tables, 0, out=tables)


def points(stored: NDArray[np.uint8]) -> NDArray[np.void]:
    """Return stored features (n, 24) as records (n,) of ``POINT``."""
    return np.ascontiguousarray(stored).view(POINT).reshape(len(stored))


def joined(photos: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the stored features of several photos in one array."""
    return np.concatenate([NONE, *photos])
