"""Segments: the codes and boxes of up to 4,096 photos each, in a folder of five files.

A segment is written once and never changed; the manifest lists the photos that were removed since. Reading a segment
compares every byte with its checksum, so that damage is an error and never a wrong result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import guarded, npy, sync_folder, write_new
from udq.common.text import one_line
from udq.errors import CollectionError
from udq.photos.indexed import IndexedFile
from udq.photos.source import Content, Source
from udq.store import manifest as manifests
from udq.store.manifest import Manifest
from udq.types import Codes

# Records of photos.npy: id; size, modification time and digest of the photo's file (size -1 if unknown); mean squared
# quantization error of its regions (nan if unknown).
PHOTO = np.dtype([("id", "<i8"), ("size", "<i8"), ("modified", "<i8"), ("digest", "V16"), ("error", "<f4")])
# Most photos per segment: about 400,000 regions, 7 MB of codes and boxes in memory until it is written.
PHOTOS = 4096
_READERS = 4  # threads that compute checksums


@dataclass(frozen=True)
class Image:
    """A photo of a collection.

    Attributes:
        name: its name in the collection.
        root: the absolute folder that the name is relative to.
        width, height: size in pixels as a viewer shows it.
        id: unique in the collection, never reused, and the same as long as the photo is in it.
    """

    name: str
    root: str
    width: int
    height: int
    id: int

    @property
    def path(self) -> Path:
        """Where the photo was when it was indexed."""
        return Path(self.root, self.name)

    @property
    def file(self) -> IndexedFile:
        """The same, for ``photos.sandbox.Decoder``, which decodes it only if it is still in its folder."""
        return IndexedFile(self.path, Path(self.root))


@dataclass(frozen=True)
class StoredPhoto:
    """All that a collection stores of a photo.

    Attributes:
        image: name, folder, size and id.
        content: size, time and digest of its file when it was read; None if unknown.
        boxes: (R, 4) uint16, R >= 1.
        codes: (R, M) uint8 or uint16.
        error: mean squared quantization error of its regions; nan if unknown.
    """

    image: Image
    content: Content | None
    boxes: NDArray[np.uint16]
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    error: float


@dataclass(frozen=True)
class Segment:
    """Regions of N photos in ascending order of ids; some of the photos may have been removed since.

    Attributes:
        folder: its name in the collection.
        codes: (G, M) uint8 or uint16, memory-mapped if the file holds them unpacked.
        boxes: (G, 4) uint16, memory-mapped; x1, y1, x2, y2 in pixels.
        offsets: (N+1,) int64; regions of photo i are rows offsets[i] to offsets[i+1].
        images: N photos.
        photos: (N,) of ``PHOTO``.
        removed: (N,) bool, photos that were removed from the collection.
    """

    folder: str
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    boxes: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    images: tuple[Image, ...]
    photos: NDArray[Any]
    removed: NDArray[np.bool_]

    @staticmethod
    def of(folder: str, photos: Sequence[StoredPhoto]) -> Segment:
        """Return a segment in memory.

        Args:
            folder: its name in the collection.
            photos: in ascending order of their ids, at least one.
        """
        table = np.zeros(len(photos), PHOTO)
        for row, photo in zip(table, photos, strict=True):
            content = photo.content or Content(-1, 0, bytes(16))
            row["id"], row["error"] = photo.image.id, photo.error
            row["size"], row["modified"], row["digest"] = content.size, content.modified, np.void(content.digest)
        return Segment(
            folder,
            np.concatenate([photo.codes for photo in photos]),
            np.concatenate([photo.boxes for photo in photos]),
            np.cumsum([0, *(len(photo.boxes) for photo in photos)], dtype=np.int64),
            tuple(photo.image for photo in photos),
            table,
            np.zeros(len(photos), np.bool_),
        )

    @cached_property
    def living(self) -> NDArray[np.int64]:
        """Rows of the photos that are not removed, ascending."""
        return np.flatnonzero(~self.removed)

    def content(self, row: int) -> Content | None:
        """Return size, time and digest of a photo's file when it was read; None if unknown."""
        _, size, modified, digest, _ = self.photos[row].item()
        return Content(size, modified, digest) if size >= 0 else None

    def indexed(self, row: int) -> StoredPhoto:
        """Return the photo of a row with its codes and boxes."""
        regions = slice(self.offsets[row], self.offsets[row + 1])
        error = float(self.photos["error"][row])
        return StoredPhoto(self.images[row], self.content(row), self.boxes[regions], self.codes[regions], error)


