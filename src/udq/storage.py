"""The collection on disk: the only module that knows its file names.

    photos.udq/
      collection.json            manifest: format, version, configuration, checksums of every other file
      model-000001.npz           fully connected layers and quantizer
      segments/000001/
        codes.npy                (G, M) uint8 where K = 256, else M*log2(K) bits a region, packed end to end
        boxes.npy                (G, 4) uint16: x1, y1, x2, y2 in pixels
        offsets.npy              (N+1,) int64: regions of image i are rows offsets[i] to offsets[i+1]
        images.json              names, folders and sizes of the N photos

Files are written once and never changed. What belongs to the collection is what the manifest names, and the
manifest is replaced in one atomic step: that is all a later add, remove or retrain has to do. A build happens
in a hidden folder beside its destination and is renamed into place when whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq import __version__
from udq.config import IndexConfig
from udq.errors import CollectionError, InputError, UdqError
from udq.model import Model
from udq.types import Codes, Regions

FORMAT = "udq-collection"
VERSION = 1
_MANIFEST = "collection.json"
_MODEL = "model-000001.npz"
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
    def weights(self) -> dict[str, str] | None:
        """Path and sha256 of the user's own weights file, or None for the backbone's usual ones."""
        weights: dict[str, str] | None = self.document["weights"]
        return weights

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


class Writer:
    """A collection being built: segments are appended, then the whole appears at once.

    Use as a context manager: leaving it before ``commit``, by an error or Ctrl-C, removes what was written.
    """

    def __init__(self, path: Path) -> None:
        """Prepare to build at ``path``; raises InputError where something is already there."""
        if path.exists() or path.is_symlink():
            raise InputError(f"{path}: already exists; choose another name, or delete it first")
        self._path = path.resolve()
        _sweep(self._path)
        self._partial = self._path.with_name(f".{self._path.name}.partial-{os.getpid()}")
        self._segments: list[dict[str, Any]] = []
        self._model: dict[str, Any] = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            (self._partial / "segments").mkdir(parents=True)
        except OSError as error:
            raise UdqError(
                f"{path}: cannot create a collection here ({error.strerror}); choose another place"
            ) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """Return a path for a temporary file of the build, gone when the build ends."""
        return self._partial / f"scratch-{name}"

    def put_model(self, model: Model) -> None:
        """Write the model that encodes regions and queries."""
        self._model = {
            "file": _MODEL,
            "origin": model.origin,
            **_write(self._partial / _MODEL, model.to_bytes()),
        }

    def put_segment(self, codes: Codes, regions: Regions, counts: Sequence[int], images: Sequence[Image]) -> None:
        """Append photos: ``counts[i]`` >= 1 consecutive regions belong to ``images[i]``."""
        folder = self._partial / "segments" / f"{len(self._segments) + 1:06d}"
        folder.mkdir()
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        listed = {
            "names": [image.name for image in images],
            "roots": [image.root for image in images],
            "sizes": [[image.width, image.height] for image in images],
        }
        files = {
            "codes.npy": _npy(pack(codes)),
            "boxes.npy": _npy(_whole_pixels(regions)),
            "offsets.npy": _npy(offsets),
            "images.json": json.dumps(listed, ensure_ascii=False).encode(),
        }
        self._segments.append(
            {
                "folder": f"segments/{folder.name}",
                "images": len(images),
                "regions": len(codes),
                "files": {name: _write(folder / name, data) for name, data in files.items()},
            }
        )

    def commit(
        self,
        config: IndexConfig,
        *,
        weights: dict[str, str] | None,
        training: dict[str, Any] | None = None,
        broken: Sequence[dict[str, str]],
        passed_over: int = 0,
    ) -> None:
        """Write the manifest and put the collection in its place."""
        for scratch in self._partial.glob("scratch-*"):
            scratch.unlink()
        document = {
            "format": FORMAT,
            "version": VERSION,
            "udq": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config.to_dict(),
            "weights": weights,
            "model": self._model,
            "training": training,
            "segments": self._segments,
            "broken": list(broken),
            "passed_over": passed_over,
        }
        document["sha256"] = _document_sum(document)
        _write(self._partial / _MANIFEST, json.dumps(document, indent=1, ensure_ascii=False).encode())
        for folder in (self._partial, *self._partial.glob("segments/*"), self._partial / "segments"):
            _sync_folder(folder)
        try:
            self._partial.rename(self._path)
        except OSError as error:
            raise UdqError(f"{self._path}: cannot put the collection in place ({error.strerror})") from error
        _sync_folder(self._path.parent)


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest; raises CollectionError where ``path`` is not a collection this version reads."""
    file = path / _MANIFEST
    if not path.exists():
        raise InputError(f"{path}: no such collection; build one with: udq index PHOTOS -o {path}")
    try:
        document = json.loads(file.read_bytes())
        named, version = document["format"] == FORMAT, int(document["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        damaged = isinstance(error, ValueError) and file.is_file()
        reason = f"its {_MANIFEST} is damaged" if damaged else "not a udq collection"
        raise CollectionError(f"{path}: {reason}; expected a folder that 'udq index' made") from error
    if not named:
        raise CollectionError(f"{path}: not a udq collection; expected a folder that 'udq index' made")
    if version > VERSION:
        raise CollectionError(
            f"{path}: format version {version} is newer than this udq reads ({VERSION}); upgrade udq to open it"
        )
    if document.get("sha256") != _document_sum(document):
        raise CollectionError(f"{path}: its {_MANIFEST} is damaged (checksum differs); restore it from a copy")
    return Manifest(document)


def read_model(path: Path, manifest: Manifest) -> Model:
    """Read the model, checksum and all."""
    entry = manifest.document["model"]
    file = _inside(path, entry["file"])
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CollectionError(f"{file}: cannot be read ({error.strerror}); restore it from a copy") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CollectionError(f"{file}: damaged (checksum differs); restore it from a copy")
    return Model.from_bytes(data)


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
    entry = manifest.document["model"]
    expected = {entry["file"]: entry}
    for segment in manifest.document["segments"]:
        expected |= {f"{segment['folder']}/{name}": facts for name, facts in segment["files"].items()}
    found = []
    for name, facts in expected.items():
        with contextlib.suppress(OSError), _inside(path, name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]:
                continue
        found.append(name)
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


def _whole_pixels(regions: Regions) -> NDArray[np.uint16]:
    """Round boxes outwards, so that not even a tiny photo's smallest window becomes empty."""
    noise = 1e-3
    low, high = np.floor(regions.boxes[:, :2] + noise), np.ceil(regions.boxes[:, 2:] - noise)
    return np.concatenate([low, high], axis=1).astype(np.uint16)


def _sweep(path: Path) -> None:
    """Remove what builds of this destination left behind that were killed outright."""
    for left in path.parent.glob(f".{path.name}.partial-*"):
        owner = re.fullmatch(r".*\.partial-(\d+)", left.name)
        if owner and not _alive(int(owner[1])):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _npy(array: NDArray[Any]) -> bytes:

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write a new file, to the disk itself, and return its size and checksum."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UdqError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _document_sum(document: dict[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _inside(path: Path, name: str) -> Path:
    """Join a name from the manifest, which must not lead out of the collection."""
    if not re.fullmatch(r"model-\d{6}\.npz|segments/\d{6}(/[a-z]+\.(npy|json))?", name):
        raise CollectionError(f"{path}: its {_MANIFEST} names '{name}', which is no file of a collection")
    return path / name


def _check_size(file: Path, expected: int) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != expected:
        state = "missing" if found is None else f"{found} bytes long, expected {expected}"
        raise CollectionError(f"{file}: damaged ({state}); restore it from a copy")
