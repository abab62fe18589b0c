"""Compare the photos of a collection with those of a folder: which are new, changed, moved or gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from udq.common.progress import Progress, silent, tracked
from udq.errors import ImageError, InputError
from udq.photos import source as photo_source
from udq.photos.source import Content, Source
from udq.store.segments import Image


@dataclass(frozen=True)
class SyncPlan:
    """What has to be done so that a collection contains the given photos.

    Attributes:
        new: photos to add.
        changed: photos to encode again -> id of the photo that each replaces.
        moved: id -> where the photo is now and what its file is now, with the same bytes as before.
        gone: ids of photos to remove.
        same: number of photos that did not change.
    """

    new: tuple[Source, ...]
    changed: dict[Source, int]
    moved: dict[int, tuple[Source, Content]]
    gone: tuple[int, ...]
    same: int


def plan(
    stored: Iterable[tuple[Image, Content | None]],
    sources: Sequence[Source],
    *,
    mirror: bool,
    progress: Progress = silent,
) -> SyncPlan:
    """Compare the photos of a collection with given photos.

    A file is read only if its size or time differs from when it was encoded, or if it may be a renamed photo.

    Args:
        stored: photos of the collection, and what their files were when they were encoded.
        sources: the given photos, each name once.
        mirror: whether the collection shall contain these photos and no others.
        progress: called for each photo.

    Raises:
        InputError: the collection contains another photo of the same name, from another folder.
    """
    by_name = {image.name: (image, content) for image, content in stored}
    with progress("comparing photos", len(sources)) as step:
        matches = _match_names(by_name, tracked(sources, step), mirror=mirror)
    # Photos of the collection that no given photo of their name equals: renamed, replaced or gone.
    free = [by_name[name] for name in sorted(_missing(by_name, sources))] if mirror else []
    free += [by_name[name] for name in matches.replaced]
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
    gone = sorted({image.id for image, _ in free} - moved.keys() - set(changed.values()))
    return SyncPlan(tuple(new), changed, moved, tuple(gone), matches.same)


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
    by_name: Mapping[str, tuple[Image, Content | None]], sources: Iterable[Source], *, mirror: bool
) -> _NameMatches:
    matches = _NameMatches()
    for source in sources:
        if source.name not in by_name:
            matches.unmatched.append(source)
            continue
        image, before = by_name[source.name]
        same_file = image.root == source.root or _is_same_file(image.path, source.path)
        if same_file and _is_unchanged(source, before):
            matches.same += 1
            continue
        two_files = not same_file and not mirror and image.path.exists()
        now = _content(source)
        if now and before and now.digest == before.digest:
            if two_files:  # a copy
                matches.same += 1
            else:
                matches.moved[image.id] = (source, now)
        elif two_files:
            raise InputError(
                f"two photos would be named '{source.name}': {image.path}, which the collection contains, and "
                f"{source.path}; add the folder above it, or rename it"
            )
        else:
            matches.replaced[source.name] = image
            matches.unmatched.append(source)
    return matches


def _missing(names: Iterable[str], sources: Sequence[Source]) -> set[str]:
    """Return the names that no photo has any more, without those in a folder that cannot be listed."""
    given = {source.name for source in sources}
    unlisted = tuple(f"{source.name}/" for source in sources if source.path.is_dir())
    return {name for name in names if name not in given and not name.startswith(unlisted)}


def _match_renamed(
    free: Sequence[tuple[Image, Content | None]], sources: Sequence[Source]
) -> dict[int, tuple[Source, Content]]:
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
