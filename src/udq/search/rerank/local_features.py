"""Local features: points of a photo that can be matched in another photo of the same object, at any scale and angle.

RootSIFT: OpenCV's SIFT with the square roots of R. Arandjelović and A. Zisserman (Three things everyone should know to
improve object retrieval. CVPR 2012). A learned feature was measured as well (benchmarks/decisions/verification.py): it
takes several times as long on a CPU, and as it has no scale and angle, a single match does not determine a similarity.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import DependencyError
from udq.types import Box

# The strongest features of a view: bounds the time for a photo with very many, such as one of leaves.
MOST = 600
# Half of OpenCV's default: plain objects have little contrast, and useless features cost only time.
_CONTRAST = 0.02
# Largest ratio of the distances of the nearest and the second nearest descriptor. Lowe's 0.8 is for matches that are
# trusted one by one; here they must also agree with each other, and at 0.9 more correct matches do.
RATIO = 0.9


@dataclass(frozen=True)
class LocalFeatures:
    """Local features of one view; row i is the same feature in every array.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the photo as a viewer shows it.
        sizes: (n,) float32, diameter of the described area, in pixels of the photo.
        angles: (n,) float32, direction in radians, clockwise from the x axis as y points down.
        descriptors: (n, 128) float32 of unit length.
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
        raise DependencyError("verifying matches needs OpenCV; run: pip install 'udq[verify]'") from error
    return module


def extract(pixels: NDArray[np.uint8], window: Box) -> LocalFeatures:
    """Return the features of a view.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        window: the part of the photo that the pixels show, x1, y1, x2, y2 in pixels of the photo.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    sift = cv2.SIFT_create(nfeatures=MOST, contrastThreshold=_CONTRAST)
    keypoints, descriptors = sift.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
    if not keypoints:
        nothing = np.empty(0, np.float32)
        return LocalFeatures(np.empty((0, 2), np.float32), nothing, nothing, np.empty((0, 128), np.float32), 1.0)
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


def match(query: LocalFeatures, photo: LocalFeatures) -> NDArray[np.int64]:
    """Return the mutual nearest neighbours that pass the ratio test, in the order of their ratios.

    Returns:
        (m, 2) int64: rows of ``query`` and of ``photo``; no feature occurs twice.
    """
    if len(query) < 2 or len(photo) < 2:
        return np.empty((0, 2), np.int64)
    alike = query.descriptors @ photo.descriptors.T
    rows = np.arange(len(query))
    nearest = alike.argmax(axis=1)
    mutual = alike.argmax(axis=0)[nearest] == rows
    first = alike[rows, nearest]
    alike[rows, nearest] = -1.0
    second = alike.max(axis=1)
    # Distances of unit vectors; the lower bound avoids 0 / 0 if a photo is matched with itself.
    ratio = np.sqrt(np.maximum(2 - 2 * first, 0) / np.maximum(2 - 2 * second, 1e-6))
    kept = np.flatnonzero(mutual & (ratio < RATIO))
    kept = kept[np.argsort(ratio[kept], kind="stable")]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int64)
