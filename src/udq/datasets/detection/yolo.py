"""YOLO: ``images/`` and ``labels/`` of the same folders inside, a text file a photo, ``class cx cy w h`` a line.

Centre and sides are in widths and heights of the photo. A photo without a label file shows no object.
"""

from __future__ import annotations

from pathlib import Path

from udq.datasets.detection.reading import Reading, four, small_file
from udq.photos import source as photo_source
from udq.types import Box


def read(folder: Path) -> Reading:
    """Read the labels of the photos in ``images/``; raises InputError where there is none."""
    reading = Reading("yolo", (folder / "images",), relative=True)
    used = set()
    for source in photo_source.find([folder / "images"])[0]:
        photo = Path(source.name)
        label = folder / "labels" / photo.with_suffix(".txt")
        used.add(label)
        try:
            content = small_file(label)
        except FileNotFoundError:
            if not label.is_symlink():  # a link to nowhere is a label lost, not a photo without objects
                reading.listed(photo)
                continue
            content = None
        if content is None:
            reading.skipped["unreadable label files"] += 1
            continue
        reading.listed(photo)
        for line in content.decode("utf-8-sig", errors="replace").splitlines():
            if line.strip():
                reading.add(photo, _box(line), "malformed lines")
    # Tools that draw boxes leave the names of the classes among the labels.
    unused = {path for path in (folder / "labels").rglob("*.txt") if path.name != "classes.txt"} - used
    reading.skipped["missing photos"] += len(unused)
    return reading


def _box(line: str) -> Box | None:
    found = four(line.split()[1:])
    if found is None:
        return None
    x, y, width, height = found
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
