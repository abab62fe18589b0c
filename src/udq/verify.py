"""Whether a collection is as it was written, byte for byte; and making it whole again from its photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from udq import images, segments, storage
from udq.collection import Collection
from udq.durable import write_whole
from udq.errors import CollectionError
from udq.lock import Lock
from udq.model import Model
from udq.progress import Progress, silent
from udq.segments import Image, Indexed
from udq.storage import COPY, MANIFEST, Manifest
from udq.transaction import Transaction

_MODEL = ("model", "backbone")


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written.

    Attributes:
        file: its name in the collection.
        affects: what of the collection depends on it, in words.
        images: names of the photos whose regions it holds; none where it concerns all, or they cannot be told.
    """

    file: str
    affects: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        damage: what was found.
        restored: photos that were looked at again.
        dropped: photos that could not be, and are not of the collection any more.
        nameless: number of photos that are not of it any more and whose names are lost.
        back: number of photos that had been removed and are back, since which ones is lost.
    """

    damage: tuple[Damage, ...] = ()
    restored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    nameless: int = 0
    back: int = 0


def verify(path: Path) -> list[Damage]:
    """Read every byte of a collection and return what is not as it was written.

    Raises:
        InputError: there is no such collection.
        CollectionError: it is none, or of another format version.
    """
    manifest, damage = _manifest(path)
    return [*damage, *_files(path, manifest)]


def repair(path: Path, *, device: str = "auto", progress: Progress = silent) -> Repaired:
    """Make a collection whole again: its photos are looked at again where what was kept of them is damaged.

    Photos that are gone or cannot be read any more are dropped. Where the model is damaged, all photos are looked at
    again and the collection is trained anew.

    Args:
        path: the collection.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: is told of each photo.

    Raises:
        CollectionError: its manifest is damaged, and the copy too.
    """
    lock = Lock(path, path)
    try:
        manifest, damage = _manifest(path)
        if damage:
            for name in (MANIFEST, COPY):
                write_whole(path / name, storage.dump(manifest.document))
    finally:
        lock.release()
    with Transaction(path) as change:
        files = _files(path, change.manifest)
        if not files:
            return Repaired(tuple(damage))
        damage += files
        mended = _mend(change, {each.file for each in files}, device, progress)
    if any(each.file.startswith(_MODEL) for each in files):
        from udq import index

        config = storage.read_manifest(path).config
        index.rebuild(path, config=config, device=device, progress=progress)
        names = tuple(Collection.open(path).names)
        mended = replace(mended, restored=names)
    return replace(mended, damage=tuple(damage))


def _manifest(path: Path) -> tuple[Manifest, list[Damage]]:
    """Return the manifest, or its copy where it is damaged, and what is damaged of the two."""
    try:
        manifest = storage.read_manifest(path)
    except CollectionError:
        try:
            copy = storage.read_manifest(path, COPY)
        except CollectionError:
            copy = None
        if copy is None:
            raise
        return copy, [Damage(MANIFEST, "the whole collection; its copy is whole")]
    found = []
    raw = (path / MANIFEST).read_bytes()
    if raw != storage.dump(manifest.document):
        found.append(Damage(MANIFEST, "nothing that it says"))
    if manifest.document["version"] > 2:  # which had no copy
        try:
            whole = (path / COPY).read_bytes() == storage.dump(storage.read_manifest(path, COPY).document)
        except (CollectionError, OSError):
            whole = False
        if not whole:
            found.append(Damage(COPY, "nothing as long as the manifest itself is whole"))
    return manifest, found


def _files(path: Path, manifest: Manifest) -> list[Damage]:
    """Compare the files that a manifest names with their checksums."""
    found = []
    for name, facts in storage.facts_of(manifest.document).items():
        try:
            storage.check(storage.inside(path, name), facts)
        except CollectionError:
            found.append(_damage(path, manifest, name))
    return found


def _damage(path: Path, manifest: Manifest, name: str) -> Damage:
    if name.startswith(_MODEL):
        return Damage(name, "every search and every photo: the collection must be trained anew")
    if name.startswith("removed"):
        return Damage(name, f"which {manifest.removed['images']} photos were removed")
    place = next(i for i, entry in enumerate(manifest.segments) if name.startswith(entry["folder"] + "/"))
    photos = manifest.segments[place]["images"]
    try:
        names = tuple(image.name for image in segments.read_photos(path, manifest, place)[0])
    except CollectionError:
        return Damage(name, f"{photos} photos whose names cannot be told from it")
    return Damage(name, f"{photos} photos, '{names[0]}' first", names)


def _mend(change: Transaction, damaged: set[str], device: str, progress: Progress) -> Repaired:
    """Commit a state in which nothing is damaged but the model, where it is."""
    path, manifest = change.path, change.manifest
    removed: set[int] = set()
    back = manifest.removed["images"]
    with suppress(CollectionError):
        removed, back = set(storage.read_removed(path, manifest).tolist()), 0
    keep: list[Mapping[str, Any]] = []
    lost: dict[int, int] = {}
    restored: list[str] = []
    dropped: list[str] = []
    nameless = 0
    retrained = any(name.startswith(_MODEL) for name in damaged)
    opened = Collection.open(path, device=device)
    fitted: Model | None = None
    for place, entry in enumerate(manifest.segments):
        try:
            photos = segments.read_photos(path, manifest, place)[0]
        except CollectionError:
            nameless += entry["images"]
            continue
        living = [image for image in photos if image.id not in removed]
        whole = not any(f"{entry['folder']}/{name}" in damaged for name in entry["files"])
        if whole or retrained:
            # Where all is trained anew, that looks at the photos; those that are gone would be in its way.
            gone = {image.id for image in living if retrained and not image.path.is_file()}
            dropped += [image.name for image in living if image.id in gone]
            regions = _regions(path, entry)
            lost |= {
                image.id: regions[row] for row, image in enumerate(photos) if image.id in gone or image.id in removed
            }
            keep.append(entry)
            continue
        fitted = fitted or storage.read_model(path, manifest)
        found = list(_look(opened, fitted, living, progress))
        restored += [photo.image.name for photo in found]
        names = {photo.image.name for photo in found}
        dropped += [image.name for image in living if image.name not in names]
        if found:
            keep.append(change.write(found, codewords=fitted.quantizer.codewords))
    change.commit(keep, lost)
    return Repaired((), tuple(restored), tuple(dropped), nameless, back)


def _regions(path: Path, entry: Mapping[str, Any]) -> list[int]:
    """Return the number of regions of each photo of a segment."""
    try:
        offsets = np.load(path / entry["folder"] / "offsets.npy", allow_pickle=False)
        return [int(number) for number in np.diff(offsets)]
    except (OSError, ValueError, TypeError):
        return [1] * int(entry["images"])  # until it is trained anew, which is next


def _look(opened: Collection, fitted: Model, photos: Sequence[Image], progress: Progress) -> Iterator[Indexed]:
    """Look at photos again, under the ids that they have; those that cannot be read are left out."""
    from udq import index  # imports torch

    sources = [images.Source(image.name, image.path) for image in photos]
    with progress("looking at photos again", len(photos)) as step:
        looked = index.counted(opened.extractor.proposing().extract(sources), step)
        for image, photo in zip(photos, looked, strict=True):
            if photo.broken is None:
                yield index.encode(photo, image.id, fitted)
