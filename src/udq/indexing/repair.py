"""Making a damaged collection whole again from its photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from udq.common import npz
from udq.common.files import write_whole
from udq.common.lock import Lock
from udq.common.progress import Progress, silent
from udq.errors import CollectionError
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.search.reader import Reader, extractor_of
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.manifest import COPY, MANIFEST, Manifest
from udq.store.segments import Image, StoredPhoto
from udq.store.transaction import Transaction

if TYPE_CHECKING:
    from udq.features.extractor import Extractor
from udq.indexing.verify import MODEL_FILES, Damage, damaged_files, whole_manifest


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        damage: what was found.
        restored: photos that were looked at again.
        dropped: photos that could not be, and are not of the collection any more.
        nameless: number of photos that are not of it any more and whose names are lost.
        back: number of photos that had been removed and are back where their files are, since which ones is lost.
    """

    damage: tuple[Damage, ...] = ()
    restored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    nameless: int = 0
    back: int = 0


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
    whole_manifest(path)  # before a lock is written to what is no collection
    lock = Lock(path, path)
    try:
        manifest, damage = whole_manifest(path)
        if damage:
            for name in (MANIFEST, COPY):
                write_whole(path / name, manifests.dump(manifest.document))
        found = damaged_files(path, manifest)
    finally:
        lock.release()
    mended = Repaired()
    # Training goes on where an earlier repair was interrupted in it, if nothing has to be done before.
    if found and not (all(map(_is_model, found)) and _all_there(path, manifest)):
        with Transaction(path) as change:
            found = damaged_files(path, change.manifest)
            mended = _mend(change, {each.file for each in found}, device, progress)
    if any(map(_is_model, found)):
        from udq.indexing import build

        config = manifests.read_manifest(path).config
        build.rebuild(path, config=config, device=device, progress=progress)
        names = tuple(Reader(path).names)
        mended = replace(mended, restored=names)
    return replace(mended, damage=(*damage, *found))


def _is_model(damage: Damage) -> bool:
    return damage.file.startswith(MODEL_FILES)


def _all_there(path: Path, manifest: Manifest) -> bool:
    """Whether the photos of a collection whose segments are whole can be looked at, and there are any."""
    living = segments.read_living(path, manifest)
    return bool(living) and all(image.path.is_file() for image in living)


def _mend(change: Transaction, damaged: set[str], device: str, progress: Progress) -> Repaired:
    """Commit a state in which nothing is damaged but the model, where it is."""
    path, manifest = change.path, change.manifest
    try:
        removed, back = set(manifests.read_removed(path, manifest).tolist()), 0
    except CollectionError:
        removed = _replaced(path, manifest)
        back = manifest.removed["images"] - len(removed)
    keep: list[Mapping[str, Any]] = []
    lost: dict[int, int] = {}
    restored: list[str] = []
    dropped: list[str] = []
    strangers: list[Source] = []
    nameless = 0
    retrained = any(name.startswith(MODEL_FILES) for name in damaged)
    if retrained and not _any_there(path, manifest, removed):
        raise CollectionError(
            f"{path}: its model is damaged, and not one of its photos is there to train it anew; put them back, "
            "or restore the collection from a copy"
        )
    for name in manifests.GIVEN:
        manifests.given_file(manifest.given, name)  # before anything is dropped: without it no photo can be looked at
    look = _Reindexer(path, manifest, device, progress)
    for place, entry in enumerate(manifest.segments):
        try:
            photos = segments.read_photos(path, manifest, place)[0]
        except CollectionError:
            try:
                strangers += segments.read_sources(path, manifest, place)
            except CollectionError:
                nameless += entry["images"]
            continue
        living = [image for image in photos if image.id not in removed]
        whole = not any(f"{entry['folder']}/{name}" in damaged for name in entry["files"])
        if whole or retrained:
            # Where all is trained anew, that looks at the photos; those that are gone would be in its way.
            gone = {image.id for image in living if retrained and not image.path.is_file()}
            dropped += [image.name for image in living if image.id in gone]
            regions = _regions(path, entry, damaged)
            lost |= {
                image.id: regions[row] for row, image in enumerate(photos) if image.id in gone or image.id in removed
            }
            keep.append(entry)
            continue
        if living and not any(image.path.is_file() for image in living):
            raise CollectionError(
                f"{path}: not one of the {len(living)} photos that damage concerns is there, '{living[0].path}' first; "
                "put them back, or restore the collection from a copy"
            )
        found = look.at(living)
        restored += [photo.image.name for photo in found]
        seen = {photo.image.name for photo in found}
        dropped += [image.name for image in living if image.name not in seen]
        if found:
            keep.append(change.write(found, codewords=look.codewords))
    # Photos whose ids are lost get new ones, but for old versions of those that came later under the same name.
    # Which of them had been removed cannot be told, but how many.
    held = {image.name for image in _readable(path, manifest) if image.id not in removed}
    unknown = [source for source in strangers if source.name not in held]
    strange = [Image(each.name, each.root, 0, 0, manifest.next_id + i) for i, each in enumerate(unknown)]
    found = []
    if strange and not retrained:
        found = look.at(strange)
        if found:
            keep.append(change.write(found, codewords=look.codewords))
            back += len(removed - {image.id for image in _readable(path, manifest)})
    seen = {photo.image.name for photo in found}
    restored += seen
    dropped += [image.name for image in strange if image.name not in seen]
    change.commit(keep, lost, next_id=manifest.next_id + len(strange))
    return Repaired((), tuple(restored), tuple(dropped), nameless, back)


