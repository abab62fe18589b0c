"""Change a collection: add photos, remove photos, mirror a folder, compact.

Only photos that change are processed: adding extracts and encodes the new photos with the collection's model, removing
adds ids to the list of removed photos.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq.common.files import existing
from udq.common.progress import Progress, silent, tracked
from udq.common.text import nfc, shown
from udq.errors import ConsentError, InputError, NoPhotosError, UnknownPhotoError
from udq.indexing import relocation
from udq.indexing.absence import emptied_text
from udq.indexing.relocation import Relocation
from udq.indexing.sync import Stored, plan
from udq.photos.listing import NOTHING, Area, Excludes, PassedOver, Places
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
        passed_over: counts of what was not indexed in the given folders.
        emptied: folders of a mirror that lost all photos at once -> number of photos that were removed with each.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    same: int = 0
    broken: tuple[UnreadablePhoto, ...] = ()
    passed_over: PassedOver = NOTHING
    emptied: Mapping[str, int] = field(default_factory=dict)


def add(
    collection: Reader,
    arguments: Sequence[str | os.PathLike[str]],
    *,
    mirror: bool = False,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
    yes: bool = False,
    progress: Progress = silent,
) -> Changes:
    """Add photos; see ``Collection.add``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        stored = _stored(current)
        excludes = Excludes([*transaction.manifest.exclude, *exclude])
        area = Area.of(arguments) if mirror else None
        sources, passed_over = _listed(arguments, excludes, stored, area)
        planned = plan(stored, sources, mirror=area, excludes=excludes, progress=progress)
        if dry_run:
            return Changes(
                added=len(planned.new),
                changed=len(planned.changed),
                moved=len(planned.moved),
                removed=len(planned.gone),
                same=planned.same,
                passed_over=passed_over,
                emptied=planned.emptied,
            )
        if planned.emptied and not yes:
            remedy = f"run: udq relocate {shown(str(collection.path))} {{folder}} NEW"
            raise ConsentError(emptied_text(planned.emptied, remedy))
        broken = _still_broken(transaction.manifest.broken, sources, stored, area)
        if planned.new or planned.changed:
            current.extractor.proposing()  # raises errors of its weights before anything is changed
        if planned.moved or planned.gone:
            _rewrite(transaction, current, planned.moved, set(planned.gone))
            current = current.refreshed()
        readable, unreadable = _append(transaction, current, planned.new, planned.changed, broken, progress)
        facts: dict[str, Any] = {"broken": [*broken, *unreadable]}
        if mirror:
            facts |= passed_over.to_json()
        if any(transaction.manifest.document.get(name, 0) != value for name, value in facts.items()):
            _rewrite(transaction, current.refreshed(), {}, set(), **facts)
    unreadable_names = {entry["image"] for entry in unreadable}
    changed = sum(source.name not in unreadable_names for source in planned.changed)
    return Changes(
        added=readable - changed,
        changed=changed,
        moved=len(planned.moved),
        removed=len(planned.gone),
        same=planned.same + len(planned.changed) - changed,
        broken=tuple(unreadable),
        passed_over=passed_over,
        emptied=planned.emptied,
    )


def _stored(current: Reader) -> list[Stored]:
    """Return the photos of a collection that are not removed."""
    return [(segment.images[row], segment.content(row)) for segment in current.segments for row in segment.living]


def _listed(
    arguments: Sequence[str | os.PathLike[str]], excludes: Excludes, stored: Sequence[Stored], area: Area | None
) -> tuple[list[Source], PassedOver]:
    """Return the photos in given files and folders, as ``source.find``.

    A folder to mirror that is away or has no photos is not an error if the collection has photos of it: these are gone.

    Args:
        arguments: files and folders.
        excludes: what is left out.
        stored: photos of the collection.
        area: what the arguments cover, to mirror it; None if the photos are added.
    """
    if area is None:
        return find(arguments, excludes.patterns)
    places = Places()
    held = {area.folder_of(places.of(image.root, image.name)) for image, _ in stored}
    given = [existing(Path(argument)) for argument in arguments]
    listed = [path for path in given if os.path.lexists(path) or not held & set(Area.of([path]).folders)]
    try:
        return find(listed, excludes.patterns) if listed else ([], NOTHING)
    except NoPhotosError:
        if held - {None}:
            return [], NOTHING
        raise


