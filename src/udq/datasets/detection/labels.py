"""The labels of any layout: photos with the boxes of their objects, and counts of what was skipped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common.text import counted
from udq.types import Regions

# Reasons for skipping: plural -> singular, in the order of a summary.
REASONS = {
    "missing photos": "missing photo",
    "unreadable photos": "unreadable photo",
    "photos outside the folder": "photo outside the folder",
    "photos without a usable label": "photo without a usable label",
    "photos of difficult or crowded objects alone": "photo of difficult or crowded objects alone",
    "missing XML files": "missing XML file",
    "malformed XML files": "malformed XML file",
    "unreadable label files": "unreadable label file",
    "malformed lines": "malformed line",
    "malformed entries": "malformed entry",
    "labels of unlisted photos": "label of an unlisted photo",
    "boxes outside the photo": "box outside the photo",
    "empty boxes": "empty box",
}


@dataclass(frozen=True)
class Labelled:
    """A photo and the boxes of its objects.

    Attributes:
        path: path of the photo.
        boxes: (B, 4) float32, x1, y1, x2, y2 in pixels of the photo after its EXIF orientation, inside the photo, with
            sides of at least a pixel; (0, 4) for a photo known to show no object.
    """

    path: Path
    boxes: NDArray[np.float32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", Regions(self.boxes).boxes)


@dataclass(frozen=True)
class Labels:
    """Photos to train a region proposal network on.

    Attributes:
        layout: ``voc``, ``yolo``, ``coco`` or ``csv``; several, joined by `` + ``, for joined sets.
        photos: sorted by path, each path once.
        skipped: reason, a key of ``REASONS`` -> count.
    """

    layout: str
    photos: tuple[Labelled, ...]
    skipped: Mapping[str, int]

    def __post_init__(self) -> None:
        if unknown := set(self.skipped) - set(REASONS):
            raise ValueError(f"skipped: expected reasons of REASONS, found an unknown reason: {', '.join(unknown)}")

    def summary(self) -> str:
        """Return one line, such as ``503 photos with 1,343 boxes (coco); skipped: 2 missing photos, 1 empty box``."""
        photos, boxes = len(self.photos), sum(len(photo.boxes) for photo in self.photos)
        read = f"{counted(photos, 'photo')} with {counted(boxes, 'box', 'boxes')} ({self.layout})"
        left_out = ", ".join(
            f"{self.skipped[many]:,} {one if self.skipped[many] == 1 else many}"
            for many, one in REASONS.items()
            if self.skipped.get(many)
        )
        return f"{read}; skipped: {left_out}" if left_out else read
