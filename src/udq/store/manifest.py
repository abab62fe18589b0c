"""The files of a collection on disk, and how all but the segments are read.

    photos.udq/
      collection.json            manifest: format, version, configuration, checksums of every other file
      collection.copy.json       a copy of the manifest, for ``udq verify --repair``
      model-000001.npz           fully connected layers and quantizer
      backbone-000001.npz        convolutions, if they were trained too
      removed-000001.npy         (n,) int64: ids of photos that segments contain but that were removed
      lock                       empty; locked by the process that changes the collection
      owner.json                 that process, while it holds the lock
      segments/000001/
        codes.npy                (G, M) uint8 if K = 256, else M*log2(K) bits per region, packed end to end
        boxes.npy                (G, 4) uint16: x1, y1, x2, y2 in pixels
        offsets.npy              (N+1,) int64: regions of image i are rows offsets[i] to offsets[i+1]
        photos.npy               (N,) records: id; size, time and digest of the photo's file; quantization error
        images.json              names, folders and sizes of the N photos

Files are written once and never changed. The collection consists of the files that the manifest lists, and changing
it means replacing the manifest in one atomic step. Files that only the previous manifest lists stay until the next
change, for readers that have the collection open.

A collection contains no links, because a change would write through them. Its own folder may be reached by a link.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import MAX_JSON, Fingerprint, checksum, fingerprint, read_regular
from udq.common.files import reason as reason_of
from udq.common.lock import LOCK, OWNER
from udq.common.text import one_line, shown
from udq.config import IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.photos.listing import PassedOver
from udq.quantization.model import Model
from udq.store import schema
from udq.store.layout import COPY, MANIFEST, DamagedError, damaged, raise_refusal, read_listed, refuse_links
from udq.types import Arrays

FORMAT = "udq-collection"
VERSION = 3
# Format 2 has no photo ids, no removed photos, and no facts of the photos' files.
_OLDEST = 2
# Settings that older collections do not list, as they were then.
_BEFORE: Mapping[str, Mapping[str, object]] = {
    "images": {"smallest": 0.0, "query_views": 0},
    "keypoints": {"most": 0},
    "training": {"verified": False},
}
# Files and folders that no manifest lists.
_UNLISTED = (MANIFEST, COPY, LOCK, OWNER, "segments")
# Files outside the collection that it needs: key in the manifest -> its name in messages.
GIVEN = {"weights": "weights", "rpn": "weights of the region proposal network"}


class UnreadablePhoto(TypedDict):
    """A photo that could not be read, as the manifest lists it.

    Attributes:
        image: its name in the collection.
        reason: why it could not be read, in one line.
        root: the absolute folder that the name is relative to; older versions did not store it.
    """

    image: str
    reason: str
    root: NotRequired[str]


@dataclass(frozen=True)
class Manifest:
    """The contents of a collection: the parsed ``collection.json``."""

    document: dict[str, Any]

    @property
    def config(self) -> IndexConfig:
        """The settings that the collection was built with."""
        return IndexConfig().replace(_BEFORE).replace(self.document["config"])

    @property
    def given(self) -> dict[str, Fingerprint | None]:
        """The user's own files of ``weights`` and ``rpn``; None if the default ones are used."""
        return {name: self.document.get(name) for name in GIVEN}

    @property
    def training(self) -> dict[str, Any] | None:
        """The history of training, JSON-serialisable; None without training, or if it cannot be read."""
        return schema.history(self.document["training"])

    @property
    def broken(self) -> list[UnreadablePhoto]:
        """Photos that could not be read."""
        broken: list[UnreadablePhoto] = self.document["broken"]
        return broken

    @property
    def exclude(self) -> tuple[str, ...]:
        """The user's patterns of folders and photos that are not indexed."""
        return tuple(self.document.get("exclude", ()))

    @property
    def passed_over(self) -> PassedOver:
        """Counts of what was not indexed in the folders given last."""
        return PassedOver.of(self.document)

    @property
    def segments(self) -> list[dict[str, Any]]:
        """The entry of each segment: ``folder``, numbers of ``images`` and ``regions``, ``files``."""
        segments: list[dict[str, Any]] = self.document["segments"]
        return segments

    @property
    def removed(self) -> dict[str, int]:
        """Numbers of ``images`` and ``regions`` that segments contain but that were removed."""
        entry = self.document.get("removed") or {"images": 0, "regions": 0}
        return {of: entry[of] for of in ("images", "regions")}

    @property
    def images(self) -> int:
        """N, the number of photos that can be found."""
        return int(sum(segment["images"] for segment in self.segments)) - self.removed["images"]

    @property
    def points(self) -> int:
        """Number of local features in all segments, those of removed photos included."""
        return sum(entry.get("points", 0) for entry in self.segments)

    @property
    def regions(self) -> int:
        """G, the number of regions of these photos."""
        return int(sum(segment["regions"] for segment in self.segments)) - self.removed["regions"]

    @property
    def next_id(self) -> int:
        """The id of the next photo that is added."""
        return int(self.document.get("next_id", self.images))

    @property
    def fitted_before(self) -> int:
        """Photos with lower ids were in the collection when its model was fitted."""
        return int(self.document.get("fitted_before", self.next_id))


