"""A database in codes, in memory, and its distances to queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq import scan
from udq.extract import Extracted
from udq.model import Model
from udq.quantize import Quantizer
from udq.ranking import place

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A database in codes.

    Attributes:
        names: of N photos; position is image id.
        codes: (G, M) uint8 or uint16.
        boxes: (G, 4) float32, x1, y1, x2, y2 in pixels.
        offsets: (N + 1,) int64, regions of photo i are rows offsets[i] to offsets[i + 1].
        nearest: (Q, N) float32, least squared distance of features that nothing has quantized (eq. 2).
    """

    names: tuple[str, ...]
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    boxes: Floats
    offsets: NDArray[np.int64]
    nearest: Floats

    @cached_property
    def ids(self) -> dict[str, int]:
        """Image id of each name."""
        return {name: i for i, name in enumerate(self.names)}

    def distances(self, quantizer: Quantizer, queries: Floats) -> Floats:
        """Return the squared distance of each photo's best region to each query.

        Args:
            quantizer: what made the codes.
            queries: (Q, d) unit features.

        Returns:
            (Q, N) float32.
        """
        tables = map(quantizer.lookup_tables, queries)
        return np.stack([scan.best_regions(table, self.codes, self.offsets).distance for table in tables])

    def locate(self, lookup: Floats, ranked: bool, image: int) -> Floats:
        """Return where in a photo the object is, (4,) float32.

        Args:
            lookup: (M, K) tables of a query.
            ranked: whether regions are in the order of their proposer.
            image: the photo's id.
        """
        rows = slice(self.offsets[image], self.offsets[image + 1])
        return place(lookup, self.codes[rows], self.boxes[rows], ranked=ranked)


def encode(model: Model, photos: Iterable[Extracted], queries: Floats) -> Encoded:
    """Encode the photos that can be read.

    Args:
        model: what encodes.
        photos: pooled features of their regions.
        queries: (Q, d) unit features.
    """
    names, boxes, nearest = [], [], []
    codes: list[NDArray[Any]] = []
    for photo in photos:
        if photo.broken is not None:
            continue
        features = model.head.apply(photo.features)
        names.append(photo.source.name)
        codes.append(model.quantizer.encode(features).values)
        boxes.append(photo.regions.boxes)
        # Both have unit length: ||q - f||^2 = 2 - 2 q.f
        nearest.append((2.0 - 2.0 * features.vectors @ queries.T).min(axis=0))
    offsets = np.cumsum([0] + [len(each) for each in codes]).astype(np.int64)
    return Encoded(tuple(names), np.concatenate(codes), np.concatenate(boxes), offsets, np.stack(nearest, axis=1))