def read(path: Path, manifest: Manifest, *, subspaces: int, codewords: int) -> Iterator[Segment]:
    """Read each segment of a collection; codes of 8 bits and boxes are memory-mapped.

    Raises:
        CollectionError: a file is missing or damaged.
    """
    removed = manifests.read_removed(path, manifest)
    read = partial(read_one, path, manifest, removed=removed, subspaces=subspaces, codewords=codewords)
    # Half of the work is checksums, which threads compute in parallel.
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, range(len(manifest.segments)))


def removed_regions(stored: Iterable[Segment], ids: AbstractSet[int]) -> dict[int, int]:
    """Return id -> number of regions of the photos in segments that are removed already or have one of these ids."""
    counts: dict[int, int] = {}
    for segment in stored:
        numbers = segment.photos["id"]
        rows = np.flatnonzero(segment.removed | np.isin(numbers, list(ids)))
        counts |= zip(numbers[rows].tolist(), np.diff(segment.offsets)[rows].tolist(), strict=True)
    return counts


def read_one(
    path: Path, manifest: Manifest, place: int, *, removed: NDArray[np.int64], subspaces: int, codewords: int
) -> Segment:
    """Read the segment at a place in the manifest.

    Args:
        path: the collection.
        manifest: its state.
        place: index of the segment in ``manifest.segments``.
        removed: (n,) ids of removed photos, from ``manifest.read_removed``.
        subspaces: M.
        codewords: K.

    Raises:
        CollectionError: a file is missing or damaged.
    """
    images, photos = read_photos(path, manifest, place)
    entry = manifest.segments[place]
    folder = manifests.inside(path, entry["folder"])
    for name in ("codes.npy", "boxes.npy", "offsets.npy"):
        manifests.check(folder / name, entry["files"][name])
    try:
        stored = npz.read_array(folder / "codes.npy", mapped=True)
        boxes = npz.read_array(folder / "boxes.npy", mapped=True)
        offsets = npz.read_array(folder / "offsets.npy")
        codes = unpack(stored, entry["regions"], subspaces=subspaces, codewords=codewords)
        consistent = (
            offsets.dtype == np.int64
            and offsets.shape == (len(images) + 1,)
            and boxes.dtype == np.uint16
            and boxes.shape == (len(codes), 4)
            and offsets[0] == 0
            and offsets[-1] == len(codes)
            and (offsets[1:] > offsets[:-1]).all()
        )
    except ValueError as error:
        raise CollectionError(f"{folder}: damaged ({error}); {manifests.REMEDY}") from error
    if not consistent:
        raise CollectionError(f"{folder}: damaged (its files disagree); {manifests.REMEDY}")
    is_removed = np.isin(photos["id"], removed, assume_unique=True)
    return Segment(entry["folder"], codes, boxes, offsets, images, photos, is_removed)


def read_photos(path: Path, manifest: Manifest, place: int) -> tuple[tuple[Image, ...], NDArray[Any]]:
    """Read the photos of a segment without their codes, removed photos included.

    Returns:
        The photos, and (N,) of ``PHOTO``.
    """
    entry = manifest.segments[place]
    folder = manifests.inside(path, entry["folder"])
    if "photos.npy" in entry["files"]:
        manifests.check(folder / "photos.npy", entry["files"]["photos.npy"])
    listed = _listing(path, manifest, place)
    try:
        if "photos.npy" in entry["files"]:
            photos = npz.read_array(folder / "photos.npy")
        else:  # format 2, where an id is the place among all photos
            first = manifests.numbered_photos(manifest).segments[place]["first_id"]
            photos = np.zeros(len(listed["names"]), PHOTO)
            photos["id"], photos["size"], photos["error"] = np.arange(first, first + len(photos)), -1, np.nan
        images = tuple(
            Image(name, root, width, height, number)
            for name, root, (width, height), number in zip(
                listed["names"], listed["roots"], listed["sizes"], photos["id"].tolist(), strict=True
            )
        )
        if photos.dtype != PHOTO or not _are_photos(images):
            raise ValueError("expected names, folders and sizes of photos")
        consistent = len(images) == entry["images"] and bool((photos["id"][1:] > photos["id"][:-1]).all())
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CollectionError(f"{folder}: damaged ({one_line(error)}); {manifests.REMEDY}") from error
    if not consistent:
        raise CollectionError(f"{folder}: damaged (its files disagree); {manifests.REMEDY}")
    return images, photos


