"""Photos as browsers can show them: the file itself or a JPEG of it, and thumbnails; cached in memory.

The first bytes of a file determine its type, its name does not: an HTML page named ``.jpg`` is never served as one.
Photos are decoded in separate processes (``udq.photos.sandbox``).

One photo has three types in a request: ``store.segments.Image``, its record in the collection; ``PhotoFile``, its file
after the access checks of ``resolve``; and ``udq.Example``, a ``PhotoFile`` with the box to search for.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from udq.common.byte_cache import Cache
from udq.common.files import open_regular
from udq.common.text import shown
from udq.errors import ImageError, InputError
from udq.photos import source
from udq.photos.indexed import OutsideFolderError, within
from udq.photos.sandbox import Decoder
from udq.photos.source import UnreadableError
from udq.store.segments import Image
from udq.types import Box
from udq.web.problems import Problem

# Longer side of a thumbnail, in pixels.
THUMBNAIL = 256
# Longer side of a photo converted to JPEG, in pixels: larger than screens, and a bound on the server's memory.
MAX_SIDE = 4096
# Memory for renditions, in bytes: about 5,000 thumbnails.
CACHE_BYTES = 64 * 2**20
_QUALITY = 85


@dataclass(frozen=True)
class PhotoFile(os.PathLike[str]):
    """The file of a photo that clients may see: in the collection's folder, or an upload.

    ``os.fspath`` returns its path, so that it can be the photo of a ``udq.Example``; ``str`` returns its name.

    Attributes:
        name: name for clients.
        path: resolved path; never sent to clients.
        width, height: pixels as a viewer shows it.
        stat: status of the file.
    """

    name: str
    path: Path
    width: int
    height: int
    stat: os.stat_result

    def __fspath__(self) -> str:
        """Return the resolved path."""
        return str(self.path)

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    @property
    def version(self) -> tuple[str | int, ...]:
        """Path and status: identifies the content, for caches and ETags.

        A program can set the modification time; the time of the last change of the status (POSIX) it cannot, and a
        file that is moved here has another inode.
        """
        status = self.stat
        return str(self.path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    @contextmanager
    def name_in_errors(self) -> Iterator[None]:
        """Replace the path by the name in the errors of a block, because clients read them."""
        try:
            yield
        except (ImageError, InputError) as error:
            raise type(error)(str(error).replace(shown(str(self.path)), shown(self.name))) from None


def resolve(path: Path, root: Path, *, name: str, width: int, height: int) -> PhotoFile:
    """Return a photo whose file, with links resolved, is in a folder.

    Args:
        path: the file.
        root: the folder.
        name: name for clients.
        width, height: pixels as a viewer shows it.

    Raises:
        Problem: the file does not exist, or is a link to a file outside the folder.
    """
    try:
        real = within(path, root)
        stat = real.stat()
    except OutsideFolderError:
        raise Problem(
            "outside-folder",
            f"{shown(name)}: expected a file in the indexed folder, found a link to a file outside, which is not "
            "followed",
        ) from None
    except (OSError, UnreadableError):
        raise Problem(
            "photo-gone",
            f"{shown(name)}: its file no longer exists; if its folder moved, run udq relocate COLLECTION OLD NEW; if "
            "it was deleted, udq add COLLECTION FOLDER --sync",
        ) from None
    return PhotoFile(name, real, width, height, stat)


def file_of(image: Image) -> PhotoFile:
    """Return the file of a photo of the collection; raises Problem as ``resolve`` does."""
    return resolve(image.path, Path(image.root), name=image.name, width=image.width, height=image.height)


def media_type(head: bytes) -> str | None:
    """Return the content type of a photo by its first 25 bytes; None if browsers cannot show it as it is decoded.

    HEIC is shown by few, and a PNG of 16 bits may use a small part of them (``udq.photos.formats.levels``).
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None if head[24:25] == b"\x10" else "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return None


class Renditions:
    """Makes renditions of photos; the most recently used stay in memory."""

    def __init__(self, decoder: Decoder) -> None:
        """Start with an empty cache.

        Args:
            decoder: decodes the photos.
        """
        self._decoder = decoder
        self._cache: Cache[bytes] = Cache(CACHE_BYTES)

    @property
    def size(self) -> int:
        """Bytes of the renditions in memory."""
        return self._cache.size

    def media_type(self, photo: PhotoFile) -> str | None:
        """Return the content type of a photo's file; None if browsers cannot show it."""
        try:
            with open_regular(photo.path, limit=source.max_bytes(self._decoder.limit), follow=True) as file:
                return media_type(file.read(25))
        except (OSError, ValueError) as error:
            raise ImageError(f"{shown(photo.name)}: {error}") from error

    def scaled(self, photo: PhotoFile, width: int | None) -> bytes:
        """Return a photo as a JPEG of at most ``width`` pixels in width, never enlarged."""
        scale = min(1.0, MAX_SIDE / max(photo.width, photo.height))
        if width is not None:
            scale = min(scale, width / photo.width)
        return self._scaled(photo, scale)

    def thumbnail(self, photo: PhotoFile, box: Box | None) -> bytes:
        """Return a photo, or the contents of a box in it, as a JPEG whose longer side has at most 256 pixels."""
        if box is None:
            return self._scaled(photo, min(1.0, THUMBNAIL / max(photo.width, photo.height)))
        key = (photo.version, box)
        data = self._cache.get(key)
        if data is None:
            with photo.name_in_errors():
                crop, _ = self._decoder.load_crop(photo.path, box, shorter=THUMBNAIL, longer=THUMBNAIL, least=THUMBNAIL)
            data = self._encode(key, crop.pixels)
        return data

    def _scaled(self, photo: PhotoFile, scale: float) -> bytes:
        key = (photo.version, scale)
        data = self._cache.get(key)
        if data is None:
            sides = sorted((photo.width, photo.height))
            shorter, longer = math.ceil(sides[0] * scale), max(1, round(sides[1] * scale))
            with photo.name_in_errors():
                decoded = self._decoder.decode(photo.path, shorter=max(1, shorter), longer=longer)
            data = self._encode(key, decoded.pixels)
        return data

    def _encode(self, key: object, pixels: NDArray[np.uint8]) -> bytes:
        """Return pixels as a JPEG, and cache it."""
        buffer = io.BytesIO()
        PillowImage.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
        self._cache.put(key, data, len(data))
        return data


def etag(photo: PhotoFile, variant: object) -> str:
    """Return the ETag of a rendition."""
    identity = repr((photo.version, variant)).encode("utf-8", "surrogatepass")
    return f'"{hashlib.blake2b(identity, digest_size=12).hexdigest()}"'
