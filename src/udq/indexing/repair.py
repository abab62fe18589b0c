"""Make a damaged collection whole again from its photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq.common.files import sync_folder, write_all
from udq.common.lock import Lock
from udq.common.progress import Progress, silent, tracked
from udq.common.text import counted, shown
from udq.errors import ConsentError
from udq.indexing.absence import emptied_text
from udq.indexing.repair_plan import Keep, RepairPlan, plan
from udq.indexing.verify import MODEL_FILES, Damage, damaged_files, intact_manifest
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.search.reader import Reader, extractor_of
from udq.store import segments
from udq.store.layout import COPY, MANIFEST
from udq.store.manifest import Manifest, dump, read_backbone, read_manifest, read_model
from udq.store.segments import Image, StoredPhoto
from udq.store.transaction import Transaction

if TYPE_CHECKING:
    from udq.features.extractor import Extractor


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        damage: the damaged files.
        restored: names of photos that were encoded again.
        dropped: names of photos that could not be encoded again, and were removed.
        nameless: number of photos that were removed and whose names are lost.
        back: number of removed photos that are back if their files exist, because it is lost which ones were removed.
    """

    damage: tuple[Damage, ...] = ()
    restored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    nameless: int = 0
    back: int = 0


def repair(
    path: Path, *, device: str = "auto", threads: int | None = None, yes: bool = False, progress: Progress = silent
) -> Repaired:
    """Make a collection whole again: encode the photos of damaged segments again.

    Photos that are missing or cannot be read any more are dropped. If the model is damaged, the collection is retrained
    on all its photos.

    Args:
        path: the collection.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads; as many as there are cores if None.
        yes: drop the photos of folders that lost all photos at once too.
        progress: called for each photo.

    Raises:
        ConsentError: without ``yes``, a folder of photos to encode again lost all photos at once: its disk may not be
            mounted; or none of the photos in a damaged file can be read.
        CollectionError: the manifest and its copy are damaged, the photos that are needed are missing, or the
            collection contains a link.
    """
    intact_manifest(path)  # before a lock is written to a folder that is not a collection
    lock = Lock(path, path)
    try:
        manifest, damage = intact_manifest(path)
        if damage:
            write_all([path / MANIFEST, path / COPY], dump(manifest.document))
            sync_folder(path)
        damaged = damaged_files(path, manifest)
    finally:
        lock.release()
    repaired = Repaired()
    # A repair that was interrupted in retraining has done the first part, and resumes the retraining.
    if damaged and not (all(map(_is_model, damaged)) and _can_retrain(path, manifest)):
        with Transaction(path) as transaction:
            damaged = damaged_files(path, transaction.manifest)
            planned = plan(path, transaction.manifest, {each.file for each in damaged})
            if planned.emptied and not yes:
                raise ConsentError(emptied_text(planned.emptied, "put it back, or a link to it"))
            encoder = _Encoder(path, transaction.manifest, device, threads, progress)
            repaired = _apply(transaction, planned, encoder, yes=yes)
    if any(map(_is_model, damaged)):
        from udq.indexing import build  # imports torch

        config = read_manifest(path).config
        build.rebuild(path, config=config, device=device, threads=threads, progress=progress)
        repaired = replace(repaired, restored=tuple(Reader(path).names))
    return replace(repaired, damage=(*damage, *damaged))


def _is_model(damage: Damage) -> bool:
    return damage.file.startswith(MODEL_FILES)


def _can_retrain(path: Path, manifest: Manifest) -> bool:
    """Whether a collection whose segments are intact has photos, and the files of all of them exist."""
    images = segments.read_living(path, manifest)
    return bool(images) and all(image.path.is_file() for image in images)


def _apply(transaction: Transaction, planned: RepairPlan, encoder: _Encoder, *, yes: bool) -> Repaired:
    """Carry out a plan in one commit, after which nothing but the model may be damaged.

    Raises:
        ConsentError: without ``yes``, none of the photos to encode again can be read.
    """
    entries: list[Mapping[str, Any]] = []
    restored: list[str] = []
    dropped = list(planned.dropped)
    back = planned.back
    for step in planned.steps:
        if isinstance(step, Keep):
            entries.append(step.entry)
            continue
        photos = encoder.encode(step.images)
        if photos:
            entries.append(transaction.write(photos, codewords=encoder.codewords))
            back += step.back
        names = {photo.image.name for photo in photos}
        if not names and not yes:
            first = step.images[0]
            raise ConsentError(
                f"{shown(str(first.path))}: cannot be read any more, nor any other of the "
                f"{counted(len(step.images), 'photo')} in a damaged file; put intact files back, or add --yes to drop "
                "them"
            )
        restored += [image.name for image in step.images if image.name in names]
        dropped += [image.name for image in step.images if image.name not in names]
    transaction.commit(entries, planned.removed, next_id=planned.next_id)
    return Repaired((), tuple(restored), tuple(dropped), planned.nameless, back)


class _Encoder:
    """Encodes photos with the model of a collection; both are loaded on first use."""

    def __init__(self, path: Path, manifest: Manifest, device: str, threads: int | None, progress: Progress) -> None:
        self._path, self._manifest = path, manifest
        self._device, self._threads, self._progress = device, threads, progress

    @cached_property
    def _model(self) -> Model:
        return read_model(self._path, self._manifest)

    @cached_property
    def _extractor(self) -> Extractor:
        backbone = read_backbone(self._path, self._manifest)
        return extractor_of(self._manifest, backbone, self._device, threads=self._threads).proposing()

    @property
    def codewords(self) -> int:
        """K."""
        return self._model.quantizer.codewords

    def encode(self, images: Sequence[Image]) -> list[StoredPhoto]:
        """Encode photos under their ids; those that cannot be read are left out."""
        from udq.indexing.encode import encode  # imports torch

        sources = [Source(image.name, image.path) for image in images]
        with self._progress("extracting features again", len(images)) as step:
            extracted = tracked(self._extractor.extract(sources), step)
            pairs = zip(images, extracted, strict=True)
            return [encode(photo, image.id, self._model) for image, photo in pairs if photo.broken is None]
