"""The result of reading one layout: labels as written, before any photo is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from udq.types import Box

# Limit of a label file of one photo, which has a few kB, against mistakes and memory exhaustion.
MAX_BYTES = 10_000_000


@dataclass
class Listed:
    """The labels of one photo.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the photo, or relative to its width and height if the layout is relative.
        malformed: number of labels that could not be read.
        passed_over: number of objects left out on purpose: difficult objects and crowds.
    """

    boxes: list[Box] = field(default_factory=list)
    malformed: int = 0
    passed_over: int = 0


@dataclass
class Reading:
    """The labels of all photos.

    Attributes:
        layout: ``voc``, ``yolo``, ``coco`` or ``csv``.
        folders: folders to search photos in, in this order.
        relative: whether boxes are relative to the photo's width and height.
        photos: path relative to one of the folders -> labels; the path may point outside.
        skipped: reason -> count.
    """

    layout: str
    folders: tuple[Path, ...]
    relative: bool = False
    photos: dict[Path, Listed] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def listed(self, photo: Path) -> Listed:
        """Return the labels of a photo; adds a photo without objects if it is not listed yet."""
        return self.photos.setdefault(photo, Listed())

    def add(self, photo: Path, box: Box | None, malformed: str) -> None:
        """Add a box of a photo; if it is None, count a label skipped for the reason ``malformed``."""
        if box is None:
            self.listed(photo).malformed += 1
            self.skipped[malformed] += 1
        else:
            self.listed(photo).boxes.append(box)


def four(values: Iterable[object]) -> Box | None:
    """Return four numbers; None unless the values are four finite numbers."""
    try:
        a, b, c, d = (float(value) for value in values)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    # A limit far beyond any photo that keeps sums and products finite; the comparison is False for NaN.
    return (a, b, c, d) if all(abs(value) < 1e12 for value in (a, b, c, d)) else None


def is_inside(name: Path) -> bool:
    """Return whether a path in a label file stays inside the folder that it is relative to.

    Only the name is checked: symbolic links among the photos are followed.
    """
    return not name.anchor and ".." not in name.parts


def small_file(path: Path) -> bytes | None:
    """Return the content of a label file; None if it cannot be read or exceeds ``MAX_BYTES``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None
    return content if len(content) <= MAX_BYTES else None
