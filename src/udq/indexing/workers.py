"""A photo's regions and features -> what a collection keeps of it; and who does that: this process, or workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from udq.features.extractor import ExtractedPhoto, Extractor
from udq.indexing.encode import Seen, seen
from udq.photos.sandbox import Decoder
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.types import Arrays


class Workers(Protocol):
    """Those who look at photos and encode them."""

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason."""

    def encode(self, photos: Iterable[tuple[int, Source]], fitted: Model) -> Iterator[Seen]:
        """Yield what a collection keeps of each photo, in order; photos come with their ids."""

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions; none leave the network as it is."""


class LocalWorkers:
    """This process alone."""

    def __init__(self, extractor: Extractor, decoder: Decoder | None = None) -> None:
        """Let an extractor do the work, by a decoder that stays open; by new ones each time where None."""
        self._extractor = extractor
        self._decoder = decoder

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason."""
        return self._extractor.extract(sources, self._decoder)

    def encode(self, photos: Iterable[tuple[int, Source]], fitted: Model) -> Iterator[Seen]:
        """Yield what a collection keeps of each photo, in order; photos come with their ids."""
        numbers: deque[int] = deque()

        def sources() -> Iterator[Source]:
            for number, source in photos:
                numbers.append(number)
                yield source

        for photo in self._extractor.extract(sources(), self._decoder):
            yield seen(photo, numbers.popleft(), fitted)

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions; none leave the network as it is."""
        self._extractor.load(convolutions)
