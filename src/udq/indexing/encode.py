"""Regions and features of a photo -> what a collection stores of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.features.extractor import ExtractedPhoto
from udq.quantization.model import Model
from udq.store.manifest import UnreadablePhoto
from udq.store.segments import Image, StoredPhoto
from udq.types import Regions


def encode_or_report(photo: ExtractedPhoto, number: int, model: Model) -> StoredPhoto | UnreadablePhoto:
    """Return what a collection stores of a photo, or why the photo could not be read; arguments as in ``encode``."""
    return encode(photo, number, model) if photo.broken is None else unreadable(photo)


def encode(photo: ExtractedPhoto, number: int, model: Model) -> StoredPhoto:
    """Return what a collection stores of a photo.

    Args:
        photo: a photo that could be read.
        number: its id.
        model: the collection's model.
    """
    codes, error = model.measured(photo.features)
    image = Image(photo.source.name, photo.source.root, photo.width, photo.height, number)
    return StoredPhoto(image, photo.content, _whole_pixels(photo.regions), codes.values, error, photo.points)


def unreadable(photo: ExtractedPhoto) -> UnreadablePhoto:
    """Return the entry of a photo that could not be read."""
    return {"image": photo.source.name, "reason": str(photo.broken), "root": photo.source.root}


def _whole_pixels(regions: Regions) -> NDArray[np.uint16]:
    """Round boxes outwards to whole pixels, so that no box becomes empty, not even the smallest of a tiny photo."""
    noise = 1e-3
    low, high = np.floor(regions.boxes[:, :2] + noise), np.ceil(regions.boxes[:, 2:] - noise)
    return np.concatenate([low, high], axis=1).astype(np.uint16)
