"""The collection on disk: what its files are, and reading all but the segments.

    photos.udq/
      collection.json            manifest: format, version, configuration, checksums of every other file
      collection.copy.json       the same once more, for ``udq verify --repair``
      model-000001.npz           fully connected layers and quantizer
      backbone-000001.npz        convolutions, where they were trained too
      removed-000001.npy         (n,) int64: ids of photos that segments hold and the collection does not
      lock                       empty; held by whoever changes the collection, whom owner.json names meanwhile
      segments/000001/
        codes.npy                (G, M) uint8 where K = 256, else M*log2(K) bits a region, packed end to end
        boxes.npy                (G, 4) uint16: x1, y1, x2, y2 in pixels
        offsets.npy              (N+1,) int64: regions of image i are rows offsets[i] to offsets[i+1]
        photos.npy               (N,) records: id, and size, time and digest of the photo's file, quantization error
        images.json              names, folders and sizes of the N photos

Files are written once and never changed. What belongs to the collection is what the manifest names, and the
manifest is replaced in one atomic step: that is all that changing a collection has to do. The files that the manifest
before listed stay until the next change, for those who have the collection open.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import Fingerprint, checksum, fingerprint
from udq.common.text import one_line
from udq.config import IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.quantization.model import Model
from udq.types import Arrays

FORMAT = "udq-collection"
VERSION = 3
# Format 2 had no ids of photos, no removed ones, and knew nothing of the photos' files.
_OLDEST = 2
MANIFEST = "collection.json"
COPY = "collection.copy.json"
REMEDY = "restore it from a copy, or run 'udq verify --repair'"
# Files outside the collection that it needs: name in the manifest -> what to call it.
GIVEN = {"weights": "weights", "rpn": "weights of the region proposal network"}
_SUFFIX = {"removed": "npy"}
_OWN = re.compile(r"(model|backbone)-\d{6}\.npz|removed-\d{6}\.npy|segments/\d{6}/[a-z]+\.(npy|json)")


@dataclass(frozen=True)
class Manifest:
    """What a collection holds; the parsed ``collection.json``."""

    document: dict[str, Any]

    @property
    def config(self) -> IndexConfig:
        """What the collection was built with."""
        return IndexConfig().replace(self.document["config"])

    @property
    def given(self) -> dict[str, Fingerprint | None]:
        """The user's own files of ``weights`` and ``rpn``; None where the usual ones serve."""
        return {name: self.document.get(name) for name in GIVEN}

    @property
    def broken(self) -> list[dict[str, str]]:
        """Photos that could not be read: ``image`` and ``reason``."""
        broken: list[dict[str, str]] = self.document["broken"]
        return broken

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Folder, numbers of ``images`` and ``regions``, and files of each segment."""
        segments: list[dict[str, Any]] = self.document["segments"]
        return segments

    @property
    def removed(self) -> dict[str, int]:
        """Numbers of ``images`` and ``regions`` that segments hold and the collection does not."""
        entry = self.document.get("removed") or {"images": 0, "regions": 0}
        return {of: entry[of] for of in ("images", "regions")}

    @property
    def images(self) -> int:
        """N, photos that can be found."""
        return int(sum(segment["images"] for segment in self.segments)) - self.removed["images"]

    @property
    def regions(self) -> int:
        """G, regions of all photos."""
        return int(sum(segment["regions"] for segment in self.segments)) - self.removed["regions"]

    @property
    def next_id(self) -> int:
        """The id of the next photo to come."""
        return int(self.document.get("next_id", self.images))

    @property
    def fitted_before(self) -> int:
        """Photos of lower ids were of the collection when its model was fitted."""
        return int(self.document.get("fitted_before", self.next_id))


def read_manifest(path: Path, name: str = MANIFEST) -> Manifest:
    """Read and check the manifest; raises CollectionError where ``path`` is not a collection this version reads.

    Args:
        path: the collection.
        name: the manifest's, or its copy's.
    """
    file = path / name
    if not path.exists():
        raise InputError(f"{path}: no such collection; build one with: udq index PHOTOS -o {path}")
    try:
        document = json.loads(file.read_bytes())
        named, version = document["format"] == FORMAT, _whole(document["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ValueError | RecursionError) and file.is_file():
            raise CollectionError(f"{path}: its {name} is damaged; {REMEDY}") from error
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made") from error
    if not named:
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
        same = document.get("sha256") == document_sum(document)
        if same:
            _expect_whole(document)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UdqError) as error:
        raise CollectionError(f"{path}: its {name} is damaged ({one_line(error)}); {REMEDY}") from error
    if not same:
        raise CollectionError(f"{path}: its {name} is damaged (checksum differs); {REMEDY}")
    return Manifest(document)


def _expect_whole(document: dict[str, Any]) -> None:
    """Go through what a manifest must have; raises what Python raises where something is missing or something else."""
    manifest = Manifest(document)
    _ = manifest.config
    for given in manifest.given.values():
        if given is not None:
            _ = _text(given["path"]), _text(given["sha256"])
    if not isinstance(document["training"], dict | None):
        raise TypeError(f"expected facts of training, found {document['training']!r:.40}")
    for text in (document["udq"], document["created"], document["model"]["origin"]):
        _text(text)
    for entry in manifest.broken:
        _ = _text(entry["image"]), _text(entry["reason"])
    for kind in ("model", "backbone", "removed"):
        listed = document.get(kind)
        if listed is not None and not re.fullmatch(rf"{kind}-\d{{6}}\.{_SUFFIX.get(kind, 'npz')}", listed["file"]):
            raise ValueError(f"'{listed['file']}' is no file of a collection")
    for segment in manifest.segments:
        if not re.fullmatch(r"segments/\d{6}", segment["folder"]):
            raise ValueError(f"'{segment['folder']}' is no file of a collection")
        _ = [segment["files"][name] for name in ("codes.npy", "boxes.npy", "offsets.npy", "images.json")]
    for name, facts in facts_of(document).items():
        inside(Path(), name)
        _ = _whole(facts["bytes"]), _text(facts["sha256"])
    numbers = [document["passed_over"], *manifest.removed.values()]
    numbers += [document[name] for name in ("next_id", "fitted_before") if name in document]
    numbers += [segment[of] for segment in manifest.segments for of in ("images", "regions")]
    numbers += [segment["first_id"] for segment in manifest.segments if "first_id" in segment]
    if min(*map(_whole, numbers), manifest.images, manifest.regions) < 0:
        raise ValueError("fewer than no photos")


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) >= 2**63:
        raise TypeError(f"expected a whole number, found {value!r:.40}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r:.40}")
    return value


def numbered_photos(manifest: Manifest) -> Manifest:
    """Return a manifest that says ids of photos of format 2, which were their places, so that they outlive changes."""
    first, entries = 0, []
    for entry in manifest.segments:
        known = "photos.npy" in entry["files"] or "first_id" in entry
        entries.append(entry if known else {**entry, "first_id": first})
        first += entry["images"]
    return Manifest({**manifest.document, "segments": entries})


def read_model(path: Path, manifest: Manifest) -> Model:
    """Read the model, checksum and all."""
    return Model.from_bytes(_read(path, manifest.document["model"]))


def read_backbone(path: Path, manifest: Manifest) -> Arrays:
    """Read the convolutions that were trained with the collection, by name; empty where they are the usual ones."""
    entry = manifest.document.get("backbone")
    return {} if entry is None else arrays_from(_read(path, entry))


def arrays_from(data: bytes) -> Arrays:
    """Return the arrays of an .npz archive by name, never unpickled."""
    try:
        return npz.from_bytes(data)
    except ValueError as error:
        raise CollectionError(f"expected arrays of numbers, found: {error}") from error


def given_file(given: Mapping[str, Fingerprint | None], name: str) -> Path | None:
    """Return the user's own file of ``weights`` or ``rpn``, after comparing its checksum; None where there is none."""
    wanted = given[name]
    if wanted is None:
        return None
    file = Path(wanted["path"])
    try:
        found = fingerprint(file)
    except OSError as error:
        raise CollectionError(
            f"{file}: the {GIVEN[name]} this collection was built with are gone; put the file back"
        ) from error
    if found is None or found["sha256"] != wanted["sha256"]:
        raise CollectionError(f"{file}: not the {GIVEN[name]} this collection was built with (checksum differs)")
    return file


