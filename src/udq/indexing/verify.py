"""Compare every file of a collection with its checksum, and check all that opening a collection checks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.common.files import MAX_JSON, read_regular
from udq.errors import CollectionError
from udq.quantization.model import Model
from udq.store import layout, segments
from udq.store import manifest as manifests
from udq.store.layout import COPY, MANIFEST, DamagedError
from udq.store.manifest import Manifest, read_backbone, read_manifest, read_model, read_removed

MODEL_FILES = ("model", "backbone")
"""Prefixes of the files that encode photos: if one of them is damaged, the collection must be retrained."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Damage:
    """A file that is missing, differs from its checksum, or holds what no udq writes.

    Attributes:
        file: its name in the collection.
        affects: what depends on it, for messages.
        images: names of the photos whose regions it contains; empty if it concerns all photos or the names are lost.
        reason: what is wrong with it, on one line.
    """

    file: str
    affects: str
    images: tuple[str, ...] = ()
    reason: str = layout.CHECKSUM


def verify(path: Path) -> list[Damage]:
    """Read every byte of a collection and return the damaged files.

    A collection without damage can be opened and searched.

    Raises:
        InputError: nothing is at ``path``.
        CollectionError: it is not a collection, it is one of a format version that this udq does not read, it contains
            a link, or its manifest and the copy of it are both damaged.
    """
    result = _verify_once(path)
    # A writer may replace the collection while it is read: damage is what two readings of one state agree on.
    while result[1] and (again := _verify_once(path)) != result:
        result = again
    return result[1]


def _verify_once(path: Path) -> tuple[Manifest, list[Damage]]:
    manifest, damage = intact_manifest(path)
    return manifest, [*damage, *damaged_files(path, manifest)]


def intact_manifest(path: Path) -> tuple[Manifest, list[Damage]]:
    """Return the manifest, or its copy if the manifest is damaged, and which of the two are damaged.

    Raises:
        InputError: nothing is at ``path``.
        CollectionError: both are damaged, or ``path`` is not a collection that this udq reads.
    """
    try:
        manifest = read_manifest(path)
    except CollectionError as error:
        return _intact_copy(path, error), [Damage(MANIFEST, "the whole collection; its copy is intact")]
    damage = []
    if read_regular(path / MANIFEST, limit=MAX_JSON) != manifests.dump(manifest.document):
        damage.append(Damage(MANIFEST, "nothing: its contents are intact"))
    if manifest.document["version"] > 2 and not _is_copy_intact(path, manifest):  # format 2 has no copy
        damage.append(Damage(COPY, "nothing as long as the manifest itself is intact"))
    return manifest, damage


def _intact_copy(path: Path, error: CollectionError) -> Manifest:
    """Return the copy of a manifest that cannot be read; if the copy cannot be read either, raise an error for both."""
    try:
        return read_manifest(path, COPY)
    except CollectionError as other:
        if isinstance(error, DamagedError) or isinstance(other, DamagedError):
            raise CollectionError(
                f"{path}: its {MANIFEST} and the copy of it, {COPY}, are both damaged or missing; restore the "
                "collection from a backup, or build it again from its photos"
            ) from error
        raise error from other


def _is_copy_intact(path: Path, manifest: Manifest) -> bool:
    """Whether the copy of a manifest is as it was written.

    A change that was killed may leave a copy of the state that it was about to commit, with all its files.
    """
    try:
        copy = read_manifest(path, COPY)
        if read_regular(path / COPY, limit=MAX_JSON) != manifests.dump(copy.document):
            return False
    except (CollectionError, OSError, ValueError):
        return False
    return copy == manifest or all((path / name).is_file() for name in manifests.files_of(copy))


def damaged_files(path: Path, manifest: Manifest) -> list[Damage]:
    """Read every file that a manifest lists, as opening the collection does, and return the damaged ones."""
    found: dict[str, str] = {}  # file -> reason
    model = _read(path, found, lambda: read_model(path, manifest))
    _read(path, found, lambda: read_backbone(path, manifest))
    removed = _read(path, found, lambda: read_removed(path, manifest))
    read = partial(_read_segment, path, manifest, model)
    order, gone = segments.IdOrder(manifest), 0
    with ThreadPoolExecutor(segments.READERS) as pool:
        for entry, (damaged, ids) in zip(manifest.segments, pool.map(read, range(len(manifest.segments))), strict=True):
            found |= damaged
            gone += 0 if removed is None else int(np.isin(ids, removed).sum())
            if not damaged and not order.follows(ids):
                found[f"{entry['folder']}/photos.npy"] = segments.OUT_OF_ORDER
    if not found:
        _read(path, found, lambda: segments.expect_removed(path, manifest, gone))
    return [_damage(path, manifest, name, reason) for name, reason in found.items()]


def _read(path: Path, found: dict[str, str], read: Callable[[], Result]) -> Result | None:
    """Return what ``read`` returns; if a file is damaged, add it with the reason to ``found``, and return None."""
    try:
        return read()
    except DamagedError as error:
        found[error.file.relative_to(path).as_posix()] = error.reason
        return None


def _read_segment(
    path: Path, manifest: Manifest, model: Model | None, place: int
) -> tuple[dict[str, str], NDArray[np.int64]]:
    """Read a segment; return its damaged files with the reasons, and the ids of its photos if they can be read.

    Codes are compared with the model, unless that is damaged.
    """
    entry, found = manifest.segments[place], dict[str, str]()
    ids = np.empty(0, np.int64)

    def read() -> NDArray[np.int64]:
        if model is None:
            return segments.read_photos(path, manifest, place)[1]["id"]  # type: ignore[no-any-return]
        shape = {"subspaces": model.quantizer.subspaces, "codewords": model.quantizer.codewords}
        return segments.read_one(path, manifest, place, removed=ids, **shape).photos["id"]  # type: ignore[no-any-return]

    readable = _read(path, found, read)
    for name, facts in entry["files"].items():
        # The first damage ends reading, and files that later versions may add are not read.
        if found or model is None or name not in segments.ALL_FILES:
            _read(path, found, partial(layout.check, layout.inside(path, f"{entry['folder']}/{name}"), facts))
    return found, ids if readable is None else readable


def _damage(path: Path, manifest: Manifest, name: str, reason: str) -> Damage:
    if name.startswith(MODEL_FILES):
        return Damage(name, "every search and every photo: the collection must be retrained", (), reason)
    if name.startswith("removed"):
        return Damage(name, f"which {manifest.removed['images']} photos were removed", (), reason)
    place = next(i for i, entry in enumerate(manifest.segments) if name.startswith(entry["folder"] + "/"))
    count = manifest.segments[place]["images"]
    names = _names(path, manifest, place)
    if not names:
        return Damage(name, f"{count} photos whose names are lost", (), reason)
    return Damage(name, f"{count} photos, '{names[0]}' first", names, reason)


def _names(path: Path, manifest: Manifest, place: int) -> tuple[str, ...]:
    """Return the names of the photos of a segment, removed photos included; empty if they are lost."""
    try:
        return tuple(source.name for source in segments.read_sources(path, manifest, place))
    except CollectionError:
        return ()