def read_living(path: Path, manifest: Manifest) -> list[Image]:
    """Read the photos of a collection without their codes, in ascending order of ids, removed photos left out."""
    removed = set(manifests.read_removed(path, manifest).tolist())
    stored = (read_photos(path, manifest, place)[0] for place in range(len(manifest.segments)))
    return [image for photos in stored for image in photos if image.id not in removed]


def read_sources(path: Path, manifest: Manifest, place: int) -> tuple[Source, ...]:
    """Read only the names and paths of the photos of a segment, removed photos included."""
    listed = _listing(path, manifest, place)
    try:
        return tuple(
            Source(name, Path(root, name)) for name, root in zip(listed["names"], listed["roots"], strict=True)
        )
    except (ValueError, TypeError) as error:
        raise CollectionError(f"{path}: damaged ({one_line(error)}); {manifests.REMEDY}") from error


def _listing(path: Path, manifest: Manifest, place: int) -> dict[str, Any]:
    """Read names, folders and sizes of the photos of a segment."""
    entry = manifest.segments[place]
    file = manifests.inside(path, entry["folder"]) / "images.json"
    manifests.check(file, entry["files"]["images.json"])
    try:
        listed: dict[str, Any] = json.loads(file.read_bytes())
        if not all(isinstance(listed[key], list) for key in ("names", "roots", "sizes")):
            raise ValueError("expected lists of names, roots and sizes")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CollectionError(f"{file}: damaged ({one_line(error)}); {manifests.REMEDY}") from error
    return listed


def _are_photos(images: Sequence[Image]) -> bool:
    """Whether names, folders and sizes have the right types and possible values."""
    texts = [text for image in images for text in (image.name, image.root)]
    sides = [side for image in images for side in (image.width, image.height)]
    if not (set(map(type, texts)) <= {str} and set(map(type, sides)) <= {int}):
        return False
    return "\0" not in "".join(texts) and min(sides, default=1) > 0


def write(path: Path, name: str, photos: Sequence[StoredPhoto], *, codewords: int) -> dict[str, Any]:
    """Write a segment and return its entry for the manifest.

    Args:
        path: the folder that contains ``segments``.
        name: of its folder, relative to ``path``.
        photos: in ascending order of their ids, at least one.
        codewords: K.
    """
    folder = path / name
    guarded(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
    segment = Segment.of(name, photos)
    listed = {
        "names": [image.name for image in segment.images],
        "roots": [image.root for image in segment.images],
        "sizes": [[image.width, image.height] for image in segment.images],
    }
    files = {
        "codes.npy": npy(pack(Codes(segment.codes, codewords))),
        "boxes.npy": npy(segment.boxes),
        "offsets.npy": npy(segment.offsets),
        "photos.npy": npy(segment.photos),
        # Escaped, so that a name that is not valid Unicode can be stored too.
        "images.json": json.dumps(listed).encode(),
    }
    entry = {
        "folder": name,
        "images": len(photos),
        "regions": len(segment.codes),
        "files": {file: write_new(folder / file, data) for file, data in files.items()},
    }
    sync_folder(folder)
    return entry


def pack(codes: Codes) -> NDArray[np.uint8]:
    """Return codes as they are stored: unchanged at 8 bits per subspace, otherwise as one run of bits."""
    bits = (codes.codewords - 1).bit_length()
    if bits == 8:
        return codes.values.astype(np.uint8)
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits(((codes.values[..., None].astype(np.uint16) >> places) & 1).astype(np.uint8))


def unpack(
    stored: NDArray[np.uint8], regions: int, *, subspaces: int, codewords: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return (G, M) codes, the inverse of ``pack``; raises ValueError if their number differs."""
    bits = (codewords - 1).bit_length()
    if bits == 8:
        if stored.shape != (regions, subspaces) or stored.dtype != np.uint8:
            raise ValueError(f"expected codes of shape {(regions, subspaces)}, found {stored.shape}")
        return stored
    total = regions * subspaces * bits
    if stored.dtype != np.uint8 or stored.shape != (-(-total // 8),):
        raise ValueError(f"expected {-(-total // 8)} bytes of packed codes, found {stored.shape}")
    unpacked = np.unpackbits(stored, count=total).reshape(regions, subspaces, bits)
    places = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    values: NDArray[np.uint16] = unpacked @ places
    return values.astype(np.uint8) if codewords <= 256 else values
