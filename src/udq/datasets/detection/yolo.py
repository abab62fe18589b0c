"""YOLO: ``images/`` and ``labels/`` with equal subfolders, one text file per photo, one ``class cx cy w h`` per line.

Centre and sides are relative to the photo's width and height. A photo without a label file shows no object.
"""

from __future__ import annotations

from pathlib import Path

from udq.datasets.detection.reading import Reading, four, small_file
from udq.photos.source import find
from udq.types import Box


def read(folder: Path) -> Reading:
    """Read the labels of the photos in ``images/``; raises InputError if there are none."""
    reading = Reading("yolo", (folder / "images",), "line {}", relative=True)
    used = set()
    for source in find([folder / "images"])[0]:
        photo = Path(source.name)
        label = folder / "labels" / photo.with_suffix(".txt")
        used.add(label)
        try:
            content = small_file(label)
        except FileNotFoundError:
            if not label.is_symlink():  # a broken link is a lost label, not a photo without objects
                reading.listed(photo, str(label))
                continue
            content = None
        if content is None:
            reading.faults.add("unreadable label files", str(label))
            continue
        reading.listed(photo, str(label))
        for row, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), 1):
            if line.strip():
                reading.add(photo, _box(line), label, row, malformed="malformed lines", found=line)
    # Annotation tools write the names of the classes to labels/classes.txt.
    unused = {path for path in (folder / "labels").rglob("*.txt") if path.name != "classes.txt"} - used
    for label in sorted(unused):
        reading.faults.add("missing photos", str(label))
    return reading


def _box(line: str) -> Box | None:
    found = four(line.split()[1:])
    if found is None:
        return None
    x, y, width, height = found
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
