"""A photo's regions and features -> what a collection keeps of it; and who does that: this process, or workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from udq.decode import Decoder
from udq.extract import Extracted, Extractor
from udq.head import Arrays
from udq.images import Source
from udq.model import Model
from udq.segments import Image, Indexed
from udq.train import Trained, train
from udq.types import Regions

Seen = Indexed | dict[str, str]
"""What a collection keeps of a photo; of one that could not be read, ``image`` and ``reason``."""


class Workforce(Protocol):
    """Those who look at photos and encode them."""

    def extract(self, sources: Iterable[Source]) -> Iterator[Extracted]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason."""

    def encode(self, photos: Iterable[tuple[int, Source]], fitted: Model) -> Iterator[Seen]:
        """Yield what a collection keeps of each photo, in order; photos come with their ids."""

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions; none leave the network as it is."""

    @property
    def train(self) -> Callable[..., Trained]:
        """What trains: ``udq.train.train``, or what does the same elsewhere."""


class Here:
    """This process alone."""

    def __init__(self, extractor: Extractor, decoder: Decoder | None = None) -> None:
        """Let an extractor do the work, by a decoder that stays open; by new ones each time where None."""
        self._extractor = extractor
        self._decoder = decoder

    def extract(self, sources: Iterable[Source]) -> Iterator[Extracted]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason."""
        return self._extractor.extract(sources, self._decoder)

    def encode(self, photos: Iterable[tuple[int, Source]], fitted: Model) -> Iterator[Seen]:
        """Yield what a collection keeps of each photo, in order; photos come with their ids."""
        numbers: deque[int] = deque()

        def sources() -> Iterator[Source]:
            for number, source in photos:
                numbers.append(number)
                yield source

        for photo in self.extract(sources()):
            yield seen(photo, numbers.popleft(), fitted)

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions; none leave the network as it is."""
        self._extractor.load(convolutions)

    @property
    def train(self) -> Callable[..., Trained]:
        """What trains."""
        return train


def seen(photo: Extracted, number: int, fitted: Model) -> Seen:
    """Return what a collection keeps of a photo, or why it cannot; everything else as in ``encode``."""
    return encode(photo, number, fitted) if photo.broken is None else why_broken(photo)


def encode(photo: Extracted, number: int, fitted: Model) -> Indexed:
    """Return what a collection keeps of a photo.

    Args:
        photo: one that could be read.
        number: its id.
        fitted: the collection's model.
    """
    codes, error = fitted.measured(photo.features)
    image = Image(photo.source.name, photo.source.root, photo.width, photo.height, number)
    return Indexed(image, photo.content, _whole_pixels(photo.regions), codes.values, error)


def why_broken(photo: Extracted) -> dict[str, str]:
    """Return what a collection says of a photo that could not be read."""
    return {"image": photo.source.name, "reason": str(photo.broken)}


def _whole_pixels(regions: Regions) -> NDArray[np.uint16]:
    """Round boxes outwards, so that not even a tiny photo's smallest window becomes empty."""
    noise = 1e-3
    low, high = np.floor(regions.boxes[:, :2] + noise), np.ceil(regions.boxes[:, 2:] - noise)
    return np.concatenate([low, high], axis=1).astype(np.uint16)
