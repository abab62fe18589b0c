"""CSV: one box per line, in the columns ``image,x1,y1,x2,y2`` in pixels of the photo; other columns are ignored."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from udq.common.files import read_text
from udq.datasets.detection.reading import Reading, four
from udq.errors import InputError

_REQUIRED = ("image", "x1", "y1", "x2", "y2")


def read(path: Path, folders: tuple[Path, ...]) -> Reading:
    """Read a table of boxes; raises InputError if columns are missing."""
    reading = Reading("csv", folders, "line {}")
    try:
        # File names in any encoding survive, as the surrogate escapes of PEP 383.
        with io.StringIO(read_text(path, errors="surrogateescape"), newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in _REQUIRED if name not in (rows.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: expected the columns {','.join(_REQUIRED)}; missing: {', '.join(missing)}")
            while (row := _next(rows)) is not None:
                name = (row.get("image") or "").strip()
                corners = [row.get(column) for column in _REQUIRED[1:]]
                if name:
                    found = ",".join(corner or "" for corner in corners)
                    reading.add(
                        Path(name), four(corners), path, rows.line_num, malformed="malformed lines", found=found
                    )
                else:
                    place = reading.place(path, rows.line_num)
                    reading.faults.add("malformed lines", place, "expected a photo in the column image, found none")
    except OSError as error:
        raise InputError(f"{path}: the labels cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise InputError(f"{path}: expected a CSV file, found: {error}") from error
    return reading


def _next(rows: csv.DictReader[str]) -> dict[str, str | None] | None:
    """Return the next row; an empty one if it is malformed, None at the end."""
    try:
        return next(rows, None)  # type: ignore[arg-type]
    except csv.Error:
        return {}
