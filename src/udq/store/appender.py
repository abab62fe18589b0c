"""Appending photos to a collection, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from udq.store import segments
from udq.store.segments import Segment, StoredPhoto, removed_regions
from udq.store.transaction import Transaction


class SegmentAppender:
    """Appends photos to the last segment of a collection until it is full, then to new segments.

    Files never change, so that each batch writes the photos of the last segment again: ``segments.PHOTOS`` bounds the
    work. Full segments are never written again; photos that are removed from them are listed as removed.
    """

    def __init__(self, transaction: Transaction, existing: Sequence[Segment], *, codewords: int) -> None:
        """Take over the last segment, if it is not full.

        Args:
            transaction: what commits.
            existing: all segments of the collection, in the transaction's state.
            codewords: K.
        """
        self._transaction = transaction
        self._codewords = codewords
        self._full = list(existing)
        self._entries: list[Mapping[str, Any]] = list(transaction.manifest.segments)
        self._last: list[StoredPhoto] = []
        if existing and len(existing[-1].living) < segments.PHOTOS:
            self._entries.pop()
            last = self._full.pop()
            self._last = [last.indexed(row) for row in last.living]
        self._regions: dict[int, int] = {}  # id -> regions of the photos in full segments that this appender wrote
        self._removed: set[int] = set()

    def append(
        self, photos: Iterable[StoredPhoto], *, removed: AbstractSet[int] = frozenset(), **facts: object
    ) -> None:
        """Commit photos, and the removal of others, in one step.

        Args:
            photos: with higher ids than those of the collection, in ascending order.
            removed: ids of photos to remove.
            facts: other keys of the manifest that change, as in ``Transaction.commit``.
        """
        self._removed |= removed
        self._last = [photo for photo in self._last if photo.image.id not in self._removed]
        self._last += photos
        while len(self._last) >= segments.PHOTOS:
            full, self._last = self._last[: segments.PHOTOS], self._last[segments.PHOTOS :]
            self._entries.append(self._transaction.write(full, codewords=self._codewords))
            self._regions |= {photo.image.id: len(photo.boxes) for photo in full}
        entries = list(self._entries)
        if self._last:
            entries.append(self._transaction.write(self._last, codewords=self._codewords))
        gone = removed_regions(self._full, self._removed)
        gone |= {number: self._regions[number] for number in self._removed & self._regions.keys()}
        self._transaction.commit(entries, gone, **facts)
