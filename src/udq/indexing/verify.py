"""Whether a collection is as it was written, byte for byte; and making it whole again from its photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udq.errors import CollectionError
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.manifest import COPY, MANIFEST, Manifest

if TYPE_CHECKING:
    pass


MODEL_FILES = ("model", "backbone")


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


def verify(path: Path) -> list[Damage]:
    """Read every byte of a collection and return what is not as it was written.

    Raises:
        InputError: there is no such collection.
        CollectionError: it is none, or of another format version.
    """
    found = _look_over(path)
    # A writer may have put another state in its place meanwhile: damage is what is there twice.
    while found[1] and (again := _look_over(path)) != found:
        found = again
    return found[1]


def _look_over(path: Path) -> tuple[Manifest, list[Damage]]:
    manifest, damage = whole_manifest(path)
    return manifest, [*damage, *damaged_files(path, manifest)]


def whole_manifest(path: Path) -> tuple[Manifest, list[Damage]]:
    """Return the manifest, or its copy where it is damaged, and what is damaged of the two."""
    try:
        manifest = manifests.read_manifest(path)
    except CollectionError:
        try:
            copy = manifests.read_manifest(path, COPY)
        except CollectionError:
            copy = None
        if copy is None:
            raise
        return copy, [Damage(MANIFEST, "the whole collection; its copy is whole")]
    found = []
    raw = (path / MANIFEST).read_bytes()
    if raw != manifests.dump(manifest.document):
        found.append(Damage(MANIFEST, "nothing that it says"))
    if manifest.document["version"] > 2:  # which had no copy
        try:
            whole = (path / COPY).read_bytes() == manifests.dump(manifests.read_manifest(path, COPY).document)
        except (CollectionError, OSError):
            whole = False
        if not whole:
            found.append(Damage(COPY, "nothing as long as the manifest itself is whole"))
    return manifest, found


def damaged_files(path: Path, manifest: Manifest) -> list[Damage]:
    """Compare the files that a manifest names with their checksums."""
    found = []
    for name, facts in manifests.facts_of(manifest.document).items():
        try:
            manifests.check(manifests.inside(path, name), facts)
        except CollectionError:
            found.append(_damage(path, manifest, name))
    return found


def _damage(path: Path, manifest: Manifest, name: str) -> Damage:
    if name.startswith(MODEL_FILES):
        return Damage(name, "every search and every photo: the collection must be trained anew")
    if name.startswith("removed"):
        return Damage(name, f"which {manifest.removed['images']} photos were removed")
    place = next(i for i, entry in enumerate(manifest.segments) if name.startswith(entry["folder"] + "/"))
    photos = manifest.segments[place]["images"]
    names = _names(path, manifest, place)
    if not names:
        return Damage(name, f"{photos} photos whose names cannot be told from it")
    return Damage(name, f"{photos} photos, '{names[0]}' first", names)


def _names(path: Path, manifest: Manifest, place: int) -> tuple[str, ...]:
    """Return the names of the photos of a segment, removed ones too; none where they are lost."""
    try:
        return tuple(source.name for source in segments.read_sources(path, manifest, place))
    except CollectionError:
        return ()
