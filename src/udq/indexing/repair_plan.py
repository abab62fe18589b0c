"""Plan a repair: what to keep of a damaged collection, and which photos to encode again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udq.common import npz
from udq.errors import CollectionError
from udq.indexing.absence import emptied_folders
from udq.indexing.verify import MODEL_FILES
from udq.photos.listing import Area, Places
from udq.photos.source import Source
from udq.store import segments
from udq.store.manifest import GIVEN, Manifest, given_file, read_removed
from udq.store.segments import Image


@dataclass(frozen=True)
class Keep:
    """Keep a segment as it is.

    Attributes:
        entry: its entry in the manifest.
    """

    entry: Mapping[str, Any]


@dataclass(frozen=True)
class Reencode:
    """Replace a damaged segment by its photos, encoded again.

    Attributes:
        images: the photos that are not removed, under the ids that they keep or get.
        back: number of removed photos that are among them, because it is lost which photos of it were removed.
    """

    images: tuple[Image, ...]
    back: int = 0


@dataclass(frozen=True)
class RepairPlan:
    """What makes a collection whole again, except for its model.

    Attributes:
        steps: what becomes of its segments, in ascending order of their photos' ids.
        removed: id -> number of regions of each photo in kept segments that is or becomes removed.
        dropped: names of photos that cannot be encoded again.
        nameless: number of photos that are dropped and whose names are lost.
        back: number of removed photos that are back, because the list of removed photos is damaged.
        next_id: the id of the next photo that is added.
        emptied: folders that lost all photos at once -> number of photos that would be dropped with each.
    """

    steps: tuple[Keep | Reencode, ...]
    removed: Mapping[int, int]
    dropped: tuple[str, ...]
    nameless: int
    back: int
    next_id: int
    emptied: Mapping[str, int]


def plan(path: Path, manifest: Manifest, damaged: AbstractSet[str]) -> RepairPlan:
    """Plan the repair of a collection; nothing is changed.

    Args:
        path: the collection.
        manifest: its state.
        damaged: names of the damaged files.

    Raises:
        CollectionError: the files of all photos that would have to be encoded again are missing, or a file of weights
            that the collection was built with is missing.
    """
    contents = _Contents.read(path, manifest)
    if any(name.startswith(MODEL_FILES) for name in damaged):
        return _plan_before_retraining(path, manifest, damaged, contents)
    return _plan_reencoding(path, manifest, damaged, contents)


@dataclass(frozen=True)
class _Contents:
    """What can still be read of the photos of a collection.

    Attributes:
        images: the photos of each segment, removed photos included; None for a segment whose ids or names are lost.
        removed: ids of removed photos.
        back: number of photos that were removed, but it is lost which.
        without_ids: photos whose names are known and whose ids are lost, without earlier versions of other photos.
        nameless: number of photos whose names are lost.
    """

    images: tuple[tuple[Image, ...] | None, ...]
    removed: frozenset[int]
    back: int
    without_ids: tuple[Source, ...]
    nameless: int

    @staticmethod
    def read(path: Path, manifest: Manifest) -> _Contents:
        images: list[tuple[Image, ...] | None] = []
        sources: list[Source] = []
        nameless = 0
        order = segments.IdOrder(manifest)
        for place, entry in enumerate(manifest.segments):
            try:
                photos, table = segments.read_photos(path, manifest, place)
                if order.follows(table["id"]):
                    images.append(photos)
                    continue
            except CollectionError:
                pass
            images.append(None)
            named: tuple[Source, ...] = ()
            with contextlib.suppress(CollectionError):
                named = segments.read_sources(path, manifest, place)
            sources += named
            nameless += max(0, entry["images"] - len(named))
        readable = [image for photos in images if photos is not None for image in photos]
        try:
            removed, back = set(read_removed(path, manifest).tolist()), 0
        except CollectionError:
            removed = _replaced(readable)
            back = manifest.removed["images"] - len(removed)
        present = {image.name for image in readable if image.id not in removed}
        # A photo of the same name that has an id is a later version.
        without_ids = tuple(source for source in sources if source.name not in present)
        return _Contents(tuple(images), frozenset(removed), back, without_ids, nameless)

    def readable(self) -> Iterator[Image]:
        """Yield the photos whose names and ids are known, removed photos included."""
        return (image for photos in self.images if photos is not None for image in photos)

    def present(self, photos: Iterable[Image]) -> list[Image]:
        """Return those of some photos that are not removed."""
        return [image for image in photos if image.id not in self.removed]


def _replaced(images: Sequence[Image]) -> set[int]:
    """Return the ids of photos that must have been removed, because a later photo has the same name."""
    latest = {image.name: image.id for image in images}
    return {image.id for image in images if image.id != latest[image.name]}


def _plan_before_retraining(
    path: Path, manifest: Manifest, damaged: AbstractSet[str], contents: _Contents
) -> RepairPlan:
    """Plan for a damaged model: retraining encodes all photos again, so that only the list of photos matters here."""
    if not any(image.path.is_file() for image in contents.present(contents.readable())):
        raise CollectionError(
            f"{path}: its model is damaged, and none of its photos exists to retrain it on; put them back, "
            "or restore the collection from a copy"
        )
    _check_given(manifest)
    steps: list[Keep] = []
    removed: dict[int, int] = {}
    dropped: list[str] = []
    for entry, images in zip(manifest.segments, contents.images, strict=True):
        if images is None:
            continue
        missing = {image.id for image in contents.present(images) if not image.path.is_file()}
        dropped += [image.name for image in images if image.id in missing]
        removed |= _regions(path, entry, images, damaged, missing | contents.removed)
        steps.append(Keep(entry))
    dropped += [source.name for source in contents.without_ids]
    next_id = manifest.next_id + len(contents.without_ids)
    emptied = _emptied(contents.present(contents.readable()), contents)
    return RepairPlan(tuple(steps), removed, tuple(dropped), contents.nameless, contents.back, next_id, emptied)


def _plan_reencoding(path: Path, manifest: Manifest, damaged: AbstractSet[str], contents: _Contents) -> RepairPlan:
    """Plan for an intact model: keep intact segments, and encode the photos of the others again."""
    _check_given(manifest)
    steps: list[Keep | Reencode] = []
    removed: dict[int, int] = {}
    for entry, images in zip(manifest.segments, contents.images, strict=True):
        if images is None:
            continue
        if not _is_damaged(entry, damaged):
            removed |= _regions(path, entry, images, damaged, contents.removed)
            steps.append(Keep(entry))
        elif present := contents.present(images):
            if not any(image.path.is_file() for image in present):
                raise CollectionError(
                    f"{path}: none of the {len(present)} photos in a damaged file exists, '{present[0].path}' first; "
                    "put them back, or restore the collection from a copy"
                )
            steps.append(Reencode(tuple(present)))
    # Photos whose ids are lost get new ones. Some of them may have been removed before: how many is known.
    unknown = contents.removed - {image.id for image in contents.readable()}
    renumbered = [
        Image(source.name, source.root, 0, 0, number)
        for number, source in enumerate(contents.without_ids, start=manifest.next_id)
    ]
    if renumbered:
        steps.append(Reencode(tuple(renumbered), back=len(unknown)))
    next_id = manifest.next_id + len(renumbered)
    encoded = [image for step in steps if isinstance(step, Reencode) for image in step.images]
    emptied = _emptied(encoded, contents)
    return RepairPlan(tuple(steps), removed, (), contents.nameless, contents.back, next_id, emptied)


def _emptied(images: Sequence[Image], contents: _Contents) -> dict[str, int]:
    """Return the folders of some photos that lost all photos at once, as ``absence.emptied_folders``."""
    places = Places()
    gone = {places.of(image.root, image.name): image for image in images if not image.path.is_file()}
    if not gone:
        return {}
    present = [*images, *contents.present(contents.readable())]  # photos whose ids are lost are among ``images`` alone
    kept = {places.of(image.root, image.name) for image in present if image.path.is_file()}
    roots = {places.of(image.root, "") for image in gone.values()}
    return emptied_folders(gone.keys(), kept, kept, Area(tuple(sorted(roots)), frozenset()))


def _check_given(manifest: Manifest) -> None:
    """Raise CollectionError if a file of weights is missing: no photo can be encoded without it."""
    for name in GIVEN:
        given_file(manifest.given, name)


def _is_damaged(entry: Mapping[str, Any], damaged: AbstractSet[str]) -> bool:
    return any(f"{entry['folder']}/{name}" in damaged for name in entry["files"])


def _regions(
    path: Path, entry: Mapping[str, Any], images: Sequence[Image], damaged: AbstractSet[str], ids: AbstractSet[int]
) -> dict[int, int]:
    """Return id -> number of regions of the photos of a segment that have one of some ids."""
    if _is_damaged(entry, damaged):  # the numbers may be wrong, and only count until the retraining, which is next
        counts = [1] * len(images)
    else:
        counts = np.diff(npz.read_array(path / entry["folder"] / "offsets.npy")).tolist()
    return {image.id: count for image, count in zip(images, counts, strict=True) if image.id in ids}
