"""Selective Search, of OpenCV: segments of alike colour and texture, merged step by step; needs no training.

It takes seconds a photo, and stands here to be measured beside the others.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udq.config import FeatureConfig
from udq.errors import DependencyError
from udq.proposals import in_photo
from udq.types import Regions

if TYPE_CHECKING:
    from udq.engine import Engine
    from udq.images import Photo
    from udq.proposals import Proposer
    from udq.trunk import Maps

# Pixels of a box's shorter side at least, as the network sees the photo: less than that is half a cell of its map.
_LEAST = 16


def load(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    """Return the proposer, which keeps at most ``feature.regions``; raises DependencyError without OpenCV's extras."""
    del weights, engine
    try:
        segmentation = importlib.import_module("cv2").ximgproc.segmentation
    except (ImportError, AttributeError) as error:  # OpenCV is there without its extras in the second case
        raise DependencyError("selective-search needs OpenCV's extras; run: pip install 'udq[opencv]'") from error

    def propose(photo: Photo, maps: Maps) -> Regions:
        del maps
        search = segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(photo.pixels[:, :, ::-1]))
        search.switchToSelectiveSearchFast()
        found = np.asarray(search.process(), np.float32).reshape(-1, 4)
        found = found[found[:, 2:].min(axis=1) >= _LEAST]
        # OpenCV's own order is drawn at random from a generator that nothing can seed. Largest first is one a user
        # gets again, and near that of the hierarchy, whose last merges are the largest.
        found = found[np.lexsort((*found.T, -found[:, 2:].prod(axis=1)))][: feature.regions]
        return in_photo(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1), photo)

    return propose
