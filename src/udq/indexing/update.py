"""Change a collection: add photos, remove photos, mirror a folder, compact.

Only photos that change are processed: adding extracts and encodes the new photos with the collection's model, removing
adds ids to the list of removed photos.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from udq.common.progress import Progress, silent, tracked
from udq.errors import InputError, UnknownPhotoError
from udq.indexing.sync import plan
from udq.photos.source import Content, Source, find
from udq.store import segments
from udq.store.appender import SegmentAppender
from udq.store.manifest import UnreadablePhoto
from udq.store.segments import StoredPhoto, removed_regions
from udq.store.transaction import Transaction, sweep

if TYPE_CHECKING:
    from udq.search.reader import Reader

# Photos per commit: a few seconds of work, the most that a kill can cost.
_BATCH = 256


@dataclass(frozen=True)
class Changes:
    """What a change did, as numbers of photos.

    Attributes:
        added: new photos.
        changed: photos whose files have new contents, which were encoded again.
        moved: photos that were renamed, moved, or written again with the same bytes.
        removed: photos that were removed.
        same: photos that did not change.
        broken: the photos that could not be read.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    same: int = 0
    broken: tuple[UnreadablePhoto, ...] = ()


def add(
    collection: Reader,
    arguments: Sequence[str | os.PathLike[str]],
    *,
    mirror: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Changes:
    """Add photos; see ``Collection.add``."""
    sources, passed_over = find(arguments)
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        stored = [(segment.images[row], segment.content(row)) for segment in current.segments for row in segment.living]
        planned = plan(stored, sources, mirror=mirror, progress=progress)
        if stored and len(planned.gone) == len(stored):
            raise InputError(
                f"{collection.path}: none of its {len(stored)} photos is among the photos to mirror; "
                f"check the folder, or build another collection with: udq index {arguments[0]} -o OTHER"
            )
        if dry_run:
            return Changes(len(planned.new), len(planned.changed), len(planned.moved), len(planned.gone), planned.same)
        given = {source.name for source in sources}
        broken = [entry for entry in transaction.manifest.broken if not mirror and entry["image"] not in given]
        if planned.new or planned.changed:
            current.extractor.proposing()  # raises errors of its weights before anything is changed
        if planned.moved or planned.gone:
            _rewrite(transaction, current, planned.moved, set(planned.gone))
            current = current.refreshed()
        readable, unreadable = _append(transaction, current, planned.new, planned.changed, broken, progress)
        facts: dict[str, Any] = {"broken": [*broken, *unreadable]}
        if mirror:
            facts["passed_over"] = passed_over
        if any(transaction.manifest.document[name] != value for name, value in facts.items()):
            _rewrite(transaction, current.refreshed(), {}, set(), **facts)
    unreadable_names = {entry["image"] for entry in unreadable}
    changed = sum(source.name not in unreadable_names for source in planned.changed)
    return Changes(
        added=readable - changed,
        changed=changed,
        moved=len(planned.moved),
        removed=len(planned.gone) + len(planned.changed) - changed,
        same=planned.same,
        broken=tuple(unreadable),
    )


def remove(collection: Reader, names: Sequence[str]) -> Changes:
    """Remove photos; see ``Collection.remove``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        ids = {image.name: image.id for image in current.images}
        known = ids.keys() | {entry["image"] for entry in current.broken}
        selected: set[str] = set()
        for name in names:
            matching = {name} if name in known else {other for other in known if _matches(name, other)}
            if not matching:
                raise InputError(
                    f"'{name}': no photo of {collection.path} has this name; expected a name as 'udq search' prints "
                    "it, FOLDER/ for all photos of a folder, or a pattern such as '*.png'; nothing was removed"
                )
            selected |= matching
        gone = {ids[name] for name in selected & ids.keys()}
        broken = [entry for entry in current.broken if entry["image"] not in selected]
        _rewrite(transaction, current, {}, gone, broken=broken)
    return Changes(removed=len(gone), same=len(ids) - len(gone))


def remove_ids(collection: Reader, ids: Iterable[int]) -> Changes:
    """Remove photos by their ids; see ``Collection.remove_ids``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        known = {image.id for image in current.images}
        gone = set(ids)
        if unknown := sorted(gone - known):
            raise UnknownPhotoError(
                f"{unknown[0]}: {collection.path} has no photo with this id; expected the 'id' of a match of "
                "'udq search --json'; nothing was removed"
            )
        _rewrite(transaction, current, {}, gone)
    return Changes(removed=len(gone), same=len(known) - len(gone))


def compact(collection: Reader) -> None:
    """Write full segments without removed photos; see ``Collection.compact``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        entries: list[Mapping[str, Any]] = []
        for entry, segment in zip(transaction.manifest.segments, current.segments, strict=True):
            is_last = segment is current.segments[-1]
            if segment.removed.any() or (len(segment.living) != segments.PHOTOS and not is_last):
                break  # write this segment and all after it again, because ids stay in ascending order
            entries.append(entry)
        rest = (segment.indexed(row) for segment in current.segments[len(entries) :] for row in segment.living)
        while photos := list(islice(rest, segments.PHOTOS)):
            entries.append(transaction.write(photos, codewords=_codewords(current)))
        if entries != transaction.manifest.segments:
            transaction.commit(entries, removed={})
        else:
            sweep(transaction.path, transaction.manifest)


def _rewrite(
    transaction: Transaction,
    current: Reader,
    moved: Mapping[int, tuple[Source, Content]],
    gone: AbstractSet[int],
    **facts: object,
) -> None:
    """Commit that photos moved or are gone: segments that contain moved photos are written again, others are kept.

    Args:
        transaction: what commits.
        current: the collection in the transaction's state.
        moved: id -> the photo's new place, and what its file is now.
        gone: ids of photos to remove.
        facts: other keys of the manifest that change, as in ``Transaction.commit``.
    """
    entries, kept = [], []
    for entry, segment in zip(transaction.manifest.segments, current.segments, strict=True):
        if moved.keys().isdisjoint(segment.photos["id"].tolist()):
            entries.append(entry)
            kept.append(segment)
            continue
        photos = [segment.indexed(row) for row in segment.living if segment.images[row].id not in gone]
        entries.append(transaction.write([_moved(photo, moved) for photo in photos], codewords=_codewords(current)))
    transaction.commit(entries, removed_regions(kept, gone), **facts)


def _moved(photo: StoredPhoto, moved: Mapping[int, tuple[Source, Content]]) -> StoredPhoto:
    if photo.image.id not in moved:
        return photo
    source, content = moved[photo.image.id]
    return replace(photo, image=replace(photo.image, name=source.name, root=source.root), content=content)


def _append(
    transaction: Transaction,
    current: Reader,
    new: Sequence[Source],
    changed: Mapping[Source, int],
    broken: Sequence[UnreadablePhoto],
    progress: Progress,
) -> tuple[int, list[UnreadablePhoto]]:
    """Extract and encode photos, and commit them in batches.

    Args:
        transaction: what commits.
        current: the collection in the transaction's state.
        new: photos to add.
        changed: photos to add -> id of the photo that each replaces.
        broken: entries of photos that could not be read before, to keep.
        progress: called for each photo.

    Returns:
        The number of photos that could be read, and those that could not.
    """
    unreadable: list[UnreadablePhoto] = []
    if not (new or changed):
        return 0, unreadable
    from udq.features.device import SCALE, in_gpu_memory  # imports torch
    from udq.indexing.encode import encode_or_report

    model, extractor = current.model, current.extractor.proposing()
    appender = SegmentAppender(transaction, current.segments, codewords=_codewords(current))
    first_id = next_id = transaction.manifest.next_id
    sources = [*new, *changed]
    too_large = SCALE.format(current.config.images.longer)
    with progress("adding photos", len(sources)) as step, in_gpu_memory(too_large):
        extracted = tracked(extractor.extract(sources), step)
        while batch := list(islice(extracted, _BATCH)):
            encoded: list[StoredPhoto] = []
            for photo in batch:
                result = encode_or_report(photo, next_id, model)
                if isinstance(result, StoredPhoto):
                    encoded.append(result)
                    next_id += 1
                else:
                    unreadable.append(result)
            replaced = {changed[photo.source] for photo in batch if photo.source in changed}
            if encoded or replaced:
                appender.append(encoded, removed=replaced, next_id=next_id, broken=[*broken, *unreadable])
    return next_id - first_id, unreadable


def _matches(pattern: str, name: str) -> bool:
    """Whether a name is in a folder, given with a slash at its end, or matches a pattern of ``*`` and ``?``.

    Brackets stand for themselves: names such as ``cup[1].jpg`` are common.
    """
    return name.startswith(pattern) if pattern.endswith("/") else fnmatchcase(name, pattern.replace("[", "[[]"))


def _codewords(current: Reader) -> int:
    return current.model.quantizer.codewords
