"""Photos added and removed over HTTP, one after the other, where ``--allow-write FOLDER`` allows it."""

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

# Most bytes of a name that every file system takes.
_LONGEST = 200


class PhotoChanges:
    """Changes the collection."""

    def __init__(self, living: LiveCollection, folder: Path | None) -> None:
        """Change nothing yet.

        Args:
            living: the collection.
            folder: where photos that are added are put; None where nothing may be changed.
        """
        self._living = living
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def allowed(self) -> bool:
        """Whether anything may be changed."""
        return self._folder is not None

    def check(self) -> Path:
        """Return the folder for new photos; raises Problem where nothing may be changed."""
        if self._folder is None:
            raise Problem(
                "read-only", "this server changes nothing; start it with --allow-write FOLDER, where new photos are put"
            )
        return self._folder

    def add(self, upload: Upload) -> Image:
        """Put a photo into the folder and into the collection; it stays in neither where that fails."""
        path = self.check() / _checked(upload.name)
        with self._lock:
            collection = self._living.now().collection
            taken = f"{shown(path.name)}: there is a photo of this name already; rename yours, or remove the other"
            if path.name in set(collection.names):
                raise Problem("conflict", taken)
            try:
                with upload.path.open("rb") as source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
            except FileExistsError:
                raise Problem("conflict", taken) from None
            try:
                grown, changes = _changing(lambda: collection.add(path))
                if changes.broken:
                    raise ImageError(changes.broken[0]["reason"].replace(str(path), shown(path.name)))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        found = {image.name: image for image in grown.images}
        return found[path.name]

    def remove(self, image: Image) -> None:
        """Remove a photo from the collection; its file is left alone."""
        self.check()
        with self._lock:
            _changing(lambda: self._living.now().collection.remove(image.name))


def _changing(work: Callable[[], tuple[Collection, Changes]]) -> tuple[Collection, Changes]:
    try:
        return work()
    except InputError as error:  # another process is changing it, or has removed the photo
        raise Problem("conflict", str(error)) from None


def _checked(name: str) -> str:
    """Return the name of a file that may be made; raises Problem where it leads elsewhere or is no photo's."""
    plain = os.path.basename(name.replace("\\", "/"))  # noqa: PTH119  (a path of Windows, too)
    if (
        plain != name
        or not plain.isprintable()
        or plain.startswith(".")
        or len(os.fsencode(plain)) > _LONGEST
        or any(mark in plain for mark in '*?[]<>:"|')
        or Path(plain).suffix.lower() not in SUFFIXES
    ):
        raise Problem(
            "invalid",
            f"'{shown(name)[:80]}': expected a plain name of a photo such as cup.jpg, without folders, of at most "
            f"{_LONGEST} bytes and ending in one of {', '.join(sorted(SUFFIXES))}",
        )
    return plain