def read_manifest(path: Path, name: str = MANIFEST) -> Manifest:
    """Read and check the manifest.

    Args:
        path: the collection.
        name: ``MANIFEST``, or ``COPY`` for its copy.

    Raises:
        InputError: nothing is at ``path``.
        CollectionError: ``path`` is not a collection, is one of a version that this udq does not read, or its manifest
            is damaged; or the collection contains a link.
    """
    if not path.exists():
        raise InputError(f"{path}: no such collection; build one with: udq index PHOTOS -o {path}")
    refuse_links(path, _UNLISTED)
    document = _read_document(path, name)
    version = document["version"]
    if version > VERSION:
        raise CollectionError(
            f"{path}: format version {version} is newer than this udq reads ({VERSION}); upgrade udq to open it"
        )
    if version < _OLDEST:
        raise CollectionError(
            f"{path}: format version {version} is older than this udq reads ({_OLDEST}); build it again from its photos"
        )
    try:
        if document.get("sha256") != document_sum(document):
            raise ValueError("checksum differs")
        schema.check(document)
        manifest = Manifest(document)
        if min(manifest.images, manifest.regions) < 0:
            raise ValueError("negative photo count")
    except (ValueError, RecursionError, UdqError) as error:
        raise DamagedError(path / name, one_line(error)) from error
    refuse_links(path, [*(entry["folder"] for entry in manifest.segments), *files_of(manifest)])
    return manifest


def _read_document(path: Path, name: str) -> dict[str, Any]:
    """Read a manifest, of which only ``format`` and the type of ``version`` are checked."""
    file = path / name
    try:
        document: dict[str, Any] = json.loads(read_regular(file, limit=MAX_JSON))
        if document["format"] == FORMAT and type(document["version"]) is int:
            return document
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise_refusal(file, error)
        if isinstance(error, ValueError | RecursionError) and file.exists():
            raise DamagedError(file, one_line(error)) from error
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made") from error
    raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made")


def expect_readable(path: Path, manifest: Manifest) -> bytes:
    """Return the bytes of a manifest that is about to be written to ``path``.

    Raises:
        CollectionError: the collection could not be opened afterwards.
    """
    try:
        schema.check(manifest.document)
        data = dump(manifest.document)
        if len(data) > MAX_JSON:
            raise ValueError(f"{len(data):,} bytes, more than {MAX_JSON:,}")
    except (ValueError, UdqError) as error:
        raise CollectionError(
            f"{path}: not changed, because the result could not be opened: {MANIFEST} would be invalid "
            f"({one_line(error)})"
        ) from error
    return data


def numbered_photos(manifest: Manifest) -> Manifest:
    """Return a manifest with the ids of photos of format 2, which are their places, so that changes keep them."""
    first, entries = 0, []
    for entry in manifest.segments:
        known = "photos.npy" in entry["files"] or "first_id" in entry
        entries.append(entry if known else {**entry, "first_id": first})
        first += entry["images"]
    return Manifest({**manifest.document, "segments": entries})


