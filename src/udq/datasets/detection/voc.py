"""PASCAL VOC: a folder with ``Annotations/*.xml``, ``JPEGImages/`` and optionally ``ImageSets/Main/trainval.txt``.

Pixels are counted from 1 and boxes include their last pixel, so a box covers xmin - 1 to xmax in our coordinates.
Objects flagged ``difficult`` are left out, as in the training of Faster R-CNN, and so are photos without other objects.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from udq.datasets.detection.reading import Reading, four, is_inside, small_file
from udq.types import Box


def read(folder: Path) -> Reading:
    """Read the photos listed in ``trainval.txt`` (the paper trains on VOC2007 trainval), or all without this file."""
    reading = Reading("voc", (folder / "JPEGImages",))
    for stem in _stems(folder):
        if not is_inside(stem):
            reading.skipped["photos outside the folder"] += 1
            continue
        try:
            root = _parse(folder / "Annotations" / f"{stem}.xml")
        except FileNotFoundError:
            reading.skipped["missing XML files"] += 1
            continue
        if root is None:
            reading.skipped["malformed XML files"] += 1
            continue
        photo = Path((root.findtext("filename") or "").strip() or f"{stem}.jpg")
        listed = reading.listed(photo)
        for item in root.findall("object"):
            if (item.findtext("difficult") or "").strip() == "1":
                listed.passed_over += 1
            else:
                reading.add(photo, _box(item), "malformed entries")
    return reading


def _stems(folder: Path) -> list[Path]:
    chosen = folder / "ImageSets" / "Main" / "trainval.txt"
    if not chosen.is_file():
        return [Path(path.stem) for path in sorted((folder / "Annotations").glob("*.xml"))]
    lines = (small_file(chosen) or b"").decode(errors="surrogateescape").splitlines()
    return list(dict.fromkeys(Path(line.strip()) for line in lines if line.strip()))


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


def _box(item: ElementTree.Element) -> Box | None:
    found = four(item.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
    return found and (found[0] - 1, found[1] - 1, found[2], found[3])
