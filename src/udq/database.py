"""Photos in codes, as they are searched: those of a collection, or of an experiment that keeps none on disk."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

from udq.calibrate import Calibration
from udq.inverted import InvertedIndex
from udq.model import Model
from udq.segments import Image, Segment


@dataclass(frozen=True, eq=False)
class Database:
    """Codes of photos and what made them; safe to share between threads.

    Attributes:
        model: fully connected layers and quantizer.
        segments: codes, boxes and photos.
        ranked: whether regions of a photo are in the order of their proposer, which puts the best first.
        looked_at: part of the codes that a search looks at, by way of the inverted index; None scans all.
    """

    model: Model
    segments: tuple[Segment, ...]
    ranked: bool
    looked_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @cached_property
    def images(self) -> list[Image]:
        """The photos, in the order of their ids; rankings name them by their places here."""
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

    @cached_property
    def _index(self) -> InvertedIndex:
        return InvertedIndex.build([segment.part for segment in self.segments], self.model.quantizer.codewords)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration.of(self.segments, self.model.quantizer)