def read_removed(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Return the ids (n,) of photos that segments hold and that are not of the collection any more, ascending."""
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
    """Return the first number that no ``model``, ``backbone``, ``removed`` or ``segments`` in a folder has."""
    names = (name for name in own_files(path) if name.startswith(kind))
    return 1 + max((int(re.findall(r"\d{6}", name)[0]) for name in names), default=0)


def own_files(path: Path) -> list[str]:
    """Return the names of files in a collection's folder that are of a collection, whether a manifest lists them."""
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [name for name in found if _OWN.fullmatch(name)]


def files_of(manifest: Manifest) -> list[str]:
    """Return the names of all files but the manifest."""
    return list(sizes_of(manifest.document))


def sizes_of(document: Mapping[str, Any]) -> dict[str, int]:
    """Return name and bytes of the files that a manifest, or one in the making, lists."""
    return {name: facts["bytes"] for name, facts in facts_of(document).items()}


def facts_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and checksum of each file that a manifest lists."""
    found = {entry["file"]: entry for entry in map(document.get, ("model", "backbone", "removed")) if entry}
    for segment in document["segments"]:
        found |= {f"{segment['folder']}/{name}": facts for name, facts in segment["files"].items()}
    return found


def document_sum(document: Mapping[str, Any]) -> str:
    """Return the checksum of everything in a manifest but the checksum."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return checksum(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def dump(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest."""
    # Format 2 wrote names as they are; escaped, even one that is no Unicode can be said.
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
    """Read a whole file and compare its checksum; raises CollectionError where it differs."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CollectionError(f"{file}: damaged ({error.strerror}); {REMEDY}") from error
    if found != facts["sha256"]:
        raise CollectionError(f"{file}: damaged (checksum differs); {REMEDY}")


def inside(path: Path, name: str) -> Path:
    """Join a name from the manifest, which must not lead out of the collection."""
    if not (_OWN.fullmatch(name) or re.fullmatch(r"segments/\d{6}", name)):
        raise CollectionError(f"{path}: its {MANIFEST} names '{name}', which is no file of a collection")
    return path / name


pass


def now() -> str:
    """Return the time in the manifest's words."""
    return datetime.now(UTC).isoformat(timespec="seconds")
