"""Accepted boxes as a file: CSV in the format that ``udq train-rpn`` reads, JSON, or COCO annotations.

Names of photos and labels come from others. In CSV, one that a spreadsheet would run as a formula is made text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from udq.store.segments import Image
from udq.types import Box

# A cell that starts with one of these is a formula to spreadsheets, which can run programs.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True)
class Accepted:
    """A box that shows the object.

    Attributes:
        image: the photo.
        box: x1, y1, x2, y2 in pixels of the photo.
        score: score of the match; None if the box was drawn by hand.
    """

    image: Image
    box: Box
    score: float | None


def write(accepted: Sequence[Accepted], file_format: str, *, label: str) -> tuple[bytes, str, str]:
    """Return the bytes of a file, its content type and its name.

    Args:
        accepted: the boxes.
        file_format: ``csv``, ``json`` or ``coco``.
        label: name of the object class.
    """
    if file_format == "csv":
        return _csv(accepted, label), "text/csv; charset=utf-8", "udq-boxes.csv"
    document = _coco(accepted, label) if file_format == "coco" else _json(accepted, label)
    name = "udq-coco.json" if file_format == "coco" else "udq-boxes.json"
    return json.dumps(document, indent=1).encode(), "application/json", name


def _csv(accepted: Sequence[Accepted], label: str) -> bytes:
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(["image", "x1", "y1", "x2", "y2", "score", "label"])
    for each in accepted:
        score = "" if each.score is None else f"{each.score:.4f}"
        rows.writerow([_inert_path(each.image.name), *(f"{side:.1f}" for side in each.box), score, _inert(label)])
    # File names that are not valid UTF-8 are written as their bytes on disk.
    return table.getvalue().encode("utf-8", "surrogateescape")


def _inert_path(name: str) -> str:
    """Return the path of a photo so that no spreadsheet runs it: ``./=x.jpg`` is the same file as ``=x.jpg``."""
    return f"./{name}" if name.startswith(_FORMULA) else name


def _inert(text: str) -> str:
    """Return text so that no spreadsheet runs it: it shows what follows an apostrophe as it is."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(accepted: Sequence[Accepted], label: str) -> dict[str, Any]:
    return {
        "label": label,
        "boxes": [
            {"photo": each.image.id, "image": each.image.name, "box": list(each.box), "score": each.score}
            for each in accepted
        ],
    }


def _coco(accepted: Sequence[Accepted], label: str) -> dict[str, Any]:
    images = {each.image.id: each.image for each in accepted}
    annotations = []
    for number, each in enumerate(accepted, start=1):
        x1, y1, x2, y2 = each.box
        annotation: dict[str, Any] = {
            "id": number,
            "image_id": each.image.id,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        annotations.append(annotation if each.score is None else annotation | {"score": each.score})
    return {
        "images": [
            {"id": image.id, "file_name": image.name, "width": image.width, "height": image.height}
            for image in images.values()
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": label}],
    }
