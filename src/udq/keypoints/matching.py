"""Matches of the local features of a query and a photo, before any geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.keypoints.sift import LocalFeatures

# Largest ratio of the distances of the nearest and the second nearest descriptor. Lowe's 0.8 is for matches that are
# trusted one by one; here they must also agree with each other, and at 0.9 more correct matches do.
RATIO = 0.9


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
    first = alike[rows, nearest]
    mutual = np.flatnonzero(first == alike.max(axis=0)[nearest])  # several times as fast as argmax along columns
    mutual = mutual[np.sort(np.unique(nearest[mutual], return_index=True)[1])]  # of equal descriptors, the first
    alike[rows, nearest] = -1.0
    second = alike[mutual].max(axis=1)
    # Distances of unit vectors; the lower bound avoids 0 / 0 if a photo is matched with itself.
    ratio = np.sqrt(np.maximum(2 - 2 * first[mutual], 0) / np.maximum(2 - 2 * second, 1e-6))
    order = np.argsort(ratio, kind="stable")
    kept = mutual[order[ratio[order] < RATIO]]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int64)
