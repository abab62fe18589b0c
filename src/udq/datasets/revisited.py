"""Revisited Oxford and Paris (Radenovic et al., CVPR 2018): 70 queries each, with photos outside the database.

``gnd_roxford5k.mat`` and ``gnd_rparis6k.mat`` grade the photos of each query's landmark as ``easy``, ``hard`` or
``junk``. They define three protocols:

    easy      positives: easy           junk: junk and hard
    medium    positives: easy and hard  junk: junk           (the ``mAP`` of a report)
    hard      positives: hard           junk: junk and easy
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from udq.datasets import matlab
from udq.datasets.truth import Answers, GroundTruth, Query
from udq.errors import InputError

_GRADES = ("easy", "hard", "junk")


def _load(path: Path, *, dataset: str, photos: int) -> GroundTruth:
    """Read an official ``.mat`` file, or the folder that holds it.

    Raises:
        InputError: not that file, the file of the other city, a query without a box, indices that do not start at 1.
    """
    database, queries, records = matlab.read(path, dataset, fields=(*_GRADES, "bbx"))
    parisian = dataset == "rparis6k"
    foreign = next((name for name in (*database, *queries) if name.startswith("paris_") != parisian), None)
    if foreign is not None:
        raise InputError(
            f"{path}: expected photos of {dataset}, found {foreign}; "
            f"is it the ground truth of {'roxford5k' if parisian else 'rparis6k'}? Check --dataset"
        )
    matlab.check_indices(records, _GRADES, len(database), path, photos)
    found = []
    for name, record in zip(queries, records, strict=True):
        easy, hard, junk = (matlab.pick(database, record[grade]) for grade in _GRADES)
        levels = {
            "easy": Answers(easy, junk | hard),
            "medium": Answers(easy | hard, junk),
            "hard": Answers(hard, junk | easy),
        }
        medium = levels["medium"]
        box = matlab.box(record["bbx"], name, path)
        found.append(Query(name, box, medium.positives, medium.junk, difficulties=levels, place=str(path)))
    if not any(query.positives for query in found):
        raise InputError(f"{path}: expected photos under easy or hard, found none; get the file again")
    folder = path if path.is_dir() else path.parent
    return GroundTruth(
        dataset,
        tuple(found),
        "outside",
        exact_names=False,
        official=(70, photos),
        database=tuple(database),
        folder=folder,
    )


load_roxford5k = partial(_load, dataset="roxford5k", photos=4993)
load_rparis6k = partial(_load, dataset="rparis6k", photos=6322)
