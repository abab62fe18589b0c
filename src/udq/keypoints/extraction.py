"""A photo -> its local features, at the scale at which collections store them."""

from __future__ import annotations

from udq.keypoints import sift
from udq.keypoints.sift import LocalFeatures
from udq.photos.indexed import PhotoPath
from udq.photos.sandbox import Decoder

LONGER = 800
"""Pixels of the longer side of a photo to which a larger photo is scaled."""

# Photos with a longer side of more pixels are decoded at a smaller scale, several times as fast for JPEG.
_MOST = 1600


def extract(photo: PhotoPath, decoder: Decoder, most: int) -> LocalFeatures:
    """Return the strongest local features of a photo.

    Args:
        photo: the file.
        decoder: decodes it.
        most: number of features at most.

    Raises:
        UnreadableError: the photo cannot be read or decoded.
    """
    view = decoder.load_window(photo, None, margin=0.0, longer=LONGER, enlarged=1.0, most=_MOST)
    return sift.extract(view.pixels, view.window, most)


def step(width: int, height: int) -> float:
    """Return pixels of a photo per pixel of the view that its local features are extracted from."""
    return max(1.0, max(width, height) / LONGER)
