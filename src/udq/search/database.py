"""Photos in codes, as they are searched: those of a collection, or of an experiment that keeps none on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from udq.features import proposals
from udq.quantization.model import Model
from udq.search.confidence import Calibration
from udq.search.scan import exhaustive
from udq.search.scan.exhaustive import Part
from udq.search.scan.inverted import InvertedIndex
from udq.store import segments
from udq.store.manifest import Manifest
from udq.store.segments import Image, Segment, StoredPhoto


@dataclass(frozen=True)
class Nearest:
    """The n nearest photos of a database, nearest first; equal distances in the order of places.

    Attributes:
        place: (n,) int64, places in ``Database.images``.
        distance: (n,) float32, squared distance of eq. 5 to the best region of each.
        missing: how many photos could not be looked at.
    """

    place: NDArray[np.int64]
    distance: NDArray[np.float32]
    missing: int = 0


class Database(Protocol):
    """What is searched, wherever it is. A photo's place is its number in the order of ids, from 0."""

    @property
    def model(self) -> Model:
        """Fully connected layers and quantizer."""

    @property
    def ranked(self) -> bool:
        """Whether regions of a photo are in the order of their proposer, which puts the best first."""

    @property
    def images(self) -> list[Image]:
        """All photos, by their places."""

    @property
    def calibration(self) -> Calibration:
        """What chance looks like in these photos, for confidences; learned from their codes on first use."""

    def ready(self) -> None:
        """Work out what the first search would have to wait for."""

    def __len__(self) -> int:
        """Return the number N of photos."""

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return what is kept of some photos."""

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region by a query's (M, K) tables."""

    def nearest(self, lookups: NDArray[np.float32], k: int) -> list[Nearest]:
        """Return the ``k`` nearest photos for each of several queries, by their tables (Q, M, K)."""


@dataclass(frozen=True, eq=False)
class LocalDatabase:
    """Codes in the memory of this process, or mapped into it; safe to share between threads.

    Attributes:
        model, ranked: as in ``Database``.
        segments: codes, boxes and photos.
        looked_at: part of the codes that a search looks at, by way of an inverted index; None scans all.
        threads: that a search may take; as many as there are processors where None.
    """

    model: Model
    segments: tuple[Segment, ...]
    ranked: bool
    looked_at: float | None = None
    threads: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @staticmethod
    def open(path: Path, manifest: Manifest, model: Model, *, looked_at: float | None = None) -> LocalDatabase:
        """Read the segments of a collection; codes and boxes are memory-mapped.

        Args:
            path: the collection.
            manifest: the state to read.
            model: of that state.
            looked_at: as in the attributes.
        """
        quantizer = model.quantizer
        held = segments.read(path, manifest, subspaces=quantizer.subspaces, codewords=quantizer.codewords)
        ranked = manifest.config.features.proposals in proposals.RANKED
        return LocalDatabase(model, tuple(held), ranked, looked_at)

    @cached_property
    def images(self) -> list[Image]:
        """All photos, by their places."""
        return [segment.images[row] for segment in self.segments for row in segment.living.tolist()]

    @property
    def index(self) -> InvertedIndex:
        """The codes by cells; sorting them takes some seconds on first use for 100 million regions."""
        with self._lock:
            return self._index

    @property
    def calibration(self) -> Calibration:
        """What chance looks like in these photos, for confidences; learned from their codes on first use."""
        with self._lock:
            return self._calibration

    def ready(self) -> None:
        """Work out what the first search would have to wait for."""
        _ = self.calibration
        if self.looked_at is not None and self.segments:
            _ = self.index

    def __len__(self) -> int:
        """Return the number N of photos."""
        return int(self._ends[-1])

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return what is kept of some photos."""
        found = []
        for place, holder in zip(places, self._holders(places).tolist(), strict=True):
            segment = self.segments[holder]
            found.append(segment.indexed(int(segment.living[place - self._ends[holder]])))
        return found

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region by a query's (M, K) tables."""
        # A removed photo is scanned along with the others: its codes lie between theirs, until it is compacted away.
        every = (
            exhaustive.best_regions(lookup, s.codes, s.offsets, threads=self.threads).distance for s in self.segments
        )
        living = [found[segment.living] for found, segment in zip(every, self.segments, strict=True)]
        return np.concatenate([np.empty(0, np.float32), *living])

    def nearest(self, lookups: NDArray[np.float32], k: int) -> list[Nearest]:
        """Return the ``k`` nearest photos for each of several queries, by their tables (Q, M, K)."""
        if self.looked_at is not None and self.segments:
            found = [self.index.nearest_images(lookup, k, looked_at=self.looked_at) for lookup in lookups]
        else:
            found = exhaustive.nearest_images_of_each(lookups, self._parts, k, threads=self.threads)
        return [Nearest(self._places(images.image), images.distance) for images in found]

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return places of photos that are numbered through all segments, removed ones too."""
        starts = np.cumsum([0, *(len(segment.removed) for segment in self.segments)])
        holders = np.searchsorted(starts, rows, side="right") - 1
        pairs = zip(holders.tolist(), rows - starts[holders], strict=True)
        within = [np.searchsorted(self.segments[holder].living, row) for holder, row in pairs]
        return self._ends[holders] + np.array(within, np.int64)

    def _holders(self, places: Sequence[int]) -> NDArray[np.int64]:
        """Return which segment holds each of some photos."""
        found: NDArray[np.int64] = np.searchsorted(self._ends, places, side="right") - 1
        return found

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """The place of each segment's first photo, and N."""
        return np.cumsum([0, *(len(segment.living) for segment in self.segments)])

    @cached_property
    def _parts(self) -> list[Part]:
        """The codes as a scan takes them; a removed photo is never found."""
        # Codes of removed photos lie between those of others, and are scanned too until the collection is compacted.
        return [Part(s.codes, s.offsets, ~s.removed if s.removed.any() else None) for s in self.segments]

    @cached_property
    def _index(self) -> InvertedIndex:
        return InvertedIndex.build(self._parts, self.model.quantizer.codewords)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration.of(len(self), self.photos, self.model.quantizer)
