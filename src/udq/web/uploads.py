"""Photos that visitors bring: kept in a private folder for a while, within a budget, and deleted at the end."""

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
from udq.web.renditions import THUMBNAIL, Shown, within

# Of one photo, and of all together.
MOST_BYTES = 32 * 2**20
BUDGET = 512 * 2**20
# Seconds that one is kept after it was last asked for.
KEPT = 3600.0
_CHUNK = 2**20


@dataclass(frozen=True)
class Upload:
    """A photo that someone brought.

    Attributes:
        id: a name that cannot be guessed.
        name: of the file, where they had it.
        path: where it is.
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
    """The private folder."""

    def __init__(self, decoder: Decoder, *, budget: int = BUDGET) -> None:
        """Make it, empty; only this user may look into it.

        Args:
            decoder: says whether what comes is a photo.
            budget: bytes of all photos together; those that were not asked for the longest go first.
        """
        self._decoder = decoder
        self._budget = budget
        self._folder = tempfile.TemporaryDirectory(prefix="udq-serve-", ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        # With the time at which each was last asked for.
        self._held: OrderedDict[str, tuple[Upload, float]] = OrderedDict()

    def take(self, file: BinaryIO, name: str) -> Upload:
        """Take a photo in.

        Raises:
            ImageError: it is none, or a limit refuses it.
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
            self._held[number] = upload, time.monotonic()
        self.sweep()
        return upload

    def get(self, number: str) -> Upload:
        """Return a photo; raises Problem where there is none (any more)."""
        with self._lock:
            found = self._held.get(number)
            if found is not None:
                self._held[number] = found[0], time.monotonic()
                self._held.move_to_end(number)
                return found[0]
        raise Problem("not-found", "this upload is not here (any more): photos are kept for an hour; send it again")

    def shown(self, number: str) -> Shown:
        """Return a photo to be served."""
        upload = self.get(number)
        return within(upload.path, upload.path.parent, name=upload.name, width=upload.width, height=upload.height)

    def sweep(self) -> None:
        """Delete photos that nobody asked for lately, and those that are over the budget."""
        oldest = time.monotonic() - KEPT
        with self._lock:
            size = sum(upload.size for upload, _ in self._held.values())
            while self._held:
                upload, asked = next(iter(self._held.values()))
                if asked > oldest and (size <= self._budget or len(self._held) == 1):
                    break
                size -= upload.size
                del self._held[upload.id]
                upload.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes of all photos together."""
        with self._lock:
            return sum(upload.size for upload, _ in self._held.values())

    def close(self) -> None:
        """Delete the folder."""
        self._folder.cleanup()


def _copy(file: BinaryIO, path: Path) -> int:
    size = 0
    with path.open("xb") as copy:
        while chunk := file.read(_CHUNK):
            size += copy.write(chunk)
    return size
