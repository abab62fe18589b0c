"""What a reader of one layout returns: what the labels say, before any photo is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from udq.types import Box

# A label file of one photo holds a few kB; more is a mistake or an attack on memory.
MAX_BYTES = 10_000_000


@dataclass
class Listed:
    """What labels say of one photo.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the photo, or in its widths and heights where the layout is relative.
        malformed: labels of it that could not be read.
        passed_over: objects left out on purpose, difficult ones and crowds.
    """

    boxes: list[Box] = field(default_factory=list)
    malformed: int = 0
    passed_over: int = 0


@dataclass
class Reading:
    """What labels say of all photos.

    Attributes:
        layout: ``voc``, ``yolo``, ``coco`` or ``csv``.
        folders: where the photos may be, first come first served.
        relative: whether boxes are in widths and heights of the photo.
        photos: photo, relative to one of the folders -> its labels; not checked to stay inside.
        skipped: reason -> how many times.
    """

    layout: str
    folders: tuple[Path, ...]
    relative: bool = False
    photos: dict[Path, Listed] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def listed(self, photo: Path) -> Listed:
        """Return the labels of a photo; one not listed yet is listed as showing no object."""
        return self.photos.setdefault(photo, Listed())

    def add(self, photo: Path, box: Box | None, malformed: str) -> None:
        """Note a box of a photo, or, where it is None, one more label skipped for the reason ``malformed``."""
        if box is None:
            self.listed(photo).malformed += 1
            self.skipped[malformed] += 1
        else:
            self.listed(photo).boxes.append(box)


def four(values: Iterable[object]) -> Box | None:
    """Return four numbers, or None where these are not four or not finite."""
    try:
        a, b, c, d = (float(value) for value in values)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    # Far beyond any photo, yet sums and multiples of them stay finite; False for NaN.
    return (a, b, c, d) if all(abs(value) < 1e12 for value in (a, b, c, d)) else None


def is_inside(name: Path) -> bool:
    """Return whether a path that a label file names stays inside the folder it is relative to.

    It goes by the name alone: links that people put among their own photos are followed.
    """
    return not name.anchor and ".." not in name.parts


def small_file(path: Path) -> bytes | None:
    """Return the content of a label file, None where it cannot be read or is over MAX_BYTES.

    Raises FileNotFoundError where there is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None
    return content if len(content) <= MAX_BYTES else None
