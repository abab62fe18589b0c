"""Segments: the codes and boxes of up to 4,096 photos each, in a folder of seven files.

A segment is written once and never changed; the manifest lists the photos that were removed since. Reading a segment
compares every byte with its checksum, so that damage is an error and never a wrong result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import MAX_JSON, guarded, npy, sync_folder, write_new
from udq.common.text import shown
from udq.errors import CollectionError
from udq.keypoints.codebook import BYTES, NONE, joined
from udq.photos.indexed import IndexedFile
from udq.photos.source import Content, Source
from udq.store import layout
from udq.store import manifest as manifests
from udq.store.layout import DamagedError
from udq.store.manifest import Manifest
from udq.types import Codes

# Records of photos.npy: id; size, modification time and digest of the photo's file (size -1 if unknown); mean squared
# quantization error of its regions (nan if unknown).
PHOTO = np.dtype([("id", "<i8"), ("size", "<i8"), ("modified", "<i8"), ("digest", "V16"), ("error", "<f4")])
# Most photos per segment: about 400,000 regions, 7 MB of codes and boxes in memory until it is written.
PHOTOS = 4096
FILES = ("codes.npy", "boxes.npy", "offsets.npy", "photos.npy", "images.json")
# Local features of the photos, and where those of each begin; segments without any have neither file.
POINTS, STARTS = "points.npy", "starts.npy"
ALL_FILES = (*FILES, POINTS, STARTS)
READERS = 4  # threads that compute checksums
OUT_OF_ORDER = "its ids do not follow those of the photos before"
_DISAGREE = "its files disagree"


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


@dataclass(frozen=True, eq=False)
class StoredPhoto:
    """All that a collection stores of a photo; equal to itself alone.

    Attributes:
        image: name, folder, size and id.
        content: size, time and digest of its file when it was read; None if unknown.
        boxes: (R, 4) uint16, R >= 1.
        codes: (R, M) uint8 or uint16.
        error: mean squared quantization error of its regions; nan if unknown.
        points: (P, 24) uint8, its local features (``udq.keypoints.codebook``); P is 0 if none are stored.
    """

    image: Image
    content: Content | None
    boxes: NDArray[np.uint16]
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    error: float
    points: NDArray[np.uint8] = field(default_factory=NONE.copy)


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
        points: (P, 24) uint8, memory-mapped; local features of all photos, empty if none are stored.
        starts: (N+1,) int64; local features of photo i are rows starts[i] to starts[i+1]. Empty if none are stored.
    """

    folder: str
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    boxes: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    images: tuple[Image, ...]
    photos: NDArray[Any]
    removed: NDArray[np.bool_]
    points: NDArray[np.uint8] = field(default_factory=NONE.copy)
    starts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

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
            joined([photo.points for photo in photos]),
            np.cumsum([0, *(len(photo.points) for photo in photos)], dtype=np.int64),
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
        content, points = self.content(row), self.points_of(row)
        return StoredPhoto(self.images[row], content, self.boxes[regions], self.codes[regions], error, points)

    def points_of(self, row: int) -> NDArray[np.uint8]:
        """Return the local features (P, 24) of the photo of a row."""
        return self.points[self.starts[row] : self.starts[row + 1]] if len(self.starts) else NONE


def read(path: Path, manifest: Manifest, *, subspaces: int, codewords: int) -> Iterator[Segment]:
    """Read each segment of a collection; codes of 8 bits and boxes are memory-mapped.

    Raises:
        CollectionError: a file is missing or damaged, or the segments disagree.
    """
    removed = manifests.read_removed(path, manifest)
    read = partial(read_one, path, manifest, removed=removed, subspaces=subspaces, codewords=codewords)
    order, found = IdOrder(manifest), 0
    # Half of the work is checksums, which threads compute in parallel.
    with ThreadPoolExecutor(READERS) as pool:
        for segment in pool.map(read, range(len(manifest.segments))):
            if not order.follows(segment.photos["id"]):
                raise DamagedError(path / segment.folder / "photos.npy", OUT_OF_ORDER)
            found += int(segment.removed.sum())
            yield segment
    expect_removed(path, manifest, found)


class IdOrder:
    """Compares the ids of photos with those of the segments before: ascending, and all below ``next_id``."""

    def __init__(self, manifest: Manifest) -> None:
        self._next = manifest.next_id
        self._last = -1

    def follows(self, ids: NDArray[np.int64]) -> bool:
        """Whether the ids (N,) of the next segment, which are ascending, follow; if not, they are left out."""
        if not len(ids):
            return True
        if not self._last < int(ids[0]) <= int(ids[-1]) < self._next:
            return False
        self._last = int(ids[-1])
        return True


