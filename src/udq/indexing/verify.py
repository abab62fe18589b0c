"""Compare every file of a collection with its checksum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from udq.errors import CollectionError
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.manifest import COPY, MANIFEST, Manifest, read_manifest

MODEL_FILES = ("model", "backbone")
"""Prefixes of the files that encode photos: if one of them is damaged, the collection must be retrained."""


@dataclass(frozen=True)
class Damage:
    """A file that is missing or differs from its checksum.

    Attributes:
        file: its name in the collection.
        affects: what depends on it, for messages.
        images: names of the photos whose regions it contains; empty if it concerns all photos or the names are lost.
    """

    file: str
    affects: str
    images: tuple[str, ...] = ()


def verify(path: Path) -> list[Damage]:
    """Read every byte of a collection and return the damaged files.

    Raises:
        InputError: nothing is at ``path``.
        CollectionError: it is not a collection, or one of a format version that this udq does not read.
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
    except CollectionError:
        try:
            copy = read_manifest(path, COPY)
        except CollectionError:
            copy = None
        if copy is None:
            raise
        return copy, [Damage(MANIFEST, "the whole collection; its copy is intact")]
    damage = []
    if (path / MANIFEST).read_bytes() != manifests.dump(manifest.document):
        damage.append(Damage(MANIFEST, "nothing: its contents are intact"))
    if manifest.document["version"] > 2 and not _is_copy_intact(path):  # format 2 has no copy
        damage.append(Damage(COPY, "nothing as long as the manifest itself is intact"))
    return manifest, damage


def _is_copy_intact(path: Path) -> bool:
    try:
        return (path / COPY).read_bytes() == manifests.dump(read_manifest(path, COPY).document)
    except (CollectionError, OSError):
        return False


def damaged_files(path: Path, manifest: Manifest) -> list[Damage]:
    """Compare the files that a manifest lists with their checksums, and return the damaged ones."""
    damage = []
    for name, facts in manifests.facts_of(manifest.document).items():
        try:
            manifests.check(manifests.inside(path, name), facts)
        except CollectionError:
            damage.append(_damage(path, manifest, name))
    return damage


def _damage(path: Path, manifest: Manifest, name: str) -> Damage:
    if name.startswith(MODEL_FILES):
        return Damage(name, "every search and every photo: the collection must be retrained")
    if name.startswith("removed"):
        return Damage(name, f"which {manifest.removed['images']} photos were removed")
    place = next(i for i, entry in enumerate(manifest.segments) if name.startswith(entry["folder"] + "/"))
    count = manifest.segments[place]["images"]
    names = _names(path, manifest, place)
    if not names:
        return Damage(name, f"{count} photos whose names are lost")
    return Damage(name, f"{count} photos, '{names[0]}' first", names)


def _names(path: Path, manifest: Manifest, place: int) -> tuple[str, ...]:
    """Return the names of the photos of a segment, removed photos included; empty if they are lost."""
    try:
        return tuple(source.name for source in segments.read_sources(path, manifest, place))
    except CollectionError:
        return ()