def _still_broken(
    broken: Sequence[UnreadablePhoto], sources: Sequence[Source], stored: Sequence[Stored], area: Area | None
) -> list[UnreadablePhoto]:
    """Return the entries of unreadable photos that remain: without given photos, and in a mirrored area no others.

    Args:
        broken: entries of the collection.
        sources: the given photos.
        stored: photos of the collection.
        area: what the given photos cover, to mirror it.
    """
    places = Places()
    names = {source.name for source in sources}
    given = {places.of(source.root, source.name) for source in sources}
    rest = [
        entry
        for entry in broken
        if entry["image"] not in names and not ("root" in entry and places.of(entry["root"], entry["image"]) in given)
    ]
    if area is None:
        return rest
    # The folder of an entry by an older version is unknown: it is one of the mirrored ones if all photos are in those.
    whole = all(area.covers(places.of(image.root, image.name)) for image, _ in stored)
    return [
        entry
        for entry in rest
        if not (area.covers(places.of(entry["root"], entry["image"])) if "root" in entry else whole)
    ]


def relocate(
    collection: Reader,
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    yes: bool = False,
    progress: Progress = silent,
) -> Relocation:
    """Change where the photos of a folder are; see ``Collection.relocate``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        planned = relocation.plan(_stored(current), old, new, progress=progress)
        if not dry_run:
            if not yes and (planned.missing or planned.changed):
                raise ConsentError(relocation.doubts(planned, new))
            broken = relocation.broken(current.broken, old, new)
            _rewrite(transaction, current, planned.moved, set(), broken=broken)
    return planned


def remove(collection: Reader, names: Sequence[str]) -> Changes:
    """Remove photos; see ``Collection.remove``."""
    with Transaction(collection.path) as transaction:
        current = collection.refreshed()
        ids = {image.name: image.id for image in current.images}
        known = ids.keys() | {entry["image"] for entry in current.broken}
        selected: set[str] = set()
        for name in names:
            matching = _named(name, known)
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
    moved: Mapping[int, tuple[Source, Content | None]],
    gone: AbstractSet[int],
    **facts: object,
) -> None:
    """Commit that photos moved or are gone: segments that contain moved photos are written again, others are kept.

    Args:
        transaction: what commits.
        current: the collection in the transaction's state.
        moved: id -> the photo's new place, and what its file is now; None if unknown.
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


def _moved(photo: StoredPhoto, moved: Mapping[int, tuple[Source, Content | None]]) -> StoredPhoto:
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
            # A photo whose file cannot be read any more keeps its codes and its id: the file may come back.
            replaced = {changed[photo.source] for photo in batch if photo.source in changed and photo.broken is None}
            if encoded:
                appender.append(encoded, removed=replaced, next_id=next_id, broken=[*broken, *unreadable])
    return next_id - first_id, unreadable


def _named(name: str, known: AbstractSet[str]) -> AbstractSet[str]:
    """Return the photos that a person means by a name.

    These are the photo of that very name, those of that name in another Unicode form, those that it matches as a
    pattern, or the photo whose name is printed so, with escapes; in this order. Raises InputError if several names
    are printed so.
    """
    if name in known:
        return {name}
    if alike := {other for other in known if nfc(other) == nfc(name)}:
        return alike
    for form in (str, nfc):
        if matching := {other for other in known if _matches(form(name), form(other))}:
            return matching
    printed = {other for other in known if shown(other) == name}
    if len(printed) > 1:
        raise InputError(
            f"'{name}': {len(printed)} photos have names that are printed so; expected a pattern that matches the ones "
            "to remove, such as '*.png'; nothing was removed"
        )
    return printed


def _matches(pattern: str, name: str) -> bool:
    """Whether a name is in a folder, given with a slash at its end, or matches a pattern of ``*`` and ``?``.

    Brackets stand for themselves: names such as ``cup[1].jpg`` are common.
    """
    return name.startswith(pattern) if pattern.endswith("/") else fnmatchcase(name, pattern.replace("[", "[[]"))


def _codewords(current: Reader) -> int:
    return current.model.quantizer.codewords