def expect_removed(path: Path, manifest: Manifest, found: int) -> None:
    """Raise DamagedError unless the segments contain all photos that are listed as removed.

    Args:
        path: the collection.
        manifest: its state.
        found: number of removed photos in its segments.
    """
    entry = manifest.document.get("removed")
    if entry is not None and found != entry["images"]:
        raise DamagedError(
            path / entry["file"], f"{entry['images']} removed photos, of which the segments contain {found}"
        )


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
    folder = layout.inside(path, entry["folder"])
    stored = _array(folder, "codes.npy", entry, mapped=True)
    boxes = _array(folder, "boxes.npy", entry, mapped=True)
    offsets = _array(folder, "offsets.npy", entry)
    try:
        codes = unpack(stored, entry["regions"], subspaces=subspaces, codewords=codewords)
    except (ValueError, MemoryError) as error:
        raise layout.damaged(folder / "codes.npy", error) from error
    if boxes.dtype != np.uint16 or boxes.shape != (len(codes), 4):
        raise DamagedError(folder / "boxes.npy", _DISAGREE)
    if not (
        offsets.dtype == np.int64
        and offsets.shape == (len(images) + 1,)
        and offsets[0] == 0
        and offsets[-1] == len(codes)
        and (offsets[1:] > offsets[:-1]).all()
    ):
        raise DamagedError(folder / "offsets.npy", _DISAGREE)
    is_removed = np.isin(photos["id"], removed, assume_unique=True)
    return Segment(entry["folder"], codes, boxes, offsets, images, photos, is_removed, *_points(folder, entry))


