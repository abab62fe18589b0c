"""Photos as a collection keeps them: their codes and boxes in segments, of which each is a folder of five files.

A segment is written once and never changed: that a photo is removed, the manifest says. Reading one compares every
byte with its checksum, so that damage is an error and never a wrong answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from udq.photos.source import Content, Source
from udq.store import manifest as manifests
from udq.store.manifest import Manifest
from udq.types import Codes

# What photos.npy holds of each photo: its id, what its file was (size -1 where that is not known), and the mean
# squared quantization error of its regions (nan where that is not known).
PHOTO = np.dtype([("id", "<i8"), ("size", "<i8"), ("modified", "<i8"), ("digest", "V16"), ("error", "<f4")])
# Photos a segment at most: some 400,000 regions, 7 MB of codes and boxes in memory until it is written.
PHOTOS = 4096
_READERS = 4  # threads that compare checksums


@dataclass(frozen=True)
class Image:
    """A photo of a collection.

    Attributes:
        name: its name in the collection.
        root: the folder, absolute, that the name is relative to.
        width, height: pixels as a viewer shows it.
        id: a number that no other photo of the collection has or will have, and that stays as long as the photo does.
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


@dataclass(frozen=True)
class StoredPhoto:
    """A photo with all that a collection keeps of it.

    Attributes:
        image: name, place, size and id.
        content: what its file was when it was looked at; None where that is not known.
        boxes: (R, 4) uint16, R >= 1.
        codes: (R, M) uint8 or uint16.
        error: mean squared quantization error of its regions; nan where that is not known.
    """

    image: Image
    content: Content | None
    boxes: NDArray[np.uint16]
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    error: float


@dataclass(frozen=True)
class Segment:
    """Regions of some photos, in the order of image ids; some photos may have been removed since.

    Attributes:
        folder: its name in the collection.
        codes: (G, M) uint8 or uint16, memory-mapped where the disk holds them as they are.
        boxes: (G, 4) uint16, memory-mapped.
        offsets: (N+1,) int64.
        images: N photos.
        photos: (N,) of ``PHOTO``.
        removed: (N,) bool, photos that are not of the collection any more.
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
        """Return the segment of some photos.

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
        """Rows of the photos that are of the collection still."""
        return np.flatnonzero(~self.removed)

    def content(self, row: int) -> Content | None:
        """Return what a photo's file was when it was looked at; None where that is not known."""
        _, size, modified, digest, _ = self.photos[row].item()
        return Content(size, modified, digest) if size >= 0 else None

    def indexed(self, row: int) -> StoredPhoto:
        """Return a photo with all that is kept of it."""
        regions = slice(self.offsets[row], self.offsets[row + 1])
        error = float(self.photos["error"][row])
        return StoredPhoto(self.images[row], self.content(row), self.boxes[regions], self.codes[regions], error)


def read(path: Path, manifest: Manifest, *, subspaces: int, codewords: int) -> Iterator[Segment]:
    """Read each segment of a collection; codes of 8 bits and boxes are memory-mapped, nothing else is large.

    Raises:
        CollectionError: a file is missing, or not as it was written.
    """
    removed = manifests.read_removed(path, manifest)
    read = partial(read_one, path, manifest, removed=removed, subspaces=subspaces, codewords=codewords)
    # Half of the work is checksums, which threads take side by side.
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, range(len(manifest.segments)))


def read_one(
    path: Path, manifest: Manifest, place: int, *, removed: NDArray[np.int64], subspaces: int, codewords: int
) -> Segment:
    """Read the segment at a place in the manifest; ``removed`` is of ``storage.read_removed``."""
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
        whole = (
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
    if not whole:
        raise CollectionError(f"{folder}: damaged (its files disagree); {manifests.REMEDY}")
    gone = np.isin(photos["id"], removed, assume_unique=True)
    return Segment(entry["folder"], codes, boxes, offsets, images, photos, gone)


def read_photos(path: Path, manifest: Manifest, place: int) -> tuple[tuple[Image, ...], NDArray[Any]]:
    """Read what photos a segment holds, removed ones too, without their codes.

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
        else:  # of format 2, where an id was the place among all photos
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
            raise ValueError("something else than photos")
        whole = len(images) == entry["images"] and bool((photos["id"][1:] > photos["id"][:-1]).all())
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CollectionError(f"{folder}: damaged ({one_line(error)}); {manifests.REMEDY}") from error
    if not whole:
        raise CollectionError(f"{folder}: damaged (its files disagree); {manifests.REMEDY}")
    return images, photos


def read_living(path: Path, manifest: Manifest) -> list[Image]:
    """Read what photos a collection holds, in the order of their ids, without their codes."""
    removed = set(manifests.read_removed(path, manifest).tolist())
    held = (read_photos(path, manifest, place)[0] for place in range(len(manifest.segments)))
    return [image for photos in held for image in photos if image.id not in removed]


def read_sources(path: Path, manifest: Manifest, place: int) -> tuple[Source, ...]:
    """Read names and places alone of the photos of a segment, removed ones too."""
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
        if not all(isinstance(listed[of], list) for of in ("names", "roots", "sizes")):
            raise ValueError("something else than photos")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CollectionError(f"{file}: damaged ({one_line(error)}); {manifests.REMEDY}") from error
    return listed


def _are_photos(images: Sequence[Image]) -> bool:
    """Whether what a file says of photos can be true of any."""
    words = [word for image in images for word in (image.name, image.root)]
    sides = [side for image in images for side in (image.width, image.height)]
    if not (set(map(type, words)) <= {str} and set(map(type, sides)) <= {int}):
        return False
    return "\0" not in "".join(words) and min(sides, default=1) > 0


def write(path: Path, name: str, photos: Sequence[StoredPhoto], *, codewords: int) -> dict[str, Any]:
    """Write a segment and return its entry of the manifest.

    Args:
        path: where the folder ``segments`` is.
        name: its name there.
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
        # Escaped: so that even a name that is no Unicode can be said.
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
