"""Add photos to a collection, remove some, make it mirror a folder, and write it anew without what was removed.

Each costs what it changes: adding looks at the photos that are new and encodes them with the model that is there,
removing writes down which ones are not there any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from udq.common.progress import Progress, silent
from udq.errors import InputError
from udq.indexing.sync import plan
from udq.photos import source as photo_source
from udq.photos.source import Content, Source
from udq.store import segments
from udq.store.segments import Segment, StoredPhoto
from udq.store.transaction import Transaction, sweep

if TYPE_CHECKING:
    from udq.search.reader import Reader

# Photos a commit: some seconds of work, which is all that a kill can cost.
_BATCH = 256


@dataclass(frozen=True)
class Changes:
    """What a change did, in photos.

    Attributes:
        added: that are new.
        changed: whose files had changed, and that were looked at again.
        moved: that were renamed, moved, or written again with the same bytes.
        removed: that are not of the collection any more.
        same: that were as the collection has them.
        broken: that could not be read: ``image`` and ``reason``.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    same: int = 0
    broken: tuple[dict[str, str], ...] = ()


def add(
    collection: Reader,
    arguments: Sequence[str | os.PathLike[str]],
    *,
    mirror: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Changes:
    """Add photos; see ``Collection.add``."""
    sources, passed_over = photo_source.find(arguments)
    with Transaction(collection.path) as change:
        opened = collection.refreshed()
        held = [(segment.images[row], segment.content(row)) for segment in opened.segments for row in segment.living]
        wanted = plan(held, sources, mirror=mirror, progress=progress)
        if held and len(wanted.gone) == len(held):
            raise InputError(
                f"{collection.path}: not one of its {len(held)} photos is among those to mirror; "
                f"check the folder, or build another collection with: udq index {arguments[0]} -o OTHER"
            )
        if dry_run:
            return Changes(len(wanted.new), len(wanted.changed), len(wanted.moved), len(wanted.gone), wanted.same)
        named = {source.name for source in sources}
        broken = [entry for entry in change.manifest.broken if not mirror and entry["image"] not in named]
        if wanted.new or wanted.changed:
            opened.extractor.proposing()  # before anything is changed: it may be refused
        if wanted.moved or wanted.gone:
            _rewrite(change, opened.segments, wanted.moved, set(wanted.gone), _codewords(opened))
            opened = opened.refreshed()
        added, unread = _encode(change, opened, wanted.new, wanted.changed, broken, progress)
        facts: dict[str, Any] = {"broken": [*broken, *unread]}
        if mirror:
            facts["passed_over"] = passed_over
        if any(change.manifest.document[name] != value for name, value in facts.items()):
            _rewrite(change, opened.refreshed().segments, {}, set(), _codewords(opened), **facts)
    unreadable = {entry["image"] for entry in unread}
    return Changes(
        added=added - sum(source.name not in unreadable for source in wanted.changed),
        changed=sum(source.name not in unreadable for source in wanted.changed),
        moved=len(wanted.moved),
        removed=len(wanted.gone) + sum(source.name in unreadable for source in wanted.changed),
        same=wanted.same,
        broken=tuple(unread),
    )


def remove(collection: Reader, names: Sequence[str]) -> Changes:
    """Remove photos; see ``Collection.remove``."""
    with Transaction(collection.path) as change:
        opened = collection.refreshed()
        held = {image.name: image.id for image in opened.images}
        known = held.keys() | {entry["image"] for entry in opened.broken}
        found: set[str] = set()
        for name in names:
            meant = {name} if name in known else {other for other in known if _stands_for(name, other)}
            if not meant:
                raise InputError(
                    f"'{name}': no photo of {collection.path} is named so; expected names as 'udq search' prints them, "
                    "FOLDER/ for all of a folder, or a pattern such as '*.png'; nothing was removed"
                )
            found |= meant
        gone = {held[name] for name in found & held.keys()}
        broken = [entry for entry in opened.broken if entry["image"] not in found]
        _rewrite(change, opened.segments, {}, gone, _codewords(opened), broken=broken)
    return Changes(removed=len(gone), same=len(held) - len(gone))


def compact(collection: Reader) -> None:
    """Write segments anew, full and without what was removed; see ``Collection.compact``."""
    with Transaction(collection.path) as change:
        opened = collection.refreshed()
        entries: list[Mapping[str, Any]] = []
        for entry, segment in zip(change.manifest.segments, opened.segments, strict=True):
            is_last = segment is opened.segments[-1]
            if segment.removed.any() or (len(segment.living) != segments.PHOTOS and not is_last):
                break  # from here on, as ids stay in ascending order
            entries.append(entry)
        rest = (segment.indexed(row) for segment in opened.segments[len(entries) :] for row in segment.living)
        while photos := list(islice(rest, segments.PHOTOS)):
            entries.append(change.write(photos, codewords=_codewords(opened)))
        if entries != change.manifest.segments:
            change.commit(entries, removed={})
        else:
            sweep(change.path, change.manifest)


def _rewrite(
    change: Transaction,
    held: Sequence[Segment],
    moved: Mapping[int, tuple[Source, Content]],
    gone: AbstractSet[int],
    codewords: int,
    **facts: object,
) -> None:
    """Commit that photos are elsewhere or gone: segments with photos that moved are written anew, others stay."""
    entries, kept = [], []
    for entry, segment in zip(change.manifest.segments, held, strict=True):
        if moved.keys().isdisjoint(segment.photos["id"].tolist()):
            entries.append(entry)
            kept.append(segment)
            continue
        photos = [segment.indexed(row) for row in segment.living if segment.images[row].id not in gone]
        entries.append(change.write([_moved(photo, moved) for photo in photos], codewords=codewords))
    change.commit(entries, _lost(kept, gone), **facts)


def _moved(photo: StoredPhoto, moved: Mapping[int, tuple[Source, Content]]) -> StoredPhoto:
    if photo.image.id not in moved:
        return photo
    source, content = moved[photo.image.id]
    return replace(photo, image=replace(photo.image, name=source.name, root=source.root), content=content)


def _encode(
    change: Transaction,
    opened: Reader,
    new: Sequence[Source],
    changed: Mapping[Source, int],
    broken: Sequence[dict[str, str]],
    progress: Progress,
) -> tuple[int, list[dict[str, str]]]:
    """Look at photos, encode and commit them, some at a time; the last segment grows until it is full.

    Returns:
        The number of photos that could be read, and those that could not.
    """
    unread: list[dict[str, str]] = []
    if not (new or changed):
        return 0, unread
    from udq.common import progress as progresss  # imports torch
    from udq.features import device
    from udq.features.device import in_gpu_memory
    from udq.indexing.encode import encode, why_broken

    fitted, codewords, extractor = opened.model, _codewords(opened), opened.extractor.proposing()
    held = list(opened.segments)
    filled: dict[int, int] = {}
    entries: list[Mapping[str, Any]] = list(change.manifest.segments)
    growing: list[StoredPhoto] = []
    if held and len(held[-1].living) < segments.PHOTOS:
        entries.pop()
        tail = held.pop()
        growing = [tail.indexed(row) for row in tail.living]
    gone: set[int] = set()
    added, number = 0, change.manifest.next_id
    sources = [*new, *changed]
    too_large = device.SCALE.format(opened.config.images.longer)
    with progress("adding photos", len(sources)) as step, in_gpu_memory(too_large):
        photos = progresss.tracked(extractor.extract(sources), step)
        while batch := list(islice(photos, _BATCH)):
            if all(photo.broken and photo.source not in changed for photo in batch):
                unread += map(why_broken, batch)
                continue
            gone |= {changed[photo.source] for photo in batch if photo.source in changed}
            growing = [photo for photo in growing if photo.image.id not in gone]
            for photo in batch:
                if photo.broken is None:
                    growing.append(encode(photo, number, fitted))
                    number, added = number + 1, added + 1
                else:
                    unread.append(why_broken(photo))
            cut = len(growing) - len(growing) % segments.PHOTOS
            for start in range(0, cut, segments.PHOTOS):
                full = growing[start : start + segments.PHOTOS]
                entries.append(change.write(full, codewords=codewords))
                filled |= {photo.image.id: len(photo.boxes) for photo in full}
            growing = growing[cut:]
            last = [change.write(growing, codewords=codewords)] if growing else []
            lost = _lost(held, gone) | {one: filled[one] for one in gone & filled.keys()}
            change.commit([*entries, *last], lost, next_id=number, broken=[*broken, *unread])
    return added, unread


def _lost(held: Iterable[Segment], gone: AbstractSet[int]) -> dict[int, int]:
    """Return id -> regions of the photos of segments that are not of the collection any more, or shall not be."""
    lost: dict[int, int] = {}
    for segment in held:
        ids = segment.photos["id"]
        rows = np.flatnonzero(segment.removed | np.isin(ids, list(gone)))
        lost |= zip(ids[rows].tolist(), np.diff(segment.offsets)[rows].tolist(), strict=True)
    return lost


def _stands_for(pattern: str, name: str) -> bool:
    """Whether a name is in the folder or of the pattern that was given."""
    return name.startswith(pattern) if pattern.endswith("/") else fnmatchcase(name, pattern)


def _codewords(opened: Reader) -> int:
    return opened.model.quantizer.codewords
