"""COCO: a JSON file of ``images`` (id, file_name) and ``annotations`` (image_id, bbox as x, y, width, height).

Crowds (``iscrowd``) are left out, and so are photos without other objects; a photo without annotations shows no object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from udq.common.files import read_given
from udq.datasets.detection.reading import Reading, four
from udq.errors import InputError
from udq.types import Box

MAX_COCO = 4 * 2**30
"""Most bytes of an annotation file. That of COCO's 118,000 photos has 450 MB."""


def read(path: Path, folders: tuple[Path, ...]) -> Reading:
    """Read an annotation file; raises InputError if it is not a COCO file."""
    content = _parse(path)
    reading = Reading("coco", folders, "annotations[{}]")
    photos = _photos(content["images"], reading, path)
    for row, entry in enumerate(content["annotations"]):
        place = reading.place(path, row)
        if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), Hashable):
            reading.faults.add("malformed entries", place, "expected an annotation with an image_id")
        elif entry.get("image_id") not in photos:
            reading.faults.add("labels of unlisted photos", place, f"image_id {entry.get('image_id')}")
        elif entry.get("iscrowd"):
            reading.listed(photos[entry["image_id"]], place).passed_over += 1
        else:
            bbox = entry.get("bbox")
            photo = photos[entry["image_id"]]
            reading.add(photo, _box(bbox), path, row, malformed="malformed entries", found=str(bbox)[:80])
    return reading


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_given(path, limit=MAX_COCO))
    except OSError as error:
        raise InputError(f"{path}: the labels cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a COCO file in JSON, found: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in ("images", "annotations")
    ):
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: expected a COCO file with the lists images and annotations, found: {found!r}")
    return content


def _photos(entries: list[Any], reading: Reading, path: Path) -> dict[Hashable, Path]:
    """Return id -> path of the photos, and list them in the reading."""
    counts = Counter(entry["id"] for entry in entries if _is_photo(entry))
    photos: dict[Hashable, Path] = {}
    for row, entry in enumerate(entries):
        place = f"{path}, images[{row}]"
        if not _is_photo(entry):
            reading.faults.add("malformed entries", place, "expected an id and a file_name")
        elif counts[entry["id"]] > 1:  # the boxes of photos that share an id are ambiguous
            reading.faults.add("malformed entries", place, f"another photo has the id {entry['id']} too")
        else:
            photos[entry["id"]] = Path(entry["file_name"])
            reading.listed(photos[entry["id"]], place)
    return photos


def _is_photo(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("id"), int | str)
        and isinstance(entry.get("file_name"), str)
        and bool(entry["file_name"].strip())
    )


def _box(bbox: object) -> Box | None:
    found = four(bbox) if isinstance(bbox, list) else None
    return found and (found[0], found[1], found[0] + found[2], found[1] + found[3])
