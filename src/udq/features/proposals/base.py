"""What every region proposer returns: regions in pixels of the photo, the whole photo last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.types import Regions

if TYPE_CHECKING:
    from torch import Tensor

    from udq.photos.decoding import Photo


# propose(photo, feature_map, fine_map) -> Regions in pixels of the photo before scaling. The maps are those of
# Trunk.maps; a proposer uses the ones that it needs.
Proposer = Callable[["Photo", "Tensor", "Tensor"], Regions]


def in_photo(boxes: NDArray[np.float32], photo: Photo) -> Regions:
    """Convert boxes (R, 4) in pixels of the scaled photo to regions in pixels of the photo, and append the whole photo.

    Boxes that are less than a pixel wide or high after clipping to the photo are left out. The whole photo is the
    region that a query without a box is compared with.
    """
    height, width = photo.pixels.shape[:2]
    extent = np.array([photo.width, photo.height] * 2, np.float32)
    inside = np.clip(boxes * np.array([photo.width / width, photo.height / height] * 2, np.float32), 0, extent)
    whole = np.array([[0, 0, photo.width, photo.height]], np.float32)
    return Regions(np.concatenate([inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)], whole]))
