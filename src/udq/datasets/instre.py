"""INSTRE (Wang and Jiang, 2015) in the protocol of Iscen et al. (CVPR 2017): 1,250 queries outside the database.

``gnd_instre.mat`` lists 27,293 photos, and for each query its box and the photos that show its object; there is no
junk. Photos are named by their path, ``INSTRE-S1/01a_canada_book/001.jpg``. Beside a photo of a single object the data
set has a ``.txt`` file of the same name with the object's box: x, y, width, height. They are read if ``INSTRE-S1`` is
in the folder of the ground truth or at most two folders below it, and measure how well results are localised.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath

from udq.common.files import read_text
from udq.datasets import matlab
from udq.datasets.truth import GroundTruth, Query
from udq.errors import InputError
from udq.types import Box

_QUERIES, _PHOTOS = 1250, 27293


def load(path: Path) -> GroundTruth:
    """Read ``gnd_instre.mat``, or the folder that holds it.

    Raises:
        InputError: not that file, a query without a box or positives, indices that do not start at 1.
    """
    database, queries, records = matlab.read(path, "instre", fields=("ok", "bbx"))
    foreign = next((name for name in (*database, *queries) if not name.startswith("INSTRE-")), None)
    if foreign is not None:
        raise InputError(f"{path}: expected photos named INSTRE-S1/..., found {foreign}; check --dataset")
    matlab.check_indices(records, ("ok",), len(database), path, _PHOTOS)
    folder = path if path.is_dir() else path.parent
    depths = ("INSTRE-S1", "*/INSTRE-S1", "*/*/INSTRE-S1")
    root = next((found.parent for depth in depths for found in sorted(folder.glob(depth))), folder)

    @cache  # a photo is a positive of several queries
    def annotated_box(name: str) -> Box | None:
        return _annotated_box(root / PurePosixPath(name).with_suffix(".txt"))

    found = []
    for name, record in zip(queries, records, strict=True):
        positives = matlab.pick(database, record["ok"])
        if not positives:
            raise InputError(f"{path}: query {name}: expected photos that show its object, found none")
        boxes = {photo: box for photo in positives if (box := annotated_box(photo))}
        label = name.split("/")[-2] if "/" in name else ""
        box = matlab.box(record["bbx"], name, path)
        found.append(Query(name, box, positives, boxes=boxes, label=label, place=str(path)))
    return GroundTruth(
        "instre",
        tuple(found),
        "outside",
        exact_names=False,
        official=(_QUERIES, _PHOTOS),
        database=tuple(database),
        folder=folder,
    )


def _annotated_box(file: Path) -> Box | None:
    """Return the box of a photo's only object; None without a file of exactly one valid box."""
    try:
        x, y, width, height = map(float, read_text(file).split())
    except (OSError, ValueError):
        return None
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None
