"""Separate the query photos of a data set from its database, if the protocol keeps them out of it."""

from __future__ import annotations

from pathlib import Path

from udq.datasets import matching
from udq.datasets.truth import GroundTruth
from udq.errors import InputError
from udq.photos.source import find


def move_queries(truth: GroundTruth, photos: Path, queries: Path) -> int:
    """Move the query photos of a ground truth to another folder, keeping their subfolders.

    Args:
        truth: of a protocol whose query photos are not in the database.
        photos: folder of all photos; holds only the database's when this returns.
        queries: folder to move to, outside ``photos``; files of the same names are replaced.

    Returns:
        Number of photos moved.

    Raises:
        InputError: ``queries`` is inside ``photos``, ``photos`` has no photo, or two photos have the same name.
    """
    if photos.resolve() in (queries.resolve(), *queries.resolve().parents):
        raise InputError(f"{queries}: expected a folder outside {photos}, or the query photos would be indexed too")
    paths = {source.name: source.path for source in find([photos])[0]}
    found = matching.match({query.image for query in truth.queries}, paths, remedy="keep one of them")
    for name in found.values():
        target = queries / name
        target.parent.mkdir(parents=True, exist_ok=True)
        paths[name].replace(target)
    return len(found)
