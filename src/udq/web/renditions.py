"""Photos as a browser can show them: as they are where it can, else as JPEGs; and small ones, which are kept a while.

What a file is, its first bytes say and its name does not: a page that is named ``.jpg`` is never served as one. Photos
are decoded in processes of their own (``udq.photos.sandbox``).
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
from PIL import Image

from udq.common.byte_cache import Cache
from udq.common.text import shown
from udq.errors import ImageError, InputError
from udq.photos import source
from udq.photos.sandbox import Decoder
from udq.types import Box
from udq.web.problems import Problem

# Longer side of a thumbnail, in pixels.
THUMBNAIL = 256
# Longest side of a photo that is written anew: larger ones would take a server's memory for what no screen shows.
LARGEST = 4096
# Of renditions in memory: some 5,000 thumbnails.
CACHE_BYTES = 64 * 2**20
_QUALITY = 85


@dataclass(frozen=True)
class Shown:
    """A photo that may be served.

    Attributes:
        name: what it is called, for people.
        path: where it really is, which is nobody's business.
        width, height: pixels as a viewer shows it.
        stat: of its file.
    """

    name: str
    path: Path
    width: int
    height: int
    stat: os.stat_result

    @property
    def mark(self) -> tuple[str, int, int]:
        """What tells its content from another."""
        return str(self.path), self.stat.st_mtime_ns, self.stat.st_size

    @contextmanager
    def by_name(self) -> Iterator[None]:
        """Have errors call the photo by its name: they go to whoever asked."""
        try:
            yield
        except (ImageError, InputError) as error:
            raise type(error)(str(error).replace(shown(str(self.path)), shown(self.name))) from None


def within(path: Path, root: Path, *, name: str, width: int, height: int) -> Shown:
    """Return a photo that really is in a folder; raises Problem where it is gone, or a link leads out.

    Args:
        path: where it should be.
        root: the folder.
        name: what it is called, for people.
        width, height: pixels as a viewer shows it.
    """
    try:
        real = path.resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError):  # a circle of links
        raise Problem(
            "photo-gone",
            f"{shown(name)}: its file is not there (any more); udq add --sync brings the collection up to date",
        ) from None
    if not real.is_relative_to(root.resolve()):
        raise Problem(
            "outside-folder", f"{shown(name)}: a link that leads out of the indexed folder, which is not followed"
        )
    return Shown(name, real, width, height, found)


def media_type(head: bytes) -> str | None:
    """Return the content type of a photo that browsers show, by its first 16 bytes; None of all others."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return None


class Pictures:
    """Makes renditions of photos, and keeps those that were asked for lately."""

    def __init__(self, decoder: Decoder) -> None:
        """Begin with none.

        Args:
            decoder: decodes photos.
        """
        self._decoder = decoder
        self._kept: Cache[bytes] = Cache(CACHE_BYTES)

    @property
    def size(self) -> int:
        """Bytes of the renditions in memory."""
        return self._kept.size

    def as_is(self, photo: Shown) -> str | None:
        """Return the content type under which a photo's file can be served; None where it must be written anew."""
        try:
            with source.open_file(photo.path) as file:
                return media_type(file.read(16))
        except (OSError, ValueError) as error:
            raise ImageError(f"{shown(photo.name)}: {error}") from error

    def scaled(self, photo: Shown, width: int | None) -> bytes:
        """Return a photo as a JPEG of at most so many pixels in width, never enlarged."""
        scale = min(1.0, LARGEST / max(photo.width, photo.height))
        if width is not None:
            scale = min(scale, width / photo.width)
        return self._made(photo, ("scaled", scale), scale)

    def thumbnail(self, photo: Shown, box: Box | None) -> bytes:
        """Return a photo, or what is inside a box of it, as a JPEG whose longer side has at most 256 pixels."""
        if box is None:
            scale = min(1.0, THUMBNAIL / max(photo.width, photo.height))
            return self._made(photo, ("scaled", scale), scale)
        key = (photo.mark, box)
        kept = self._kept.get(key)
        if kept is None:
            with photo.by_name():
                crop, _ = self._decoder.load_crop(photo.path, box, shorter=THUMBNAIL, longer=THUMBNAIL, least=THUMBNAIL)
            kept = self._keep(key, crop.pixels)
        return kept

    def _made(self, photo: Shown, what: object, scale: float) -> bytes:
        key = (photo.mark, what)
        kept = self._kept.get(key)
        if kept is None:
            sides = sorted((photo.width, photo.height))
            shorter, longer = math.ceil(sides[0] * scale), max(1, round(sides[1] * scale))
            with photo.by_name():
                decoded = self._decoder.decode(photo.path, shorter=max(1, shorter), longer=longer)
            kept = self._keep(key, decoded.pixels)
        return kept

    def _keep(self, key: object, pixels: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
        self._kept.put(key, data, len(data))
        return data


def tag(photo: Shown, *what: object) -> str:
    """Return the ETag of a rendition."""
    return f'"{hashlib.blake2b(repr((photo.mark, what)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()}"'
