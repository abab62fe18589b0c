"""Photos -> small JPEGs inside a page, as addresses that begin with ``data:``."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.errors import ImageError, InputError
from udq.photos import decoding
from udq.types import Box

# Longer side in pixels: twice what a card of a page shows, for screens of two pixels a point.
SIDE = 288
# Of one JPEG, before base64 adds a third. Noise is brought under it by a lower quality, so that no collection makes a
# page grow past what its number of photos says.
MOST_BYTES = 24_000
_QUALITIES = (75, 60, 45, 30, 15, 5)


def whole(path: Path) -> str | None:
    """Return a photo as an address; None where it cannot be read now."""
    try:
        return _address(decoding.load(path, shorter=SIDE, longer=SIDE).pixels)
    except (ImageError, InputError):
        return None


def cut(path: Path, box: Box) -> tuple[str, tuple[int, int]] | None:
    """Return the part of a photo inside a box as an address, and its size in pixels of the photo.

    None where the photo cannot be read now, or has become smaller than the box.
    """
    try:
        crop, _ = decoding.load_crop(path, box, shorter=SIDE, longer=SIDE, least=SIDE)
    except (ImageError, InputError):
        return None
    return _address(crop.pixels), (crop.width, crop.height)


def _address(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
