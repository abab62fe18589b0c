"""A collection on disk, re-read when it changes, so that requests see the changes of other processes."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from udq.collection import Collection
from udq.common.byte_cache import Cache
from udq.common.text import nfc, shown
from udq.errors import UdqError
from udq.store.layout import MANIFEST
from udq.store.segments import Image
from udq.web.problems import Problem

log = logging.getLogger("udq.web")

# Memory for recent results of ``CollectionView.find``, in bytes: indices of two million photos.
_FIND_CACHE_BYTES = 16_000_000


@dataclass(frozen=True, eq=False)
class CollectionView:
    """One state of a collection, with its photos by id, name and folder.

    Attributes:
        collection: opened, with verified checksums.
    """

    collection: Collection

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The result of ``Collection.info``."""
        return self.collection.info()

    @cached_property
    def by_id(self) -> dict[int, Image]:
        """The photos by their ids."""
        return {image.id: image for image in self.collection.images}

    def photo(self, number: int) -> Image:
        """Return the photo with an id; raises Problem if the collection has none."""
        try:
            return self.by_id[number]
        except KeyError:
            raise no_such_photo(number) from None

    @cached_property
    def names(self) -> list[str]:
        """Printable names of the photos, in the order of their ids."""
        return [shown(image.name) for image in self.collection.images]

    @cached_property
    def folders(self) -> list[tuple[str, int]]:
        """Folders by name, each with the number of photos in it and its subfolders; the first, ``""``, has all."""
        counts: Counter[str] = Counter()
        for folder, photos in Counter(PurePosixPath(name).parent for name in self.names).items():
            for each in (folder, *folder.parents):
                counts["" if str(each) == "." else str(each)] += photos
        return sorted(counts.items())

    @cached_property
    def _composed_names(self) -> list[str]:
        return [nfc(name) for name in self.names]

    @cached_property
    def _casefolded_names(self) -> list[str]:
        return [nfc(name.casefold()) for name in self.names]

    @cached_property
    def _find_cache(self) -> Cache[list[int]]:
        return Cache(_FIND_CACHE_BYTES)

    def find(self, words: str, folder: str) -> list[int]:
        """Return indices into ``collection.images``, ascending, of photos in a folder whose names contain all words.

        Args:
            words: separated by spaces; case and Unicode form are ignored.
            folder: includes its subfolders; ``""`` is the whole collection. The Unicode form counts only if there are
                folders of both forms.
        """
        # Clients request the pages of one list one after the other.
        found = self._find_cache.get((words, folder))
        if found is None:
            found = self._filter(words, folder)
            self._find_cache.put((words, folder), found, 8 * len(found))
        return found

    def _filter(self, words: str, folder: str) -> list[int]:
        wanted = nfc(words.casefold()).split()
        prefix, names = f"{folder.rstrip('/')}/" if folder else "", self.names
        if prefix and not any(name.startswith(prefix) for name in names):
            prefix, names = nfc(prefix), self._composed_names
        return [
            index
            for index, (name, casefolded) in enumerate(zip(names, self._casefolded_names, strict=True))
            if name.startswith(prefix) and all(word in casefolded for word in wanted)
        ]


def no_such_photo(number: int) -> Problem:
    """Return the problem for an id that no photo of the collection has."""
    return Problem("not-found", f"photo {number}: the collection has no photo with this id (any more)")


class LiveCollection:
    """Provides the newest readable state of a collection.

    ``current`` costs one ``stat`` of the manifest. The thread that first notices a change reads the new state; until it
    has, other threads get the previous view.

    Attributes:
        view: the state that was read last.
        error: why the newest state on disk could not be read; None if it could.
    """

    def __init__(self, collection: Collection) -> None:
        """Read the collection, and compare every file with its checksum."""
        self._refreshing = threading.Lock()
        self._stamp = self._stamp_of(collection)
        self.view = self._read(collection)
        self.error: str | None = None

    def current(self) -> CollectionView:
        """Return the newest state; if it cannot be read, the last good one, and set ``error``."""
        collection = self.view.collection
        stamp = self._stamp_of(collection)
        if stamp == self._stamp or not self._refreshing.acquire(blocking=False):
            return self.view
        try:
            newest = collection.refreshed()
            if newest is not collection:
                self.view = self._read(newest)
            self._stamp, self.error = stamp, None
        except UdqError as error:
            if self.error != str(error):
                log.warning("serving the last good state: %s", shown(str(error)))
            self.error = str(error)
        finally:
            self._refreshing.release()
        return self.view

    @staticmethod
    def _read(collection: Collection) -> CollectionView:
        view = CollectionView(collection)
        _ = view.facts, view.by_id, collection.extractor
        collection.database.ready()
        return view

    @staticmethod
    def _stamp_of(collection: Collection) -> tuple[int, ...] | None:
        """Return inode, times and size of the manifest, which every change replaces atomically."""
        try:
            stat = (collection.path / MANIFEST).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
