"""Photos as small JPEGs in ``data:`` URLs, which a page embeds."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.errors import ImageError, InputError
from udq.photos import sandbox
from udq.photos.indexed import PhotoPath
from udq.photos.sandbox import Decoder
from udq.types import Box

# Longer side in pixels: twice the CSS width of a card, for screens with two device pixels per CSS pixel.
SIDE = 288
# Upper bound of one JPEG, before base64 adds a third. Noisy photos get a lower quality to stay below it, so the size
# of a page is bounded by its number of photos.
MOST_BYTES = 24_000
_QUALITIES = (75, 60, 45, 30, 15, 5)


def whole(photo: PhotoPath, decoder: Decoder | None = None) -> str | None:
    """Return a photo as a ``data:`` URL, or None if it cannot be read now; by the decoder of this process if None."""
    try:
        return _data_url((decoder or sandbox.shared()).decode(photo, shorter=SIDE, longer=SIDE).pixels)
    except (ImageError, InputError):
        return None


def cut(photo: PhotoPath, box: Box, decoder: Decoder | None = None) -> tuple[str, tuple[int, int]] | None:
    """Return the part of a photo inside a box as a ``data:`` URL, with its width and height in pixels of the photo.

    None if the photo cannot be read now or has become smaller than the box.
    """
    try:
        crop, _ = (decoder or sandbox.shared()).load_crop(photo, box, shorter=SIDE, longer=SIDE, least=SIDE)
    except (ImageError, InputError):
        return None
    return _data_url(crop.pixels), (crop.width, crop.height)


def _data_url(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
