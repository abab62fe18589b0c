"""Compare the photos of a collection with those of a folder: which are new, changed, moved or gone.

Absence is not deletion: photos of other folders than the given ones are never gone, a photo whose folder is away is
never replaced by one of its name, and folders that lost all photos at once are reported, because a disk may not be
mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from udq.common.progress import Progress, silent, tracked
from udq.common.text import shown
from udq.errors import ImageError, InputError
from udq.indexing.absence import emptied_folders
from udq.photos import source as photo_source
from udq.photos.listing import Area, Excludes, Places
from udq.photos.source import Content, Source
from udq.store.segments import Image

Stored = tuple[Image, Content | None]
"""A photo of a collection, and what its file was when it was encoded; None if unknown."""


@dataclass(frozen=True)
class SyncPlan:
    """What has to be done so that a collection contains the given photos.

    Attributes:
        new: photos to add.
        changed: photos to encode again -> id of the photo that each replaces.
        moved: id -> where the photo is now and what its file is now, with the same bytes as before.
        gone: ids of photos to remove.
        same: number of photos that did not change.
        emptied: place of each folder that lost all photos at once -> number of photos that are gone with it.
    """

    new: tuple[Source, ...]
    changed: dict[Source, int]
    moved: dict[int, tuple[Source, Content]]
    gone: tuple[int, ...]
    same: int
    emptied: dict[str, int] = field(default_factory=dict)


def plan(
    stored: Iterable[Stored],
    sources: Sequence[Source],
    *,
    mirror: Area | None = None,
    excludes: Excludes | None = None,
    progress: Progress = silent,
) -> SyncPlan:
    """Compare the photos of a collection with given photos.

    A file at the place of a stored photo is that photo, even if it was given by another folder and so has another name.
    A file is read only if its size or time differs from when it was encoded, or if it may be a renamed photo.

    Args:
        stored: photos of the collection, and what their files were when they were encoded.
        sources: the given photos, each name once.
        mirror: what ``sources`` cover, if the collection shall contain these photos and no others of that area.
        excludes: photos that are left out of ``sources`` on purpose.
        progress: called for each photo.

    Raises:
        InputError: the collection contains another photo of the same name, from another folder.
    """
    places = Places()
    by_place = {places.of(image.root, image.name): (image, content) for image, content in stored}
    by_name = {image.name: (image, content) for image, content in by_place.values()}
    named = _stored_names(by_place, sources, places)
    gone = _missing(by_place, sources, mirror, places) if mirror else {}
    with progress("comparing photos", len(named)) as step:
        matches = _match_names(by_name, tracked(named, step), gone.values(), places)
    # Photos of the collection that no given photo of their name equals: renamed, replaced or gone.
    free = [by_name[name] for name in sorted({image.name for image in gone.values()} | matches.replaced.keys())]
    renamed = _match_renamed(free, matches.unmatched) if mirror else {}
    moved = matches.moved | renamed
    recognised = {source for source, _ in renamed.values()}
    new: list[Source] = []
    changed: dict[Source, int] = {}
    for source in matches.unmatched:
        if source in recognised:
            continue
        before = matches.replaced.get(source.name)
        if before is not None and before.id not in moved:
            changed[source] = before.id
        else:
            new.append(source)
    removed = {image.id for image, _ in free} - moved.keys() - set(changed.values())
    lost = {place for place, image in gone.items() if image.id not in moved}
    emptied = (
        emptied_folders(lost, by_place.keys() - lost, _places(sources, places), mirror, excludes) if mirror else {}
    )
    return SyncPlan(tuple(new), changed, moved, tuple(sorted(removed)), matches.same, emptied)


def _places(sources: Iterable[Source], places: Places) -> set[str]:
    return {places.of(source.root, source.name) for source in sources}


def _stored_names(by_place: Mapping[str, Stored], sources: Sequence[Source], places: Places) -> list[Source]:
    """Return given photos, each place once, and those at the place of a stored photo under its name.

    Raises:
        InputError: another given photo has that name.
    """
    named: dict[str, Source] = {}
    seen: set[str] = set()
    for source in sources:
        place = places.of(source.root, source.name)
        if place in seen:  # a folder and a folder in it were given
            continue
        seen.add(place)
        image, _ = by_place.get(place, (None, None))
        known = source if image is None or image.name == source.name else Source(image.name, image.path)
        if named.setdefault(known.name, known) is not known:
            raise photo_source.same_name_error(named[known.name], known)
    return list(named.values())


@dataclass
class _NameMatches:
    """Given photos, compared with the photos of the same name in a collection.

    Attributes:
        same: number of photos that did not change.
        moved: id -> new place and file of photos with the same bytes.
        replaced: name -> the photo of a collection whose file has other bytes now.
        unmatched: photos that the collection does not contain under their name.
    """

    same: int = 0
    moved: dict[int, tuple[Source, Content]] = field(default_factory=dict)
    replaced: dict[str, Image] = field(default_factory=dict)
    unmatched: list[Source] = field(default_factory=list)


def _match_names(
    by_name: Mapping[str, Stored], sources: Iterable[Source], gone: Iterable[Image], places: Places
) -> _NameMatches:
    matches = _NameMatches()
    free = {image.id for image in gone}
    for source in sources:
        if source.name not in by_name:
            matches.unmatched.append(source)
            continue
        image, before = by_name[source.name]
        same_place = places.of(image.root, image.name) == places.of(source.root, source.name)
        if (same_place or _is_same_file(image.path, source.path)) and _is_unchanged(source, before):
            matches.same += 1
            continue
        now = _content(source)
        if now and before and now.digest == before.digest:
            if not same_place and _exists(image.path):  # a copy
                matches.same += 1
            else:
                matches.moved[image.id] = (source, now)
        elif same_place or image.id in free:
            matches.replaced[source.name] = image
            matches.unmatched.append(source)
        else:
            raise _name_taken(image, source)
    return matches


def _name_taken(image: Image, source: Source) -> InputError:
    """Return the error for a given photo that has the name of another photo of the collection."""
    away = "" if _exists(image.path) else " and whose file is away"
    remedy = "add the folder above it, or rename it"
    if away:
        roots = f"{shown(image.root)} {shown(source.root)}"
        remedy = f"if it is that photo, run first: udq relocate COLLECTION {roots}; otherwise {remedy}"
    return InputError(
        f"two photos would be named '{shown(image.name)}': {shown(str(image.path))}, which the collection "
        f"contains{away}, and {shown(source.place)}; {remedy}"
    )


def _missing(by_place: Mapping[str, Stored], sources: Sequence[Source], area: Area, places: Places) -> dict[str, Image]:
    """Return place -> photo of the stored photos in an area that are not given.

    Photos in a folder that cannot be listed are not missing.
    """
    given = _places(sources, places)
    unlisted = tuple(f"{places.of(source.root, source.name)}/" for source in sources if _is_folder(source.path))
    return {
        place: image
        for place, (image, _) in by_place.items()
        if place not in given and area.covers(place) and not place.startswith(unlisted)
    }


def _match_renamed(free: Sequence[Stored], sources: Sequence[Source]) -> dict[int, tuple[Source, Content]]:
    """Return id -> photo with the same bytes under another name; of several with equal bytes, the first ones match."""
    by_digest: dict[bytes, list[Image]] = {}
    for image, content in free:
        if content:
            by_digest.setdefault(content.digest, []).append(image)
    sizes = {content.size for _, content in free if content}
    renamed: dict[int, tuple[Source, Content]] = {}
    for source in sources:
        content = _content(source) if _size(source) in sizes else None
        if content and by_digest.get(content.digest):
            renamed[by_digest[content.digest].pop(0).id] = (source, content)
    return renamed


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  (Path.exists raises for a name that is too long)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  (the same)


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _size(source: Source) -> int | None:
    try:
        return source.path.stat().st_size
    except OSError:
        return None  # extracting the photo will report why


def _is_unchanged(source: Source, before: Content | None) -> bool:
    try:
        status = source.path.stat()
    except OSError:
        return False
    return before is not None and (status.st_size, status.st_mtime_ns) == (before.size, before.modified)


def _content(source: Source) -> Content | None:
    try:
        return photo_source.content(source.path)
    except ImageError:
        return None
