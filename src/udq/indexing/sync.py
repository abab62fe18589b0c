"""What is new, changed, moved and gone: photos that a collection holds beside the photos of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from udq.common.progress import Progress, silent
from udq.errors import ImageError, InputError
from udq.photos import source as photo_source
from udq.photos.source import Content, Source
from udq.store.segments import Image


@dataclass(frozen=True)
class SyncPlan:
    """What makes a collection hold photos.

    Attributes:
        new: photos to look at.
        changed: photos to look at again -> id of what they take the place of.
        moved: id -> where the photo is now and what its file is now, the same bytes as before.
        gone: ids of photos that are not there any more.
        same: number of photos to leave alone.
    """

    new: tuple[Source, ...]
    changed: dict[Source, int]
    moved: dict[int, tuple[Source, Content]]
    gone: tuple[int, ...]
    same: int


def plan(
    held: Iterable[tuple[Image, Content | None]],
    sources: Sequence[Source],
    *,
    mirror: bool,
    progress: Progress = silent,
) -> SyncPlan:
    """Compare what a collection holds with photos.

    A file is read where its size or time is not what it was, or where it may be another one renamed.

    Args:
        held: photos of the collection, and what their files were.
        sources: photos, each name once.
        mirror: whether the collection shall hold these photos and no others.
        progress: is told of each photo.

    Raises:
        InputError: another photo of the same name is in the collection, from another folder.
    """
    by_name = {image.name: (image, content) for image, content in held}
    moved: dict[int, tuple[Source, Content]] = {}
    unmatched: list[Source] = []
    displaced: dict[str, Image] = {}
    same = 0
    with progress("comparing photos", len(sources)) as step:
        for source in sources:
            step()
            if source.name not in by_name:
                unmatched.append(source)
                continue
            image, before = by_name[source.name]
            here = image.root == source.root or _is_one_file(image.path, source.path)
            if here and _is_as_it_was(source, before):
                same += 1
                continue
            there = not here and not mirror and image.path.exists()  # beside this one
            found = _content(source)
            if found and before and found.digest == before.digest:
                if there:
                    same += 1
                else:
                    moved[image.id] = (source, found)
            elif there:
                raise InputError(
                    f"two photos would be named '{source.name}': {image.path}, which the collection holds, and "
                    f"{source.path}; add the folder above it, or rename it"
                )
            else:
                displaced[source.name] = image
                unmatched.append(source)
    free = [by_name[name] for name in sorted(_missing(by_name, sources))] if mirror else []
    free += [by_name[name] for name in displaced]
    new: list[Source] = []
    changed: dict[Source, int] = {}
    renamed = _renamed(free, unmatched) if mirror else {}
    moved |= renamed
    recognised = {source for source, _ in renamed.values()}
    for source in unmatched:
        if source in recognised:
            continue
        if source.name in displaced and displaced[source.name].id not in moved:
            changed[source] = displaced[source.name].id
        else:
            new.append(source)
    gone = sorted({image.id for image, _ in free} - moved.keys() - set(changed.values()))
    return SyncPlan(tuple(new), changed, moved, tuple(gone), same)


def _missing(names: Iterable[str], sources: Sequence[Source]) -> set[str]:
    """Return the names that no photo has any more; what is in a folder that cannot be looked into is not missing."""
    found = {source.name for source in sources}
    closed = tuple(f"{source.name}/" for source in sources if source.path.is_dir())
    return {name for name in names if name not in found and not name.startswith(closed)}


def _renamed(
    free: Sequence[tuple[Image, Content | None]], sources: Sequence[Source]
) -> dict[int, tuple[Source, Content]]:
    """Return id -> photo of those that were held under another name: the same bytes, the first of equals first."""
    waiting: dict[bytes, list[Image]] = {}
    for image, content in free:
        if content:
            waiting.setdefault(content.digest, []).append(image)
    sizes = {content.size for _, content in free if content}
    found: dict[int, tuple[Source, Content]] = {}
    for source in sources:
        content = _content(source) if _size(source) in sizes else None
        if content and waiting.get(content.digest):
            found[waiting[content.digest].pop(0).id] = (source, content)
    return found


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _size(source: Source) -> int | None:
    try:
        return source.path.stat().st_size
    except OSError:
        return None  # looking at the photo will say why


def _is_as_it_was(source: Source, content: Content | None) -> bool:
    try:
        status = source.path.stat()
    except OSError:
        return False
    return content is not None and (status.st_size, status.st_mtime_ns) == (content.size, content.modified)


def _content(source: Source) -> Content | None:
    try:
        return photo_source.content(source.path)
    except ImageError:
        return None
