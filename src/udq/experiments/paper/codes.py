"""A data set in codes, in memory, as a collection would keep it."""

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
    """A data set in codes.

    Attributes:
        database: the photos that can be read.
        nearest: (Q, N) float32, least squared distance of features that nothing has quantized (eq. 2).
    """

    database: LocalDatabase
    nearest: Floats


def in_codes(model: Model, photos: Iterable[ExtractedPhoto], queries: Floats, *, ranked: bool) -> EncodedPhotos:
    """Encode the photos that can be read.

    Args:
        model: what encodes.
        photos: pooled features of their regions.
        queries: (Q, d) unit features.
        ranked: whether regions are in the order of their proposer.
    """
    whole: list[StoredPhoto] = []
    nearest = []
    for photo in photos:
        if photo.broken is not None:
            continue
        whole.append(encode(photo, len(whole), model))
        # Both have unit length: ||q - f||^2 = 2 - 2 q.f
        nearest.append((2.0 - 2.0 * model.head.apply(photo.features).vectors @ queries.T).min(axis=0))
    return EncodedPhotos(LocalDatabase(model, (Segment.of("", whole),), ranked), np.stack(nearest, axis=1))
