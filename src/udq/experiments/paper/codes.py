"""A data set encoded in memory, as a collection would store it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.features.extractor import ExtractedPhoto
from udq.indexing.encode import encode
from udq.quantization.model import Model
from udq.search.database import LocalDatabase
from udq.store.segments import Segment, StoredPhoto

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EncodedPhotos:
    """The codes of a data set, and the exact distances of its queries for comparison.

    Attributes:
        database: the readable photos, N of them.
        nearest: (Q, N) float32, least squared distance between a query's and a photo's unquantized features (eq. 2).
    """

    database: LocalDatabase
    nearest: Floats


def encode_photos(
    model: Model, photos: Iterable[ExtractedPhoto], queries: Floats, *, ranked: bool, position: str
) -> EncodedPhotos:
    """Encode the readable photos.

    Args:
        model: the model that encodes.
        photos: photos with pooled features of their regions.
        queries: (Q, d) unit features.
        ranked: whether regions are in the order of their proposer.
        position: ``SearchConfig.position``.
    """
    encoded: list[StoredPhoto] = []
    nearest = []
    for photo in photos:
        if photo.broken is not None:
            continue
        encoded.append(encode(photo, len(encoded), model))
        # Both have unit length: ||q - f||^2 = 2 - 2 q.f
        nearest.append((2.0 - 2.0 * model.head.apply(photo.features).vectors @ queries.T).min(axis=0))
    database = LocalDatabase(model, (Segment.of("", encoded),), ranked, position=position)
    return EncodedPhotos(database, np.stack(nearest, axis=1))
