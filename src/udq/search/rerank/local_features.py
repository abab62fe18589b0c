"""Local features: small places of a photo that another photo of the same object shows again, at any scale and turn.

SIFT of OpenCV, with the square roots of R. Arandjelović and A. Zisserman (Three things everyone should know to improve
object retrieval. CVPR 2012). A learned feature was measured beside it (benchmarks/decisions/verification.py): it takes several
times as long here, and without a scale and a direction of its own a match cannot say how the object was moved.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import DependencyError
from udq.types import Box

# Of one view, the strongest: bounds the time that a photo full of leaves takes.
MOST = 600
# Half of OpenCV's own: plain objects have little contrast, and what is found in vain costs only time.
_CONTRAST = 0.02
# The nearest descriptor is to be this much nearer than the second one. Lowe's 0.8 is for matches that are trusted one
# by one; here they are to agree with each other as well, and more of them do at 0.9.
RATIO = 0.9


@dataclass(frozen=True)
class LocalFeatures:
    """Local features of one view; row i is the same feature everywhere.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the photo as a viewer shows it.
        sizes: (n,) float32, diameter of what a feature describes, in pixels of the photo.
        angles: (n,) float32, its direction in radians, clockwise from the x axis as y points down.
        descriptors: (n, 128) float32 of unit length.
        step: pixels of the photo between two pixels that were looked at.
    """

    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    angles: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    step: float

    def __len__(self) -> int:
        return len(self.points)


def require() -> None:
    """Raise DependencyError, which says what to install, where there is no OpenCV that has SIFT."""
    opencv()


def opencv() -> Any:
    """Return OpenCV's module; raises DependencyError where it is missing or too old to have SIFT."""
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
        window: which part of the photo the pixels show, x1, y1, x2, y2 in pixels of the photo.
    """
    cv2 = opencv()
    height, width = pixels.shape[:2]
    sift = cv2.SIFT_create(nfeatures=MOST, contrastThreshold=_CONTRAST)
    found, raw = sift.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)
    if not found:
        nothing = np.empty(0, np.float32)
        return LocalFeatures(np.empty((0, 2), np.float32), nothing, nothing, np.empty((0, 128), np.float32), 1.0)
    x1, y1, x2, y2 = window
    step = np.array([(x2 - x1) / width, (y2 - y1) / height])
    # OpenCV's 0 is the middle of the first pixel, a photo's its edge.
    points = (np.array([each.pt for each in found]) + 0.5) * step + (x1, y1)
    scale = float(step.mean())
    sizes = np.array([each.size for each in found]) * scale
    angles = np.deg2rad([each.angle for each in found])
    roots = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-7))
    return LocalFeatures(
        points.astype(np.float32),
        sizes.astype(np.float32),
        angles.astype(np.float32),
        roots.astype(np.float32),
        scale,
    )


def match(query: LocalFeatures, photo: LocalFeatures) -> NDArray[np.int64]:
    """Return pairs of features that are each other's nearest, and clearly nearer than the second: the clearest first.

    Returns:
        (m, 2) int64: places in ``query`` and in ``photo``; no feature occurs twice.
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
    # Squared distances of unit vectors; the least number keeps a photo matched with itself from 0 / 0.
    ratio = np.sqrt(np.maximum(2 - 2 * first, 0) / np.maximum(2 - 2 * second, 1e-6))
    kept = np.flatnonzero(mutual & (ratio < RATIO))
    kept = kept[np.argsort(ratio[kept], kind="stable")]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int64)
