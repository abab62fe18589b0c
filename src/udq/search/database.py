"""The codes of a set of photos, as a search takes them: a collection's, or an experiment's that are not on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from udq.features import proposals
from udq.keypoints.sift import DIMENSIONS
from udq.quantization.model import Model
from udq.search.confidence import Calibration
from udq.search.scan import exhaustive, votes
from udq.search.scan.exhaustive import NearestImages, Part
from udq.search.scan.inverted import InvertedIndex
from udq.search.scan.votes import MostVoted, PointPart
from udq.store import segments
from udq.store.manifest import Manifest
from udq.store.segments import Image, Segment, StoredPhoto


class Database(Protocol):
    """Photos in codes, in this process or elsewhere. The place of a photo is its index in the order of ids, from 0."""

    @property
    def model(self) -> Model:
        """Fully connected layers and quantizer."""

    @property
    def threads(self) -> int | None:
        """Threads that a search uses on this machine; as many as there are cores if None."""

    @property
    def ranked(self) -> bool:
        """Whether the regions of a photo are in the order of the proposer, best first."""

    @property
    def position(self) -> str:
        """``SearchConfig.position`` of the collection."""

    @property
    def images(self) -> list[Image]:
        """All photos, by place."""

    @property
    def calibration(self) -> Calibration:
        """The null model behind confidences; learned from the codes of these photos on first use."""

    def ready(self) -> None:
        """Compute everything that the first search would have to wait for."""

    def __len__(self) -> int:
        """Return the number N of photos."""

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return the records, codes and boxes of the photos at these places."""

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region, by the (M, K) tables of a query."""

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the ``k`` nearest photos of each of Q queries, by their tables (Q, M, K); ``image`` holds places."""

    @property
    def has_points(self) -> bool:
        """Whether local features of photos are stored."""

    def most_voted(self, descriptors: NDArray[np.float32], count: int) -> MostVoted:
        """Return the photos that a query's local features vote for most.

        Args:
            descriptors: (P, 128) float32, of the query.
            count: number of photos at most; photos without a vote are left out.
        """