def _readable(path: Path, manifest: Manifest) -> Iterator[Image]:
    """Yield the photos, removed ones too, whose names can be told."""
    for place in range(len(manifest.segments)):
        with suppress(CollectionError):
            yield from segments.read_photos(path, manifest, place)[0]


def _replaced(path: Path, manifest: Manifest) -> set[int]:
    """Return ids of photos that must have been removed, since another of their name came later."""
    latest = {image.name: image.id for image in _readable(path, manifest)}
    return {image.id for image in _readable(path, manifest) if image.id != latest[image.name]}


def _any_there(path: Path, manifest: Manifest, removed: set[int]) -> bool:
    return any(image.path.is_file() for image in _readable(path, manifest) if image.id not in removed)


def _regions(path: Path, entry: Mapping[str, Any], damaged: set[str]) -> list[int]:
    """Return the number of regions of each photo of a segment."""
    name = f"{entry['folder']}/offsets.npy"
    if name in damaged:
        return [1] * int(entry["images"])  # until it is trained anew, which is next
    return [int(number) for number in np.diff(npz.read_array(path / name))]


class _Reindexer:
    """Looks at photos again, as those of a collection whose model is whole were looked at."""

    def __init__(self, path: Path, manifest: Manifest, device: str, progress: Progress) -> None:
        self._path, self._manifest, self._device, self._progress = path, manifest, device, progress

    @cached_property
    def _model(self) -> Model:
        return manifests.read_model(self._path, self._manifest)

    @cached_property
    def _extractor(self) -> Extractor:
        backbone = manifests.read_backbone(self._path, self._manifest)
        return extractor_of(self._manifest, backbone, self._device).proposing()

    @property
    def codewords(self) -> int:
        """K."""
        return self._model.quantizer.codewords

    def at(self, photos: Sequence[Image]) -> list[StoredPhoto]:
        """Return photos under the ids that they have; those that cannot be read are left out."""
        from udq.common import progress as progresss  # imports torch
        from udq.indexing import encode

        sources = [Source(image.name, image.path) for image in photos]
        with self._progress("looking at photos again", len(photos)) as step:
            looked = progresss.tracked(self._extractor.extract(sources), step)
            pairs = zip(photos, looked, strict=True)
            return [encode.encode(photo, image.id, self._model) for image, photo in pairs if photo.broken is None]
