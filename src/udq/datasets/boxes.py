"""The CSV format for custom benchmarks: one boxed query per line.

    query_image,x1,y1,x2,y2,positives[,junk][,positive_boxes][,object]

``positives`` and ``junk`` are photo names separated by ``|``, relative to the indexed folder. ``positive_boxes`` are
``x1 y1 x2 y2`` in the order of ``positives``, joined by ``|``; an empty entry is an unknown box. Four empty
coordinates mean the whole photo. No photo is both positive and junk, and no row has more values than the header.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from udq.common.files import read_text
from udq.common.text import shown
from udq.datasets.truth import GroundTruth, Query
from udq.errors import InputError
from udq.types import Box

_REQUIRED = ("query_image", "x1", "y1", "x2", "y2", "positives")


def load(path: Path) -> GroundTruth:
    """Read a ground truth; raises InputError with file, line, expected and found."""
    try:
        with io.StringIO(read_text(path), newline="") as file, _long_fields():
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: expected the columns {','.join(_REQUIRED)}; missing: {', '.join(missing)}")
            queries = tuple(_query(row, f"{path}, line {reader.line_num}") for row in reader)
    except OSError as error:
        raise InputError(f"{path}: the ground truth cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file in UTF-8, found: {error}") from error
    if not queries:
        raise InputError(f"{path}: expected at least one query, found none")
    return GroundTruth("boxes", queries)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the csv module's global limit of a field's length, which the positives of a large benchmark exceed."""
    limit = csv.field_size_limit(1 << 28)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _query(row: Mapping[str | None, Any], where: str) -> Query:
    if None in row:  # where csv.DictReader keeps what is beyond the header
        raise InputError(f"{where}: expected as many values as the header has columns, found {len(row[None])} more")
    image = (row["query_image"] or "").strip()
    if not image:
        raise InputError(f"{where}: expected a photo in the column query_image, found it empty")
    box = _box(" ".join(row[name] or "" for name in ("x1", "y1", "x2", "y2")), where)
    names = _names(row["positives"])
    if not names:
        raise InputError(f"{where}: expected at least one positive, found none")
    junk = frozenset(_names(row.get("junk")))
    if both := sorted(junk.intersection(names)):
        raise InputError(f"{where}: expected a photo to be positive or junk, found '{shown(both[0])}' as both")
    texts = (row.get("positive_boxes") or "").split("|") if row.get("positive_boxes") else []
    if texts and len(texts) != len(names):
        raise InputError(f"{where}: expected as many positive_boxes as positives ({len(names)}), found {len(texts)}")
    boxes = {name: _box(text, where) for name, text in zip(names, texts, strict=False)}
    return Query(
        image,
        box,
        frozenset(names),
        junk,
        {name: known for name, known in boxes.items() if known},
        (row.get("object") or "").strip(),
        place=where,
    )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split("|") if name.strip()]


def _box(text: str, where: str) -> Box | None:
    text = " ".join(text.split())
    if not text:
        return None
    try:
        x1, y1, x2, y2 = (float(value) for value in text.split())
    except ValueError:
        raise InputError(f"{where}: expected a box of four numbers x1 y1 x2 y2, found '{text}'") from None
    if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, (x1, y1, x2, y2)))):
        raise InputError(f"{where}: expected a box with x1 < x2 and y1 < y2, found '{text}'")
    return x1, y1, x2, y2