def read_model(path: Path, manifest: Manifest) -> Model:
    """Read the model and compare its checksum."""
    entry = manifest.document["model"]
    data = read_listed(path, entry)
    try:
        return Model.from_bytes(data)
    except CollectionError as error:
        raise damaged(path / entry["file"], error) from error


def read_backbone(path: Path, manifest: Manifest) -> Arrays:
    """Read the convolutions that were trained with the collection, by name; empty if they were not trained."""
    entry = manifest.document.get("backbone")
    if entry is None:
        return {}
    data = read_listed(path, entry)
    try:
        return arrays_from(data)
    except CollectionError as error:
        raise damaged(path / entry["file"], error) from error


def arrays_from(data: bytes) -> Arrays:
    """Return the arrays of an .npz archive by name, never unpickled."""
    try:
        return npz.from_bytes(data)
    except ValueError as error:
        raise CollectionError(f"expected arrays of numbers, found: {error}") from error


def given_file(given: Mapping[str, Fingerprint | None], name: str) -> Path | None:
    """Return the user's own file of ``weights`` or ``rpn``, after comparing its checksum; None if it is not used."""
    expected = given[name]
    if expected is None:
        return None
    file = Path(expected["path"])
    try:
        found = fingerprint(file)
    except FileNotFoundError as error:
        raise CollectionError(
            f"{file}: the {GIVEN[name]} this collection was built with are gone; put the file back"
        ) from error
    except (OSError, ValueError) as error:  # also a name with a NUL
        raise CollectionError(
            f"{shown(str(file))}: cannot read the {GIVEN[name]} this collection was built with ({reason_of(error)}); "
            "put the file back"
        ) from error
    if found is None or found["sha256"] != expected["sha256"]:
        raise CollectionError(f"{file}: not the {GIVEN[name]} this collection was built with (checksum differs)")
    return file


def read_removed(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Return the ids (n,) of photos that segments contain but that were removed, ascending."""
    entry = manifest.document.get("removed")
    if entry is None:
        return np.empty(0, np.int64)
    data = read_listed(path, entry)
    try:
        ids = npz.read_array(io.BytesIO(data))
        if ids.dtype != np.int64 or ids.shape != (entry["images"],) or (np.diff(ids) < 1).any():
            raise ValueError(f"expected {entry['images']} ids in ascending order")
    except ValueError as error:
        raise damaged(path / entry["file"], error) from error
    return ids


def listed(path: Path) -> set[str]:
    """Return the names that the manifest on the disk and its copy list; none of those that cannot be read."""
    names: set[str] = set()
    for name in (MANIFEST, COPY):
        with contextlib.suppress(UdqError):
            names.update(files_of(read_manifest(path, name)))
    return names


def files_of(manifest: Manifest) -> list[str]:
    """Return the names of all files that a manifest lists."""
    return list(sizes_of(manifest.document))


def sizes_of(document: Mapping[str, Any]) -> dict[str, int]:
    """Return name and bytes of the files that a manifest, or the journal of a build, lists."""
    return {name: facts["bytes"] for name, facts in facts_of(document).items()}


def facts_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return size and checksum of each file that a manifest or a journal lists, by name."""
    found = {entry["file"]: entry for entry in map(document.get, ("model", "backbone", "removed")) if entry}
    for segment in document["segments"]:
        found |= {f"{segment['folder']}/{name}": facts for name, facts in segment["files"].items()}
    return found


def document_sum(document: Mapping[str, Any]) -> str:
    """Return the checksum of a manifest without its own ``sha256``."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return checksum(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def dump(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest."""
    # Format 2 does not escape names. Escaped, a name that is not valid Unicode can be stored too.
    return json.dumps(document, indent=1, ensure_ascii=document["version"] > 2).encode()


def now() -> str:
    """Return the current time as the manifest stores it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
