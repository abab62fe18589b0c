"""What every region proposer returns: regions in pixels of the photo, the whole photo last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.types import Regions

if TYPE_CHECKING:
    from udq.features.trunk import Maps
    from udq.photos.decoding import Photo


# propose(photo, maps) -> Regions in pixels of the photo before scaling.
Proposer = Callable[["Photo", "Maps"], Regions]


def in_photo(boxes: NDArray[np.float32], photo: Photo) -> Regions:
    """Return boxes (R, 4) found in a photo as the network sees it as regions of the photo, and last all of it.

    Less than a pixel, to which a photo's border can cut a box, is left out. All of the photo is what a query without a
    box asks for.
    """
    height, width = photo.pixels.shape[:2]
    extent = np.array([photo.width, photo.height] * 2, np.float32)
    inside = np.clip(boxes * np.array([photo.width / width, photo.height / height] * 2, np.float32), 0, extent)
    whole = np.array([[0, 0, photo.width, photo.height]], np.float32)
    return Regions(np.concatenate([inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)], whole]))
