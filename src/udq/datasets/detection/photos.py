"""Match labels to their photos, and clip boxes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common.files import existing
from udq.common.text import shown
from udq.datasets.detection.labels import CLIPPED, Labelled, Labels
from udq.datasets.detection.reading import Listed, Reading, is_inside
from udq.errors import ImageError
from udq.photos import boxes as photo_boxes
from udq.photos import decoding

# Pixels that a box may reach beyond its photo without being reported: labelling tools round.
_ROUNDED = 1.0


def match_photos(reading: Reading) -> Labels:
    """Return the photos that can be trained on, with their boxes clipped to them; never raises.

    A photo whose labels were all skipped is left out: as background, it would train its objects as negatives.
    """
    photos = []
    faults = reading.faults
    for name, listed in reading.photos.items():
        found = _find(name, reading.folders)
        if isinstance(found, str):
            faults.add(found, listed.place, str(name))
            continue
        path, size = found
        boxes = _pixels(listed, size, relative=reading.relative)
        clipped = clip(boxes, *size)
        for fault, marked in clipped.faults.items():
            for i in np.flatnonzero(marked):
                beyond = f"{photo_boxes.listed(boxes[i])} in {shown(str(name))} of {size[0]} x {size[1]} pixels"
                faults.add(fault, reading.place(*listed.places[i]), beyond)
        passed_over, unusable = listed.passed_over, listed.malformed + len(boxes) - len(clipped.boxes)
        if len(clipped.boxes) or not (unusable or passed_over):
            photos.append(Labelled(path, clipped.boxes))
        elif unusable:
            faults.add("photos without a usable label", listed.place, str(name))
        else:
            faults.add("photos of difficult or crowded objects alone", listed.place, str(name))
    photos.sort(key=lambda photo: photo.path)
    skipped = {reason: count for reason, count in faults.counts.items() if reason != CLIPPED}
    return Labels(reading.layout, tuple(photos), skipped, faults.counts[CLIPPED], tuple(faults.first))


@dataclass(frozen=True)
class Clipped:
    """Boxes clipped to a photo.

    Attributes:
        boxes: (B', 4) float32, x1, y1, x2, y2 with sides of at least a pixel, in the order given.
        faults: reason -> (B,) bool, which of the boxes given: those entirely outside; those that are empty, inverted or
            with less than a pixel inside the photo; those kept that reached more than a pixel beyond it.
    """

    boxes: NDArray[np.float32]
    faults: Mapping[str, NDArray[np.bool_]]


def clip(boxes: NDArray[np.float64], width: int, height: int) -> Clipped:
    """Clip (B, 4) boxes, x1, y1, x2, y2, to a photo of ``width`` x ``height`` pixels."""
    inverted = (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])
    outside = ~inverted & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (width, height))).any(axis=1)
    inside: NDArray[np.float64] = np.clip(boxes, 0, (width, height, width, height))
    empty = ~outside & (inverted | (inside[:, 2:] - inside[:, :2] < 1).any(axis=1))
    kept = ~outside & ~empty
    beyond = kept & (np.abs(inside - boxes) > _ROUNDED).any(axis=1)
    faults = {"boxes outside the photo": outside, "empty boxes": empty, CLIPPED: beyond}
    return Clipped(inside[kept].astype(np.float32), faults)


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
