"""What is new, changed, moved and gone: photos that a collection holds beside the photos of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from udq import images
from udq.errors import ImageError, InputError
from udq.images import Content, Source
from udq.progress import Progress, silent
from udq.segments import Image


@dataclass(frozen=True)
class Plan:
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
) -> Plan:
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
    missing = [by_name[name] for name in by_name.keys() - {source.name for source in sources}] if mirror else []
    by_digest = {content.digest: image for image, content in missing if content}
    sizes = {content.size for _, content in missing if content}
    new: list[Source] = []
    changed: dict[Source, int] = {}
    moved: dict[int, tuple[Source, Content]] = {}
    same = 0
    with progress("comparing photos", len(sources)) as step:
        for source in sources:
            step()
            if source.name not in by_name:
                found = _content(source) if _size(source) in sizes else None
                renamed = by_digest.pop(found.digest, None) if found else None
                if renamed is None or found is None:
                    new.append(source)
                else:
                    moved[renamed.id] = (source, found)
                continue
            image, before = by_name[source.name]
            if image.root == source.root and _is_as_it_was(source, before):
                same += 1
                continue
            found = _content(source)
            if found and before and found.digest == before.digest:
                moved[image.id] = (source, found)
            elif mirror or image.root == source.root:
                changed[source] = image.id
            else:
                raise InputError(
                    f"two photos would be named '{source.name}': {image.path}, which the collection holds, and "
                    f"{source.path}; add the folder above it, or rename it"
                )
    gone = sorted(image.id for image, _ in missing if image.id not in moved)
    return Plan(tuple(new), changed, moved, tuple(gone), same)


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
        return images.content(source.path)
    except ImageError:
        return None
