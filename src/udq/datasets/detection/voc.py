"""PASCAL VOC: a folder with ``Annotations/*.xml``, ``JPEGImages/`` and optionally ``ImageSets/Main/trainval.txt``.

Pixels are counted from 1 and boxes include their last pixel, so a box covers xmin - 1 to xmax in our coordinates.
Objects flagged ``difficult`` are left out, as in the training of Faster R-CNN, and so are photos without other objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from udq.datasets.detection.reading import Reading, four, is_inside, small_file
from udq.types import Box

# The list of photos to train on.
_CHOSEN = Path("ImageSets", "Main", "trainval.txt")


def read(folder: Path) -> Reading:
    """Read the photos listed in ``trainval.txt`` (the paper trains on VOC2007 trainval), or all without this file."""
    reading = Reading("voc", (folder / "JPEGImages",), "object {}")
    for stem, place in _stems(folder).items():
        file = folder / "Annotations" / f"{stem}.xml"
        if not is_inside(stem):
            reading.faults.add("photos outside the folder", place, str(stem))
            continue
        try:
            root = _parse(file)
        except FileNotFoundError:
            reading.faults.add("missing XML files", place, str(file))
            continue
        if root is None:
            reading.faults.add("malformed XML files", str(file))
            continue
        photo = Path((root.findtext("filename") or "").strip() or f"{stem}.jpg")
        listed = reading.listed(photo, str(file))
        for row, item in enumerate(root.findall("object"), 1):
            if (item.findtext("difficult") or "").strip() == "1":
                listed.passed_over += 1
            else:
                corners = [item.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
                found = ",".join(corner or "" for corner in corners)
                reading.add(photo, _box(corners), file, row, malformed="malformed entries", found=found)
    return reading


def _stems(folder: Path) -> dict[Path, str]:
    """Return the name of each annotation without suffix -> where it is listed."""
    chosen = folder / _CHOSEN
    if not chosen.is_file():
        return {Path(path.stem): str(path) for path in sorted((folder / "Annotations").glob("*.xml"))}
    lines = (small_file(chosen) or b"").decode(errors="surrogateescape").splitlines()
    stems: dict[Path, str] = {}
    for row, line in enumerate(lines, 1):
        if line.strip():
            stems.setdefault(Path(line.strip()), f"{chosen}, line {row}")
    return stems


def _parse(path: Path) -> ElementTree.Element | None:
    """Return the root element of an annotation; None if it is malformed. Raises FileNotFoundError."""
    text = small_file(path)
    # Entities can expand to gigabytes, and annotations do not declare any. NUL: UTF-16, which would hide them.
    if text is None or b"<!DOCTYPE" in text or b"<!ENTITY" in text or b"\0" in text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError, ValueError):  # the last two: an unknown encoding
        return None
    return root if root.tag == "annotation" else None


def _box(corners: Sequence[str | None]) -> Box | None:
    found = four(corners)
    return found and (found[0] - 1, found[1] - 1, found[2], found[3])
