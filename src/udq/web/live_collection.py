"""A collection as it is now: what others add or remove meanwhile is seen by the next answer."""

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
from udq.common.text import shown
from udq.errors import UdqError
from udq.store import manifest
from udq.store.segments import Image
from udq.web.problems import Problem

log = logging.getLogger("udq.web")

# Of lists of photos that were asked for: places of two million.
_LISTS_BYTES = 16_000_000


@dataclass(frozen=True, eq=False)
class CollectionView:
    """A collection in one state, and its photos as a page lists them.

    Attributes:
        collection: opened, its checksums compared.
    """

    collection: Collection

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``udq info`` says of it."""
        return self.collection.info()

    @cached_property
    def by_id(self) -> dict[int, Image]:
        """The photos by their ids."""
        return {image.id: image for image in self.collection.images}

    def photo(self, number: int) -> Image:
        """Return the photo of an id; raises Problem where there is none."""
        try:
            return self.by_id[number]
        except KeyError:
            raise Problem("not-found", f"photo {number}: the collection has none of this id (any more)") from None

    @cached_property
    def names(self) -> list[str]:
        """Names of the photos as they can be shown, in the order of their ids."""
        return [shown(image.name) for image in self.collection.images]

    @cached_property
    def folders(self) -> list[tuple[str, int]]:
        """Every folder and the number of photos in it and below, by name; the first one, ``""``, holds all."""
        counted: Counter[str] = Counter()
        for folder, photos in Counter(PurePosixPath(name).parent for name in self.names).items():
            for each in (folder, *folder.parents):
                counted["" if str(each) == "." else str(each)] += photos
        return sorted(counted.items())

    @cached_property
    def _folded(self) -> list[str]:
        return [name.casefold() for name in self.names]

    @cached_property
    def _lists(self) -> Cache[list[int]]:
        return Cache(_LISTS_BYTES)

    def find(self, words: str, folder: str) -> list[int]:
        """Return the places, in the order of ids, of photos in a folder or below whose names hold all words."""
        # Pages of one list are asked for one after the other.
        found = self._lists.get((words, folder))
        if found is None:
            found = self._look(words, folder)
            self._lists.put((words, folder), found, 8 * len(found))
        return found

    def _look(self, words: str, folder: str) -> list[int]:
        wanted = words.casefold().split()
        below = f"{folder.rstrip('/')}/" if folder else ""
        return [
            place
            for place, (name, folded) in enumerate(zip(self.names, self._folded, strict=True))
            if name.startswith(below) and all(word in folded for word in wanted)
        ]


class LiveCollection:
    """Gives a collection in its newest state.

    Asking costs a look at one file. Who first sees a change reads what is new; others get the old state meanwhile.
    """

    def __init__(self, collection: Collection) -> None:
        """Read the collection: every byte of what it holds is compared with its checksum."""
        self._reading = threading.Lock()
        self._seen = self._mark(collection)
        # The one that was read last, and why the newest one could not be.
        self.state = self._read(collection)
        self.trouble: str | None = None

    def now(self) -> CollectionView:
        """Return the newest state; the last good one where the newest cannot be read, and ``trouble`` says why."""
        collection = self.state.collection
        seen = self._mark(collection)
        if seen == self._seen or not self._reading.acquire(blocking=False):
            return self.state
        try:
            newest = collection.refreshed()
            if newest is not collection:
                self.state = self._read(newest)
            self._seen, self.trouble = seen, None
        except UdqError as error:
            if self.trouble != str(error):
                log.warning("answering from the last good state: %s", shown(str(error)))
            self.trouble = str(error)
        finally:
            self._reading.release()
        return self.state

    @staticmethod
    def _read(collection: Collection) -> CollectionView:
        state = CollectionView(collection)
        _ = state.facts, state.by_id, collection.extractor
        collection.database.ready()
        return state

    @staticmethod
    def _mark(collection: Collection) -> tuple[int, int, int] | None:
        """What tells one manifest from the next, which takes its place in one step."""
        try:
            found = (collection.path / manifest.MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