def _points(folder: Path, entry: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the local features of a segment, and where those of each photo begin; both empty if none are stored."""
    if POINTS not in entry["files"]:
        return NONE, np.empty(0, np.int64)
    points, starts = _array(folder, POINTS, entry, mapped=True), _array(folder, STARTS, entry)
    if points.dtype != np.uint8 or points.ndim != 2 or points.shape[1] != BYTES:
        raise DamagedError(folder / POINTS, f"expected local features of {BYTES} bytes")
    if not (
        starts.dtype == np.int64
        and starts.shape == (entry["images"] + 1,)
        and starts[0] == 0
        and starts[-1] == len(points)
        and (starts[1:] >= starts[:-1]).all()
    ):
        raise DamagedError(folder / STARTS, _DISAGREE)
    return points, starts


def _array(folder: Path, name: str, entry: Mapping[str, Any], *, mapped: bool = False) -> NDArray[Any]:
    """Read an array of a segment, and compare its checksum."""
    layout.check(folder / name, entry["files"][name])
    try:
        # Without the class of a memory map, whose every slice costs several times as much.
        return npz.read_array(folder / name, mapped=mapped).view(np.ndarray)
    except ValueError as error:
        raise layout.damaged(
            folder / name, error.__cause__ if isinstance(error.__cause__, OSError) else error
        ) from error


def read_photos(path: Path, manifest: Manifest, place: int) -> tuple[tuple[Image, ...], NDArray[Any]]:
    """Read the photos of a segment without their codes, removed photos included.

    Returns:
        The photos, and (N,) of ``PHOTO``.
    """
    entry = manifest.segments[place]
    folder = layout.inside(path, entry["folder"])
    if "photos.npy" in entry["files"]:
        photos = _array(folder, "photos.npy", entry)
        if photos.dtype != PHOTO or photos.ndim != 1 or not (photos["id"][1:] > photos["id"][:-1]).all():
            raise DamagedError(folder / "photos.npy", "expected records of photos, in ascending order of their ids")
    listed = _listing(path, manifest, place)
    if "photos.npy" not in entry["files"]:  # format 2, where an id is the place among all photos
        first = manifests.numbered_photos(manifest).segments[place]["first_id"]
        photos = np.zeros(len(listed["names"]), PHOTO)
        photos["id"], photos["size"], photos["error"] = np.arange(first, first + len(photos)), -1, np.nan
    try:
        images = tuple(
            Image(name, root, width, height, number)
            for name, root, (width, height), number in zip(
                listed["names"], listed["roots"], listed["sizes"], photos["id"].tolist(), strict=True
            )
        )
        if not _are_photos(images):
            outside = (image.name for image in images if _is_name(image.name) and not _is_below(image.name))
            if (name := next(outside, None)) is not None:
                raise ValueError(f"expected names of photos below the indexed folder, found '{shown(name)}'")
            raise ValueError("expected names, folders and sizes of photos")
    except (ValueError, TypeError) as error:
        raise layout.damaged(folder / "images.json", error) from error
    if len(images) != entry["images"]:
        raise DamagedError(folder / "images.json", _DISAGREE)
    return images, photos


def read_living(path: Path, manifest: Manifest) -> list[Image]:
    """Read the photos of a collection without their codes, in ascending order of ids, removed photos left out."""
    removed = set(manifests.read_removed(path, manifest).tolist())
    order, living = IdOrder(manifest), list[Image]()
    for place, entry in enumerate(manifest.segments):
        images, photos = read_photos(path, manifest, place)
        if not order.follows(photos["id"]):
            raise DamagedError(path / entry["folder"] / "photos.npy", OUT_OF_ORDER)
        living += (image for image in images if image.id not in removed)
    return living


def read_sources(path: Path, manifest: Manifest, place: int) -> tuple[Source, ...]:
    """Read only the names and paths of the photos of a segment, removed photos included.

    Names that no photo can have are left out, also those that lead out of the indexed folder.
    """
    listed = _listing(path, manifest, place)
    pairs = zip(listed["names"], listed["roots"], strict=False)
    return tuple(Source(name, Path(root, name)) for name, root in pairs if _is_below(name) and _is_name(root))


def _listing(path: Path, manifest: Manifest, place: int) -> dict[str, Any]:
    """Read names, folders and sizes of the photos of a segment."""
    entry = manifest.segments[place]
    file = layout.inside(path, entry["folder"]) / "images.json"
    data = layout.read_listed(path, {"file": f"{entry['folder']}/images.json", **entry["files"]["images.json"]})
    try:
        listed: dict[str, Any] = json.loads(data)
        if not all(isinstance(listed[key], list) for key in ("names", "roots", "sizes")):
            raise ValueError("expected lists of names, roots and sizes")
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise layout.damaged(file, error) from error
    return listed


def _are_photos(images: Sequence[Image]) -> bool:
    """Whether names, folders and sizes have the right types and possible values."""
    sides = [side for image in images for side in (image.width, image.height)]
    named = all(_is_below(image.name) and _is_name(image.root) for image in images)
    return named and set(map(type, sides)) <= {int} and min(sides, default=1) > 0


def _is_name(value: object) -> bool:
    """Whether a value can be the name of a file or folder."""
    return isinstance(value, str) and "\0" not in value


def _is_below(value: object) -> bool:
    """Whether a value can be the path of a photo relative to the indexed folder, which does not lead out of it."""
    if not _is_name(value):
        return False
    name = str(value)
    if name[:1] not in "/\\" and ".." not in name and ":" not in name:
        return True  # at once: a collection has millions of names
    path = Path(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts


def make_folder(path: Path, name: str) -> None:
    """Make the folder of a segment; nothing may be there yet.

    Args:
        path: the folder that contains ``segments``.
        name: of the folder, relative to ``path``.
    """
    folder = path / name
    guarded(folder.parent, lambda: folder.parent.mkdir(exist_ok=True))
    guarded(folder, folder.mkdir)


def write(path: Path, name: str, photos: Sequence[StoredPhoto], *, codewords: int) -> dict[str, Any]:
    """Write a segment and return its entry for the manifest.

    Args:
        path: the folder that contains ``segments``.
        name: of its folder, relative to ``path``, made by ``make_folder``.
        photos: in ascending order of their ids, at least one.
        codewords: K.

    Raises:
        CollectionError: the segment could not be read again; nothing is written.
    """
    folder = path / name
    segment = Segment.of(name, photos)
    if not _are_photos(segment.images):
        unnamed = next((image for image in segment.images if not _is_below(image.name)), segment.images[0])
        raise CollectionError(f"{unnamed.name!r}: not stored, because no photo can have this name or size")
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
    if len(segment.points):
        files |= {POINTS: npy(segment.points), STARTS: npy(segment.starts)}
    if len(files["images.json"]) > MAX_JSON:
        raise CollectionError(f"{folder}: not written, as the names of its photos take more than {MAX_JSON:,} bytes")
    entry = {
        "folder": name,
        "images": len(photos),
        "regions": len(segment.codes),
        "points": len(segment.points),
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
