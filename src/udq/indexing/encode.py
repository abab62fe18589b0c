"""Regions and features of a photo -> what a collection stores of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.features.extractor import ExtractedPhoto
from udq.quantization.model import Model
from udq.store.segments import Image, StoredPhoto
from udq.types import Regions

Seen = StoredPhoto | dict[str, str]
"""What a collection keeps of a photo; of one that could not be read, ``image`` and ``reason``."""


def seen(photo: ExtractedPhoto, number: int, fitted: Model) -> Seen:
    """Return what a collection keeps of a photo, or why it cannot; everything else as in ``encode``."""
    return encode(photo, number, fitted) if photo.broken is None else why_broken(photo)


def encode(photo: ExtractedPhoto, number: int, fitted: Model) -> StoredPhoto:
    """Return what a collection keeps of a photo.

    Args:
        photo: one that could be read.
        number: its id.
        fitted: the collection's model.
    """
    codes, error = fitted.measured(photo.features)
    image = Image(photo.source.name, photo.source.root, photo.width, photo.height, number)
    return StoredPhoto(image, photo.content, _whole_pixels(photo.regions), codes.values, error)


def why_broken(photo: ExtractedPhoto) -> dict[str, str]:
    """Return what a collection says of a photo that could not be read."""
    return {"image": photo.source.name, "reason": str(photo.broken)}


def _whole_pixels(regions: Regions) -> NDArray[np.uint16]:
    """Round boxes outwards, so that not even a tiny photo's smallest window becomes empty."""
    noise = 1e-3
    low, high = np.floor(regions.boxes[:, :2] + noise), np.ceil(regions.boxes[:, 2:] - noise)
    return np.concatenate([low, high], axis=1).astype(np.uint16)
