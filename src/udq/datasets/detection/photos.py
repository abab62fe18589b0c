"""Match labels to their photos, and clip boxes to them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common.files import existing
from udq.datasets.detection.labels import Labelled, Labels
from udq.datasets.detection.reading import Listed, Reading, is_inside
from udq.errors import ImageError
from udq.photos import decoding


def match_photos(reading: Reading) -> Labels:
    """Return the photos that can be trained on, with their boxes clipped to them; never raises.

    A photo whose labels were all skipped is left out: as background, it would train its objects as negatives.
    """
    photos = []
    skipped = Counter(reading.skipped)
    for name, listed in reading.photos.items():
        found = _find(name, reading.folders)
        if isinstance(found, str):
            skipped[found] += 1
            continue
        path, size = found
        boxes, outside, empty = clip(_pixels(listed, size, relative=reading.relative), *size)
        skipped["boxes outside the photo"] += outside
        skipped["empty boxes"] += empty
        if len(boxes) or not (outside or empty or listed.malformed or listed.passed_over):
            photos.append(Labelled(path, boxes))
        elif outside or empty or listed.malformed:
            skipped["photos without a usable label"] += 1
        else:
            skipped["photos of difficult or crowded objects alone"] += 1
    photos.sort(key=lambda photo: photo.path)
    return Labels(reading.layout, tuple(photos), {reason: count for reason, count in skipped.items() if count})


def clip(boxes: NDArray[np.float64], width: int, height: int) -> tuple[NDArray[np.float32], int, int]:
    """Clip (B, 4) boxes, x1, y1, x2, y2, to a photo of ``width`` x ``height`` pixels.

    Returns:
        (B', 4) float32 boxes with sides of at least a pixel, in the same order; the number of boxes entirely outside;
        the number of empty boxes: inverted, or with less than a pixel inside the photo.
    """
    inverted = (boxes[:, :2] >= boxes[:, 2:]).any(axis=1)
    outside = ~inverted & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (width, height))).any(axis=1)
    inside = np.clip(boxes, 0, (width, height, width, height))
    empty = ~outside & (inverted | (inside[:, 2:] - inside[:, :2] < 1).any(axis=1))
    return inside[~outside & ~empty].astype(np.float32), int(outside.sum()), int(empty.sum())


def _pixels(listed: Listed, size: tuple[int, int], *, relative: bool) -> NDArray[np.float64]:
    boxes = np.array(listed.boxes, dtype=np.float64).reshape(-1, 4)
    return boxes * (*size, *size) if relative else boxes


def _find(name: Path, folders: tuple[Path, ...]) -> tuple[Path, tuple[int, int]] | str:
    """Return a photo's path, and its width and height; or the reason to skip it."""
    if not is_inside(name):
        return "photos outside the folder"
    for folder in folders:
        try:
            path = existing(folder / name)
            return path, decoding.shown_size(path)
        except ImageError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return "unreadable photos"
    return "missing photos"
