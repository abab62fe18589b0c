"""The labels of any layout: photos with the boxes of their objects, and counts of what was skipped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common.text import counted
from udq.types import Regions

# Not skipped, but cut to the part inside the photo.
CLIPPED = "boxes clipped to the photo"
# Faults of labels: plural -> singular, in the order of a summary.
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
    "boxes clipped to the photo": "box clipped to the photo",
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
        skipped: reason, a key of ``REASONS`` but ``CLIPPED`` -> count.
        clipped: number of boxes that reached more than a pixel beyond their photo.
        faults: one line for each of the first labels skipped or clipped: file and row, reason, what was found.
    """

    layout: str
    photos: tuple[Labelled, ...]
    skipped: Mapping[str, int]
    clipped: int = 0
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := set(self.skipped) - set(REASONS) | set(self.skipped) & {CLIPPED}:
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
        cut = counted(self.clipped, REASONS[CLIPPED], CLIPPED) if self.clipped else ""
        return "; ".join([read, *([f"skipped: {left_out}"] if left_out else []), *([cut] if cut else [])])

    def fault_lines(self) -> list[str]:
        """Return the faults for a terminal, and how many more there are."""
        more = sum(self.skipped.values()) + self.clipped - len(self.faults)
        return [*self.faults, *([f"and {more:,} more"] if more else [])]

    def to_json(self) -> dict[str, Any]:
        """Return counts of photos, boxes, skipped and clipped labels, and the first faults; JSON-serialisable."""
        return {
            "layout": self.layout,
            "photos": len(self.photos),
            "boxes": sum(len(photo.boxes) for photo in self.photos),
            "skipped": dict(self.skipped),
            "clipped": self.clipped,
            "faults": list(self.faults),
        }
