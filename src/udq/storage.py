"""The collection on disk: what its files are, and reading them; ``writer`` writes them.

    photos.udq/
      collection.json            manifest: format, version, configuration, checksums of every other file
      model-000001.npz           fully connected layers and quantizer
      backbone-000001.npz        convolutions, where they were trained too
      segments/000001/
        codes.npy                (G, M) uint8 where K = 256, else M*log2(K) bits a region, packed end to end
        boxes.npy                (G, 4) uint16: x1, y1, x2, y2 in pixels
        offsets.npy              (N+1,) int64: regions of image i are rows offsets[i] to offsets[i+1]
        images.json              names, folders and sizes of the N photos

Files are written once and never changed. What belongs to the collection is what the manifest names, and the
manifest is replaced in one atomic step: that is all that changing a collection has to do. The files that the manifest
before listed stay until the next change, for those who have the collection open.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq import archive
from udq.config import IndexConfig
from udq.errors import CollectionError, InputError
from udq.head import Arrays
from udq.model import Model
from udq.types import Codes

FORMAT = "udq-collection"
VERSION = 2
MANIFEST = "collection.json"
# Files outside the collection that it needs: name in the manifest -> what to call it.
GIVEN = {"weights": "weights", "rpn": "weights of the region proposal network"}
# Path and sha256 of one of them.
Fingerprint = dict[str, str]
_OWN = re.compile(r"(model|backbone)-\d{6}\.npz|segments/\d{6}/[a-z]+\.(npy|json)")
_SEGMENT_FILES = ("codes.npy", "boxes.npy", "offsets.npy", "images.json")


@dataclass(frozen=True)
class Image:
    """An indexed photo.

    Attributes:
        name: its name in the collection.
        root: the folder, absolute, that the name is relative to.
        width, height: pixels as a viewer shows it.
    """

    name: str
    root: str
    width: int
    height: int

    @property
    def path(self) -> Path:
        """Where the photo was when it was indexed."""
        return Path(self.root, self.name)


@dataclass(frozen=True)
class Segment:
    """Regions of some photos, in the order of image ids.

    Attributes:
        codes: (G, M) uint8 or uint16, memory-mapped where the disk holds them as they are.
        boxes: (G, 4) uint16, memory-mapped.
        offsets: (N+1,) int64.
        images: N photos.
    """

    codes: NDArray[np.uint8] | NDArray[np.uint16]
    boxes: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    images: tuple[Image, ...]


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
    def images(self) -> int:
        """N, photos that can be found."""
        return sum(segment["images"] for segment in self.document["segments"])

    @property
    def regions(self) -> int:
        """G, regions of all photos."""
        return sum(segment["regions"] for segment in self.document["segments"])


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest; raises CollectionError where ``path`` is not a collection this version reads."""
    file = path / MANIFEST
    if not path.exists():
        raise InputError(f"{path}: no such collection; build one with: udq index PHOTOS -o {path}")
    try:
        document = json.loads(file.read_bytes())
        named, version = document["format"] == FORMAT, int(document["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        damaged = isinstance(error, ValueError) and file.is_file()
        reason = f"its {MANIFEST} is damaged" if damaged else "not a udq collection"
        raise CollectionError(f"{path}: {reason}; expected a folder that 'udq index' made") from error
    if not named:
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made")
    if version > VERSION:
        raise CollectionError(
            f"{path}: format version {version} is newer than this udq reads ({VERSION}); upgrade udq to open it"
        )
    if version < VERSION:
        raise CollectionError(
            f"{path}: format version {version} is older than this udq reads ({VERSION}); build it again from its photos"
        )
    if document.get("sha256") != document_sum(document):
        raise CollectionError(f"{path}: its {MANIFEST} is damaged (checksum differs); restore it from a copy")
    return Manifest(document)


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
        return archive.from_bytes(data)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CollectionError(f"expected arrays of numbers, found: {error}") from error


def fingerprint(given: Path | None) -> Fingerprint | None:
    """Return path and sha256 of a file of weights, so that a search never runs with another network."""
    if given is None:
        return None
    with given.open("rb") as file:
        return {"path": str(given.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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


def read_segments(path: Path, manifest: Manifest, *, subspaces: int, codewords: int) -> Iterator[Segment]:
    """Open each segment; codes of 8 bits and boxes are memory-mapped, nothing else is large."""
    for entry in manifest.document["segments"]:
        folder = _inside(path, entry["folder"])
        for name in _SEGMENT_FILES:
            _check_size(folder / name, entry["files"][name]["bytes"])
        try:
            stored = np.load(folder / "codes.npy", mmap_mode="r", allow_pickle=False)
            boxes = np.load(folder / "boxes.npy", mmap_mode="r", allow_pickle=False)
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
            listed = json.loads((folder / "images.json").read_bytes())
            images = tuple(
                Image(name, root, *size)
                for name, root, size in zip(listed["names"], listed["roots"], listed["sizes"], strict=True)
            )
            codes = unpack(stored, entry["regions"], subspaces=subspaces, codewords=codewords)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CollectionError(f"{folder}: damaged ({error}); restore it from a copy") from error
        if not (
            len(offsets) == len(images) + 1 == entry["images"] + 1
            and offsets[0] == 0
            and offsets[-1] == len(codes) == len(boxes)
            and (np.diff(offsets) >= 1).all()
        ):
            raise CollectionError(f"{folder}: damaged (its files disagree about the number of regions)")
        yield Segment(codes, boxes, offsets, images)


def damaged(path: Path, manifest: Manifest) -> list[str]:
    """Read every byte and return the files whose size or checksum is not what the manifest says."""
    found = []
    for name, facts in _facts(manifest.document).items():
        with contextlib.suppress(OSError), _inside(path, name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]:
                continue
        found.append(name)
    return found


def numbered(kind: str, number: int) -> str:
    """Return the name of the ``number``-th ``model`` or ``backbone`` file, or folder of ``segments``."""
    return f"segments/{number:06d}" if kind == "segments" else f"{kind}-{number:06d}.npz"


def next_number(document: Mapping[str, Any], kind: str) -> int:
    """Return the first number that no ``model``, ``backbone`` or ``segments`` of a manifest has."""
    names = (name for name in _facts(document) if name.startswith(kind))
    return 1 + max((int("".join(filter(str.isdigit, name))) for name in names), default=0)


def own_files(path: Path) -> list[str]:
    """Return the names of files in a collection's folder that are of a collection, whether a manifest lists them."""
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [name for name in found if _OWN.fullmatch(name)]


def files_of(manifest: Manifest) -> list[str]:
    """Return the names of all files but the manifest."""
    return list(sizes_of(manifest.document))


def sizes_of(document: Mapping[str, Any]) -> dict[str, int]:
    """Return name and bytes of the files that a manifest, or one in the making, lists."""
    return {name: facts["bytes"] for name, facts in _facts(document).items()}


def _facts(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and checksum of each file that a manifest lists."""
    found = {entry["file"]: entry for entry in (document["model"], document.get("backbone")) if entry}
    for segment in document["segments"]:
        found |= {f"{segment['folder']}/{name}": facts for name, facts in segment["files"].items()}
    return found


def pack(codes: Codes) -> NDArray[np.uint8]:
    """Return codes as the disk holds them: as they are at 8 bits a subspace, else as one run of bits."""
    bits = (codes.codewords - 1).bit_length()
    if bits == 8:
        return codes.values.astype(np.uint8)
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits(((codes.values[..., None].astype(np.uint16) >> places) & 1).astype(np.uint8))


def unpack(
    stored: NDArray[np.uint8], regions: int, *, subspaces: int, codewords: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return (G, M) codes from what ``pack`` returned; raises ValueError where their number differs."""
    bits = (codewords - 1).bit_length()
    if bits == 8:
        if stored.shape != (regions, subspaces) or stored.dtype != np.uint8:
            raise ValueError(f"expected codes of shape {(regions, subspaces)}, found {stored.shape}")
        return stored
    wanted = regions * subspaces * bits
    if stored.dtype != np.uint8 or stored.shape != (-(-wanted // 8),):
        raise ValueError(f"expected {-(-wanted // 8)} bytes of packed codes, found {stored.shape}")
    unpacked = np.unpackbits(stored, count=wanted).reshape(regions, subspaces, bits)
    places = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    values: NDArray[np.uint16] = unpacked @ places
    return values.astype(np.uint8) if codewords <= 256 else values


def document_sum(document: Mapping[str, Any]) -> str:
    """Return the checksum of everything in a manifest but the checksum."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return checksum(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode())


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a whole file and compare its checksum."""
    file = _inside(path, entry["file"])
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CollectionError(f"{file}: cannot be read ({error.strerror}); restore it from a copy") from error
    if checksum(data) != entry["sha256"]:
        raise CollectionError(f"{file}: damaged (checksum differs); restore it from a copy")
    return data


def _inside(path: Path, name: str) -> Path:
    """Join a name from the manifest, which must not lead out of the collection."""
    if not (_OWN.fullmatch(name) or re.fullmatch(r"segments/\d{6}", name)):
        raise CollectionError(f"{path}: its {MANIFEST} names '{name}', which is no file of a collection")
    return path / name


def _check_size(file: Path, expected: int) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != expected:
        state = "missing" if found is None else f"{found} bytes long, expected {expected}"
        raise CollectionError(f"{file}: damaged ({state}); restore it from a copy")
