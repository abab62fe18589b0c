"""Official ground truths in MATLAB files: photo names, and records with indices that start at 1. Never unpickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from udq.common.files import read_given
from udq.datasets import matfile
from udq.errors import InputError
from udq.types import Box


def read(path: Path, dataset: str, *, fields: Sequence[str]) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Read a ground truth whose query photos are outside the database.

    Args:
        path: the file, or the folder that holds ``gnd_<dataset>.mat``.
        dataset: name in the registry.
        fields: the required fields of each query's record.

    Returns:
        Names of the database's photos (``imlist``), names of the query photos (``qimlist``), and one record per query
        (``gnd``) whose fields are flat arrays.

    Raises:
        InputError: no such file, a pickle, not a MATLAB file, or a MATLAB file with other variables.
    """
    file = path / f"gnd_{dataset}.mat" if path.is_dir() else path
    if file.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{file}: a pickle can run any code when it is read, so udq never does; "
            f"use gnd_{dataset}.mat, the same answers from the same address"
        )
    try:
        content = matfile.loads(read_given(file))
    except OSError as error:
        raise InputError(f"{file}: the ground truth cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file}: expected the MATLAB file gnd_{dataset}.mat, found {error}; get it again") from error
    missing = [name for name in ("imlist", "qimlist", "gnd") if not isinstance(content.get(name), list)]
    if not missing:
        missing = [f"gnd.{name}" for name in fields if any(not _has_array(row, name) for row in content["gnd"])]
    if missing:
        raise InputError(
            f"{file}: expected gnd_{dataset}.mat with imlist, qimlist and gnd ({', '.join(fields)}); "
            f"missing: {', '.join(missing)}; is it of another data set?"
        )
    database, queries, records = list(map(str, content["imlist"])), list(map(str, content["qimlist"])), content["gnd"]
    if len(records) != len(queries) or not queries:
        raise InputError(
            f"{file}: expected one record per query, found {len(records)} for {len(queries)} queries; get it again"
        )
    return database, queries, records


def check_indices(records: Sequence[dict[str, Any]], fields: Sequence[str], size: int, path: Path, whole: int) -> None:
    """Raise InputError for indices that do not start at 1 or exceed the list of photos.

    Args:
        records: one per query.
        fields: the fields that hold indices.
        size: number of photos in the list.
        path: the file, for messages.
        whole: number of photos in the official list. Every official file refers to its last photo, so a list of this
            size whose greatest index is ``whole - 1`` was counted from 0, even if no index is 0.
    """
    indices = np.concatenate([record[name] for record in records for name in fields] or [np.zeros(0)])
    if not indices.size:
        raise InputError(f"{path}: expected photos among the answers, found none at all; get the file again")
    if not (np.isfinite(indices).all() and (indices == np.floor(indices)).all()):
        raise InputError(f"{path}: expected indices of photos, found other numbers; get the file again")
    least, most = int(indices.min()), int(indices.max())
    if least < 1 or (size == whole and most == size - 1):
        raise InputError(
            f"{path}: expected indices that begin at 1, found {least} to {most} for {size} photos: "
            "they begin at 0, as in the pickled files; use the official .mat file"
        )
    if most > size:
        raise InputError(
            f"{path}: expected indices from 1 to {size}, the number of photos listed, found {most}; get the file again"
        )


def pick(names: Sequence[str], indices: Sequence[int]) -> frozenset[str]:
    """Return the names at 1-based indices."""
    return frozenset(names[int(i) - 1] for i in indices)


def box(values: Sequence[float], query: str, path: Path) -> Box:
    """Return a query's box; raises InputError without a valid one, since the protocols crop every query."""
    numbers = [float(value) for value in values]
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        found = " ".join(f"{number:g}" for number in numbers) or "none"
        raise InputError(
            f"{path}: query {query}: expected a box x1 y1 x2 y2, found {found}; the protocol crops every query"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _has_array(row: Any, name: str) -> bool:
    return isinstance(row, dict) and isinstance(row.get(name), np.ndarray)
