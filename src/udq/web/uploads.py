"""Uploaded photos: in a private temporary folder, within a byte budget, deleted an hour after their last use."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from udq.common.text import shown
from udq.errors import ImageError
from udq.photos.sandbox import Decoder
from udq.web.problems import Problem
from udq.web.renditions import THUMBNAIL, PhotoFile, resolve

# Bytes of one upload, and of all uploads together.
MAX_BYTES = 32 * 2**20
BUDGET = 512 * 2**20
# Seconds from the last use of an upload until it is deleted.
LIFETIME = 3600.0
_CHUNK = 2**20


@dataclass(frozen=True)
class Upload:
    """An uploaded photo.

    Attributes:
        id: random and unguessable: it grants access to the photo.
        name: file name on the client's machine.
        path: the stored file.
        width, height: pixels as a viewer shows it.
        size: bytes.
    """

    id: str
    name: str
    path: Path
    width: int
    height: int
    size: int


class Uploads:
    """The folder of uploads; safe to share between threads."""

    def __init__(self, decoder: Decoder, *, budget: int = BUDGET) -> None:
        """Create an empty folder that only the user of this process can read.

        Args:
            decoder: checks that an upload is a photo.
            budget: bytes of all uploads together; the least recently used are deleted first.
        """
        self._decoder = decoder
        self._budget = budget
        self._folder = tempfile.TemporaryDirectory(prefix="udq-serve-", ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        # Each with the time of its last use; least recently used first.
        self._uploads: OrderedDict[str, tuple[Upload, float]] = OrderedDict()

    def add(self, file: BinaryIO, name: str) -> Upload:
        """Store a photo.

        Raises:
            ImageError: the file is not a photo, or exceeds the limits of decoding.
        """
        number = secrets.token_urlsafe(16)
        path = Path(self._folder.name, number)
        try:
            size = _copy(file, path)
            try:
                photo = self._decoder.decode(path, shorter=THUMBNAIL, longer=THUMBNAIL)
            except ImageError as error:
                # The message contains the path on this server; the client knows the file by its own name.
                raise ImageError(str(error).replace(str(path), shown(name))) from error
            upload = Upload(number, name, path, photo.width, photo.height, size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._uploads[number] = upload, time.monotonic()
        self.sweep()
        return upload

    def get(self, number: str) -> Upload:
        """Return an upload by its id, and note its use; raises Problem if there is none (any more)."""
        with self._lock:
            entry = self._uploads.get(number)
            if entry is not None:
                self._uploads[number] = entry[0], time.monotonic()
                self._uploads.move_to_end(number)
                return entry[0]
        raise Problem(
            "not-found", "upload not found: uploads are deleted an hour after their last use; upload the photo again"
        )

    def file(self, number: str) -> PhotoFile:
        """Return the file of an upload; raises Problem as ``get`` does."""
        upload = self.get(number)
        return resolve(upload.path, upload.path.parent, name=upload.name, width=upload.width, height=upload.height)

    def sweep(self) -> None:
        """Delete expired uploads, and the least recently used ones over the budget; never the latest one for that."""
        expiry = time.monotonic() - LIFETIME
        with self._lock:
            size = sum(upload.size for upload, _ in self._uploads.values())
            while self._uploads:
                upload, used = next(iter(self._uploads.values()))
                if used > expiry and (size <= self._budget or len(self._uploads) == 1):
                    break
                size -= upload.size
                del self._uploads[upload.id]
                upload.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes of all uploads together."""
        with self._lock:
            return sum(upload.size for upload, _ in self._uploads.values())

    def close(self) -> None:
        """Delete the folder."""
        self._folder.cleanup()


def _copy(file: BinaryIO, path: Path) -> int:
    """Write a file to a new path; return its bytes."""
    size = 0
    with path.open("xb") as copy:
        while chunk := file.read(_CHUNK):
            size += copy.write(chunk)
    return size
