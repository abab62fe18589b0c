"""Photos added and removed over HTTP, one at a time; only with ``--allow-write FOLDER``."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from udq.collection import Collection
from udq.common.text import shown
from udq.errors import ImageError, InputError
from udq.indexing.update import Changes
from udq.photos.source import SUFFIXES
from udq.store.segments import Image
from udq.web.live_collection import LiveCollection
from udq.web.problems import Problem
from udq.web.uploads import Upload

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

        Raises:
            Problem: the server is read-only, the name is invalid or taken, or another process changes the collection.
            ImageError: the photo cannot be indexed.
        """
        path = self.check_allowed() / _checked_name(upload.name)
        with self._lock:
            collection = self._live.current().collection
            taken = f"{shown(path.name)}: a photo of this name already exists; rename yours, or remove the other"
            if path.name in set(collection.names):
                raise Problem("conflict", taken)
            try:
                with upload.path.open("rb") as source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
            except FileExistsError:
                raise Problem("conflict", taken) from None
            try:
                grown, changes = _apply(lambda: collection.add(path))
                if changes.broken:
                    raise ImageError(changes.broken[0]["reason"].replace(str(path), shown(path.name)))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        images = {image.name: image for image in grown.images}
        return images[path.name]

    def remove(self, image: Image) -> None:
        """Remove a photo from the collection; its file is kept."""
        self.check_allowed()
        with self._lock:
            _apply(lambda: self._live.current().collection.remove(image.name))


def _apply(change: Callable[[], tuple[Collection, Changes]]) -> tuple[Collection, Changes]:
    try:
        return change()
    except InputError as error:  # another process is changing the collection, or has removed the photo
        raise Problem("conflict", str(error)) from None


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
