"""Absence is not deletion: folders that lost all photos at once may be on a disk that is not mounted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from udq.common.text import counted, shown
from udq.photos.listing import Area, Excludes


def emptied_folders(
    gone: AbstractSet[str],
    kept: AbstractSet[str],
    given: AbstractSet[str],
    area: Area,
    excludes: Excludes | None = None,
) -> dict[str, int]:
    """Return the outermost folders that lost all photos at once -> number of photos that are gone with each.

    A given folder lost all its photos if no stored photo of it is left, since another disk may be mounted there. A
    folder below lost them if it has no photos at all.

    Args:
        gone: places of the stored photos that are gone.
        kept: places of the other stored photos, as they were.
        given: places of the given photos.
        area: what they cover.
        excludes: photos that are gone from the area on purpose, unless all photos of a given folder are.
    """
    if not gone:
        return {}
    with_stored = {folder for place in kept for folder in _folders(place)}
    with_photos = {folder for place in given for folder in _folders(place)}
    emptied: Counter[str] = Counter()
    for place in gone:
        top = area.folder_of(place)
        if top is None:
            continue
        if top in with_stored and excludes is not None and excludes.covers(place.removeprefix(top)):
            continue
        below = (folder for folder in _folders(place) if folder.startswith(top))
        empty = (
            folder for folder in below if folder not in with_stored and (folder == top or folder not in with_photos)
        )
        if (folder := next(empty, None)) is not None:
            emptied[folder] += 1
    return dict(sorted(emptied.items()))


def _folders(place: str) -> Iterator[str]:
    """Yield the folders that contain a place, each with ``/`` at the end, outermost first."""
    end = place.find("/")
    while end != -1:
        yield place[: end + 1]
        end = place.find("/", end + 1)


def emptied_text(emptied: Mapping[str, int], remedy: str) -> str:
    """Return in one line which folders lost all photos at once, and what to do.

    Args:
        emptied: from ``emptied_folders``; at least one folder.
        remedy: what to do if the folder moved; ``{folder}`` stands for it.
    """
    (first, count), *others = emptied.items()
    folder = shown(first if first == "/" else first.rstrip("/"))
    state = "has none of them any more" if os.path.isdir(first) else "is not there"  # noqa: PTH112  (Path.is_dir raises for a long name)
    more = f", and so for {counted(len(others), 'more folder')}" if others else ""
    return (
        f"{folder}: the collection has {counted(count, 'photo')} of this folder, which {state}{more}; mount its disk; "
        f"if it moved, {remedy.replace('{folder}', folder)}; if its photos were deleted, add --yes"
    )