@dataclass(frozen=True, eq=False)
class LocalDatabase:
    """Codes in the memory of this process, or memory-mapped; safe to share between threads.

    Attributes:
        model, ranked: as in ``Database``.
        segments: codes, boxes and photos.
        looked_at: share of the codes that a search scans through an inverted index, 0..1; None scans all codes
            without an index.
        threads: threads per search; as many as there are cores, and as the work justifies, if None.
        position: as in ``Database``.
    """

    model: Model
    segments: tuple[Segment, ...]
    ranked: bool
    looked_at: float | None = None
    threads: int | None = None
    position: str = "regions"
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @staticmethod
    def open(
        path: Path, manifest: Manifest, model: Model, *, looked_at: float | None = None, threads: int | None = None
    ) -> LocalDatabase:
        """Read the segments of a collection; codes and boxes are memory-mapped.

        Args:
            path: the collection.
            manifest: the state to read.
            model: of that state.
            looked_at, threads: as in the attributes.
        """
        quantizer = model.quantizer
        read = segments.read(path, manifest, subspaces=quantizer.subspaces, codewords=quantizer.codewords)
        ranked = manifest.config.features.proposals in proposals.RANKED
        return LocalDatabase(model, tuple(read), ranked, looked_at, threads, manifest.config.search.position)

    @cached_property
    def images(self) -> list[Image]:
        """All photos, by place."""
        return [segment.images[row] for segment in self.segments for row in segment.living.tolist()]

    @property
    def index(self) -> InvertedIndex:
        """The codes sorted by cell, on first use; this takes a few seconds for 100 million regions."""
        with self._lock:
            return self._index

    @property
    def calibration(self) -> Calibration:
        """The null model behind confidences; learned from the codes of these photos on first use."""
        with self._lock:
            return self._calibration

    def ready(self) -> None:
        """Compute everything that the first search would have to wait for."""
        _ = self.calibration
        self.sort()

    def sort(self) -> None:
        """Build the lists by cell of codes, if they are searched through an inverted index, and of local features."""
        if self.has_points:
            _ = self.most_voted(np.zeros((1, DIMENSIONS), np.float32), 1)
        if self.looked_at is not None and self.segments:
            _ = self.index

    def __len__(self) -> int:
        """Return the number N of photos."""
        return int(self._starts[-1])

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return the records, codes and boxes of the photos at these places."""
        photos = []
        for place, number in zip(places, self._segment_numbers(places).tolist(), strict=True):
            segment = self.segments[number]
            photos.append(segment.indexed(int(segment.living[place - self._starts[number]])))
        return photos

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region, by the (M, K) tables of a query."""
        # Removed photos are scanned too: their codes stay between the others until the collection is compacted.
        every = (
            exhaustive.best_regions(lookup, s.codes, s.offsets, threads=self.threads).distance for s in self.segments
        )
        living = [distance[segment.living] for distance, segment in zip(every, self.segments, strict=True)]
        return np.concatenate([np.empty(0, np.float32), *living])

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the ``k`` nearest photos of each of Q queries, by their tables (Q, M, K); ``image`` holds places."""
        if self.looked_at is not None and self.segments:
            batch = [
                self.index.nearest_images(lookup, k, looked_at=self.looked_at, threads=self.threads)
                for lookup in lookups
            ]
        else:
            batch = exhaustive.nearest_images_batch(lookups, self._parts, k, threads=self.threads)
        return [replace(nearest, image=self._places(nearest.image)) for nearest in batch]

    @property
    def has_points(self) -> bool:
        """Whether local features of photos are stored."""
        return any(len(segment.points) for segment in self.segments)

    def most_voted(self, descriptors: NDArray[np.float32], count: int) -> MostVoted:
        """Return the photos that local features vote for, as in ``Database.most_voted``."""
        with self._lock:
            parts = self._point_parts
        found = votes.votes(parts, descriptors, threads=self.threads)
        living = [total[segment.living] for total, segment in zip(found, self._with_points, strict=True)]
        places = [
            start + np.arange(len(segment.living))
            for start, segment in zip(self._starts.tolist(), self.segments, strict=False)
            if len(segment.points)
        ]
        total = np.concatenate([np.empty(0, np.float32), *living])
        return MostVoted.of(np.concatenate([np.empty(0, np.int64), *places]), total, count)

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of photos that are numbered through all segments, removed photos included."""
        starts = np.cumsum([0, *(len(segment.removed) for segment in self.segments)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        pairs = zip(numbers.tolist(), rows - starts[numbers], strict=True)
        within = [np.searchsorted(self.segments[number].living, row) for number, row in pairs]
        return self._starts[numbers] + np.array(within, np.int64)

    def _segment_numbers(self, places: Sequence[int]) -> NDArray[np.int64]:
        """Return the index of the segment that contains each photo."""
        numbers: NDArray[np.int64] = np.searchsorted(self._starts, places, side="right") - 1
        return numbers

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The place of the first photo of each segment, then N."""
        return np.cumsum([0, *(len(segment.living) for segment in self.segments)])

    @cached_property
    def _parts(self) -> list[Part]:
        """The codes as the scan takes them, with removed photos masked out."""
        return [Part(s.codes, s.offsets, ~s.removed if s.removed.any() else None) for s in self.segments]

    @property
    def _with_points(self) -> list[Segment]:
        return [segment for segment in self.segments if len(segment.points)]

    @cached_property
    def _point_parts(self) -> list[PointPart]:
        """The local features as they are searched; the lists of cells take a few seconds for 400 million."""
        parts = [PointPart(segment.points, segment.starts) for segment in self._with_points]
        for part in parts:
            _ = part.lists, part.photo_of
        return parts

    @cached_property
    def _index(self) -> InvertedIndex:
        return InvertedIndex.build(self._parts, self.model.quantizer.codewords)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration.learn(len(self), self.photos, self.model.quantizer, ranked=self.ranked)
