"""The result of reading one layout: labels as written, before any photo is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from udq.common.files import read_regular
from udq.common.text import one_line, shown
from udq.datasets.detection.labels import REASONS
from udq.types import Box

# Limit of a label file of one photo, which has a few kB, against mistakes and memory exhaustion.
MAX_BYTES = 10_000_000
# Labels whose places and faults are reported.
SHOWN = 10
# Characters of what was found, in a message.
_LONGEST = 200


class Faults:
    """What of a labelled set cannot be used as it is: counts by reason, and the first labels with their places.

    Attributes:
        counts: reason, a key of ``labels.REASONS`` -> count.
        first: one line for each of the first ``SHOWN`` labels: file and row, reason, what was found.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, reason: str, place: str, found: str = "") -> None:
        """Count a label at ``place`` that has the fault ``reason``; ``found`` is for the message."""
        self.counts[reason] += 1
        if len(self.first) < SHOWN:
            detail = f": {shown(one_line(found[:_LONGEST]))}" if found else ""
            self.first.append(f"{shown(place)}: {REASONS[reason]}{detail}")


@dataclass
class Listed:
    """The labels of one photo.

    Attributes:
        place: file and row that list the photo.
        boxes: x1, y1, x2, y2 in pixels of the photo, or relative to its width and height if the layout is relative.
        places: of each box: how ``Reading.place`` names its row.
        malformed: number of labels that could not be read.
        passed_over: number of objects left out on purpose: difficult objects and crowds.
    """

    place: str
    boxes: list[Box] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)
    malformed: int = 0
    passed_over: int = 0


@dataclass
class Reading:
    """The labels of all photos.

    Attributes:
        layout: ``voc``, ``yolo``, ``coco`` or ``csv``.
        folders: folders to search photos in, in this order.
        row: how a row of a file is named, such as ``line {}``.
        relative: whether boxes are relative to the photo's width and height.
        photos: path relative to one of the folders -> labels; the path may point outside.
        faults: labels that cannot be read.
    """

    layout: str
    folders: tuple[Path, ...]
    row: str
    relative: bool = False
    photos: dict[Path, Listed] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)

    def listed(self, photo: Path, place: str) -> Listed:
        """Return the labels of a photo; adds a photo without objects, listed at ``place``, if there are none yet."""
        found = self.photos.get(photo)
        if found is None:
            found = self.photos[photo] = Listed(place)
        return found

    def place(self, file: Path, row: int) -> str:
        """Return how a message names a row of a file."""
        return f"{file}, {self.row.format(row)}"

    def add(self, photo: Path, box: Box | None, file: Path, row: int, *, malformed: str, found: str) -> None:
        """Add a box of a photo; if it is None, count a label skipped for the reason ``malformed``.

        Args:
            photo: path of the photo.
            box: the box.
            file, row: where the label is.
            malformed: the reason.
            found: what was found instead of a box.
        """
        listed = self.photos.get(photo) or self.listed(photo, self.place(file, row))
        if box is None:
            listed.malformed += 1
            self.faults.add(malformed, self.place(file, row), f"expected a box of four numbers, found '{found}'")
        else:
            listed.boxes.append(box)
            listed.places.append((file, row))


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
        return read_regular(path, limit=MAX_BYTES, follow=True)
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        return None
