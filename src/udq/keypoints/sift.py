"""Local features: points of a photo that can be matched in another photo of the same object, at any scale and angle.

RootSIFT: OpenCV's SIFT with the square roots of R. Arandjelović and A. Zisserman (Three things everyone should know to
improve object retrieval. CVPR 2012). Each feature has a scale and an angle, so a single match determines a similarity.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import DependencyError
from udq.types import Box

DIMENSIONS = 128
# Half of OpenCV's default: plain objects have little contrast, and useless features cost only time.
_CONTRAST = 0.02
# Smallest side of a view in pixels: SIFT finds nothing in a smaller one.
_LEAST = 16


@dataclass(frozen=True)
class LocalFeatures:
    """Local features of one view; row i is the same feature in every array.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the photo as a viewer shows it.
        sizes: (n,) float32, diameter of the described area, in pixels of the photo.
        angles: (n,) float32, direction in radians, clockwise from the x axis as y points down.
        descriptors: (n, 128) float32, of unit length unless decoded from codes.
        step: pixels of the photo per pixel of the view.
    """

    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    angles: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    step: float

    def __len__(self) -> int:
        return len(self.points)


def require() -> None:
    """Raise DependencyError, which says what to install, if there is no OpenCV with SIFT."""
    opencv()


def opencv() -> Any:
    """Return the module of OpenCV; raises DependencyError if it is missing or too old to have SIFT."""
    try:
        module = importlib.import_module("cv2")
        _ = module.SIFT_create, module.USAC_MAGSAC
    except (ImportError, AttributeError) as error:  # older than 4.5.1 in the second case
        raise DependencyError(
            "local features need OpenCV; run: pip install opencv-python-headless, or index with --keypoints 0"
        ) from error
    return module


def extract(pixels: NDArray[np.uint8], window: Box, most: int) -> LocalFeatures:
    """Return the strongest features of a view.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        window: the part of the photo that the pixels show, x1, y1, x2, y2 in pixels of the photo.
        most: number of features at most.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    sift = cv2.SIFT_create(nfeatures=most, contrastThreshold=_CONTRAST)
    large = min(height, width) >= _LEAST
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found: Any = sift.detectAndCompute(grey, None) if large else ((), None)
    keypoints, descriptors = found
    if not len(keypoints):
        nothing = np.empty(0, np.float32)
        return LocalFeatures(np.empty((0, 2), np.float32), nothing, nothing, np.empty((0, DIMENSIONS), np.float32), 1.0)
    # OpenCV returns more than it is asked for if several have the same strength.
    keypoints, descriptors = keypoints[:most], descriptors[:most]
    x1, y1, x2, y2 = window
    step = np.array([(x2 - x1) / width, (y2 - y1) / height])
    # Coordinate 0 is the centre of the first pixel for OpenCV, and its edge for a photo here.
    points = (np.array([each.pt for each in keypoints]) + 0.5) * step + (x1, y1)
    scale = float(step.mean())
    sizes = np.array([each.size for each in keypoints]) * scale
    angles = np.deg2rad([each.angle for each in keypoints])
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7))
    return LocalFeatures(
        points.astype(np.float32),
        sizes.astype(np.float32),
        angles.astype(np.float32),
        roots.astype(np.float32),
        scale,
    )
