"""Photos added and removed over HTTP, one at a time; only with ``--allow-write FOLDER``."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path, PurePosixPath

from udq.collection import Collection
from udq.common.files import read_regular
from udq.common.text import shown
from udq.errors import ImageError, InputError, UnknownPhotoError
from udq.indexing.update import Changes
from udq.photos.source import SUFFIXES
from udq.store.segments import Image
from udq.web.live_collection import LiveCollection, no_such_photo
from udq.web.problems import Problem
from udq.web.uploads import MAX_BYTES, Upload

log = logging.getLogger("udq.web")

# Bytes of a file name that every file system accepts.
_MAX_NAME_BYTES = 200


class PhotoChanges:
    """Adds photos to the collection and removes them."""

    def __init__(self, live: LiveCollection, folder: Path | None) -> None:
        """Change nothing yet.

        Args:
            live: the collection.
            folder: where files of added photos are stored; None if the server is read-only.
        """
        self._live = live
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def allowed(self) -> bool:
        """Whether the server accepts changes."""
        return self._folder is not None

    def check_allowed(self) -> Path:
        """Return the folder for added photos; raises Problem if the server is read-only."""
        if self._folder is None:
            raise Problem(
                "read-only", "this server is read-only; start it with --allow-write FOLDER, which stores added photos"
            )
        return self._folder

    def add(self, upload: Upload) -> Image:
        """Store a photo in the folder and add it to the collection; if that fails, the file is deleted again.

        Files in the folder are never overwritten. A file of this name that no photo of the collection refers to, such
        as that of a removed photo, is used if it has the same bytes; otherwise the new photo gets a free name, as in
        ``cup-2.jpg``.

        Returns:
            The photo, with the name that it got.

        Raises:
            Problem: the server is read-only, the name is invalid or that of a photo in the collection, or another
                process changes the collection.
            ImageError: the photo cannot be indexed.
        """
        folder, name = self.check_allowed(), _checked_name(upload.name)
        with self._lock:
            collection = self._live.current().collection
            if name in set(collection.names):
                raise Problem(
                    "conflict", f"{shown(name)}: a photo of this name already exists; rename yours, or remove the other"
                )
            path = folder / name
            reused = _same_bytes(path, upload.path) and not _refers_to(collection, path)
            if not reused:
                path = _store(upload.path, folder, name, taken=set(collection.names))
            try:
                grown, changes = _apply(lambda: collection.add(path))
                if changes.broken:
                    raise ImageError(changes.broken[0]["reason"].replace(shown(str(path)), shown(path.name)))
            except BaseException:
                if not reused:
                    path.unlink(missing_ok=True)
                raise
        images = {image.name: image for image in grown.images}
        return images[path.name]

    def remove(self, image: Image) -> None:
        """Remove a photo from the collection by its id; its file is kept.

        Raises:
            Problem: the server is read-only, the photo has been removed already, or another process changes the
                collection.
        """
        self.check_allowed()
        with self._lock:
            try:
                _apply(lambda: self._live.current().collection.remove_ids(image.id))
            except UnknownPhotoError:
                raise no_such_photo(image.id) from None


def _apply(change: Callable[[], tuple[Collection, Changes]]) -> tuple[Collection, Changes]:
    """Change the collection; raises Problem if another process is changing it, with the details in the log alone."""
    try:
        return change()
    except UnknownPhotoError:
        raise
    except InputError as error:
        log.warning("a change was refused: %s", shown(str(error)))
        raise Problem(
            "conflict",
            "another process is changing the collection, or has changed this photo; try again when it is done",
        ) from None


def _store(source: Path, folder: Path, name: str, *, taken: AbstractSet[str]) -> Path:
    """Copy a file into a folder under a name that no file and no photo has: ``name``, or one with a number."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for number in itertools.count(1):
        path = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        if path.name in taken:
            continue
        with suppress(FileExistsError), path.open("xb") as copy:
            try:
                with source.open("rb") as file:
                    shutil.copyfileobj(file, copy)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return path
    raise AssertionError  # there is always a higher number


def _same_bytes(path: Path, other: Path) -> bool:
    """Whether a regular file is there that has the same bytes as another; False if it cannot be read."""
    try:
        return read_regular(path, limit=MAX_BYTES) == other.read_bytes()
    except (OSError, ValueError):
        return False


def _refers_to(collection: Collection, path: Path) -> bool:
    """Whether a file is that of a photo of the collection, under whatever name."""
    named = (image.path for image in collection.images if PurePosixPath(image.name).name == path.name)
    real = os.path.realpath(path)
    return any(os.path.realpath(each) == real for each in named)


def _checked_name(name: str) -> str:
    """Return the name of a new file; raises Problem unless it is a plain file name with the suffix of a photo."""
    plain = os.path.basename(name.replace("\\", "/"))  # noqa: PTH119  (also for Windows paths)
    if (
        plain != name
        or not plain.isprintable()
        or plain.startswith(".")
        or len(os.fsencode(plain)) > _MAX_NAME_BYTES
        or any(mark in plain for mark in '*?[]<>:"|')
        or Path(plain).suffix.lower() not in SUFFIXES
    ):
        raise Problem(
            "invalid",
            f"'{shown(name)[:80]}': expected a plain file name such as cup.jpg, without folders, of at most "
            f"{_MAX_NAME_BYTES} bytes and ending in one of {', '.join(sorted(SUFFIXES))}; rename the photo",
        )
    return plain
