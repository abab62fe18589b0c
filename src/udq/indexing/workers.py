"""Workers: extract the features of photos and encode them, in this process or elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from udq.features.extractor import ExtractedPhoto, Extractor
from udq.indexing.encode import encode_or_report
from udq.photos.sandbox import Decoder
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.store.manifest import UnreadablePhoto
from udq.store.segments import StoredPhoto
from udq.types import Arrays


class Workers(Protocol):
    """Extracts and encodes photos."""

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; an unreadable photo is yielded with the reason."""

    def encode(self, photos: Iterable[tuple[int, Source]], model: Model) -> Iterator[StoredPhoto | UnreadablePhoto]:
        """Yield what a collection stores of each photo, in order.

        Args:
            photos: ids and photos.
            model: the collection's model.
        """

    def load(self, convolutions: Arrays) -> None:
        """Replace the convolutions by trained ones, by name; an empty mapping changes nothing."""


class LocalWorkers:
    """Extracts and encodes photos in this process."""

    def __init__(self, extractor: Extractor, decoder: Decoder | None = None) -> None:
        """Wrap an extractor.

        Args:
            extractor: the network.
            decoder: decodes all photos, and stays open; if None, each call opens one of its own.
        """
        self._extractor = extractor
        self._decoder = decoder

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, as in ``Workers.extract``."""
        return self._extractor.extract(sources, self._decoder)

    def encode(self, photos: Iterable[tuple[int, Source]], model: Model) -> Iterator[StoredPhoto | UnreadablePhoto]:
        """Yield what a collection stores of each photo, as in ``Workers.encode``."""
        numbers: deque[int] = deque()

        def sources() -> Iterator[Source]:
            for number, source in photos:
                numbers.append(number)
                yield source

        for photo in self.extract(sources()):
            yield encode_or_report(photo, numbers.popleft(), model)

    def load(self, convolutions: Arrays) -> None:
        """Replace the convolutions by trained ones, as in ``Workers.load``."""
        self._extractor.load(convolutions)
