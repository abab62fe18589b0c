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
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import Fingerprint, checksum, fingerprint
from udq.common.text import one_line
from udq.config import IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.photos.listing import PassedOver
from udq.quantization.model import Model
from udq.store import schema
from udq.types import Arrays

FORMAT = "udq-collection"
VERSION = 3
# Format 2 has no photo ids, no removed photos, and no facts of the photos' files.
_OLDEST = 2
MANIFEST = "collection.json"
COPY = "collection.copy.json"
REMEDY = "restore it from a copy, or run 'udq verify --repair'"
# Files outside the collection that it needs: key in the manifest -> its name in messages.
GIVEN = {"weights": "weights", "rpn": "weights of the region proposal network"}
_SUFFIX = {"removed": "npy"}
_FOLDER = schema.NAMES["segments"]
_OWN = re.compile(
    "|".join([*(schema.NAMES[kind] for kind in ("model", "backbone", "removed")), f"{_FOLDER}/{schema.SEGMENT_FILE}"])
)


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
        return IndexConfig().replace(self.document["config"])

    @property
    def given(self) -> dict[str, Fingerprint | None]:
        """The user's own files of ``weights`` and ``rpn``; None if the default ones are used."""
        return {name: self.document.get(name) for name in GIVEN}

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
            is damaged.
    """
    file = path / name
    if not path.exists():
        raise InputError(f"{path}: no such collection; build one with: udq index PHOTOS -o {path}")
    try:
        document = json.loads(file.read_bytes())
        version = document["version"] if document["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ValueError | RecursionError) and file.is_file():
            raise CollectionError(f"{path}: its {name} is damaged; {REMEDY}") from error
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made") from error
    if type(version) is not int:
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made")
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
        raise CollectionError(f"{path}: its {name} is damaged ({one_line(error)}); {REMEDY}") from error
    return manifest


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
    return Model.from_bytes(_read(path, manifest.document["model"]))


def read_backbone(path: Path, manifest: Manifest) -> Arrays:
    """Read the convolutions that were trained with the collection, by name; empty if they were not trained."""
    entry = manifest.document.get("backbone")
    return {} if entry is None else arrays_from(_read(path, entry))


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
    except OSError as error:
        raise CollectionError(
            f"{file}: the {GIVEN[name]} this collection was built with are gone; put the file back"
        ) from error
    if found is None or found["sha256"] != expected["sha256"]:
        raise CollectionError(f"{file}: not the {GIVEN[name]} this collection was built with (checksum differs)")
    return file


def read_removed(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Return the ids (n,) of photos that segments contain but that were removed, ascending."""
    entry = manifest.document.get("removed")
    if entry is None:
        return np.empty(0, np.int64)
    try:
        ids = npz.read_array(io.BytesIO(_read(path, entry)))
        if ids.dtype != np.int64 or ids.shape != (entry["images"],) or (np.diff(ids) < 1).any():
            raise ValueError(f"expected {entry['images']} ids in ascending order")
    except ValueError as error:
        raise CollectionError(f"{path / entry['file']}: damaged ({error}); {REMEDY}") from error
    return ids


def numbered(kind: str, number: int) -> str:
    """Return the name of the ``number``-th ``model``, ``backbone`` or ``removed`` file, or folder of ``segments``."""
    return f"segments/{number:06d}" if kind == "segments" else f"{kind}-{number:06d}.{_SUFFIX.get(kind, 'npz')}"


def next_number(path: Path, kind: str) -> int:
    """Return the first unused number for ``model``, ``backbone``, ``removed`` or ``segments`` in a folder."""
    names = (name for name in own_files(path) if name.startswith(kind))
    return 1 + max((int(re.findall(r"\d{6}", name)[0]) for name in names), default=0)


def own_files(path: Path) -> list[str]:
    """Return the files in a collection's folder that have names of a collection, listed in the manifest or not."""
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [name for name in found if _OWN.fullmatch(name)]


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


def _read(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a whole file and compare its checksum."""
    file = inside(path, entry["file"])
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CollectionError(f"{file}: damaged ({error.strerror}); {REMEDY}") from error
    if checksum(data) != entry["sha256"]:
        raise CollectionError(f"{file}: damaged (checksum differs); {REMEDY}")
    return data


def check(file: Path, facts: Mapping[str, Any]) -> None:
    """Read a whole file and compare its checksum; raises CollectionError if it differs."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CollectionError(f"{file}: damaged ({error.strerror}); {REMEDY}") from error
    if found != facts["sha256"]:
        raise CollectionError(f"{file}: damaged (checksum differs); {REMEDY}")


def inside(path: Path, name: str) -> Path:
    """Join a file or folder name of a manifest; raises CollectionError if it is not one of a collection."""
    if not (_OWN.fullmatch(name) or re.fullmatch(_FOLDER, name)):
        raise CollectionError(f"{path}: its {MANIFEST} lists '{name}', which is not a file of a collection")
    return path / name


def now() -> str:
    """Return the current time as the manifest stores it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
