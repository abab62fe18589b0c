"""Photos of a data set -> its database and its query photos, where the protocol keeps these apart."""

from __future__ import annotations

from pathlib import Path

from udq.datasets import matching
from udq.datasets.truth import GroundTruth
from udq.errors import InputError
from udq.photos import source as photo_source


def move_queries(truth: GroundTruth, photos: Path, queries: Path) -> int:
    """Move the query photos of a ground truth to a folder of their own, in the same folders below it.

    Args:
        truth: of a protocol whose query photos are not in the database.
        photos: where the photos are; the database when this returns.
        queries: where the query photos go, outside ``photos``. Ones that are there already are replaced.

    Returns:
        How many were moved; 0 where all are elsewhere already.

    Raises:
        InputError: ``queries`` is inside ``photos``, no photo at all, or two photos of one name.
    """
    if photos.resolve() in (queries.resolve(), *queries.resolve().parents):
        raise InputError(f"{queries}: expected a folder outside {photos}, or the query photos would be indexed too")
    held = {source.name: source.path for source in photo_source.find([photos])[0]}
    found = matching.match({query.image for query in truth.queries}, held, remedy="keep one of them")
    for name in found.values():
        place = queries / name
        place.parent.mkdir(parents=True, exist_ok=True)
        held[name].replace(place)
    return len(found)
