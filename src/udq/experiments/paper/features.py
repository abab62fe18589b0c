"""Features of a data set's photos, cached on disk so that all cells share one extraction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from udq.common.progress import Progress
from udq.features.cache import FeatureCache
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import Source


class Photos(Protocol):
    """Photos and their features, which can be iterated any number of times."""

    def __iter__(self) -> Iterator[ExtractedPhoto]:
        """Yield every photo, in the order of names."""

    def __len__(self) -> int:
        """Return the number of photos, including unreadable ones."""

    def select(self, rows: Sequence[int]) -> Iterator[ExtractedPhoto]:
        """Yield the photos at these positions, in ascending order, without extracting the others."""

    def with_extractor(self, extractor: Extractor) -> Photos:
        """Return the same photos with features of another network."""


class CachedPhotos:
    """Photos in files, with cached features.

    Attributes:
        broken: names of the photos that could not be read so far, by this network or another.
    """

    def __init__(
        self, sources: Sequence[Source], extractor: Extractor, progress: Progress, folder: Path | None = None
    ) -> None:
        """Store the settings; features are extracted by the first iteration.

        Args:
            sources: the photos, in the order of names.
            extractor: the network.
            progress: called for each photo.
            folder: the cache of features, which survives a killed run; if None, every iteration extracts them again.
                This suits convolutions that are trained for one cell only.
        """
        self._sources = sources
        self._extractor = extractor
        self._progress = progress
        self._folder = folder
        self.broken: set[str] = set()

    def __iter__(self) -> Iterator[ExtractedPhoto]:
        """Yield every photo."""
        return self._extract(self._sources, "photos")

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._sources)

    def select(self, rows: Sequence[int]) -> Iterator[ExtractedPhoto]:
        """Yield the photos at these positions; with a cache, every call must give the same positions."""
        return self._extract([self._sources[i] for i in rows], "photos-sample")

    def with_extractor(self, extractor: Extractor) -> CachedPhotos:
        """Return the same photos with features of another network, without a cache."""
        photos = CachedPhotos(self._sources, extractor, self._progress)
        photos.broken = self.broken
        return photos

    def _extract(self, sources: Sequence[Source], name: str) -> Iterator[ExtractedPhoto]:
        extracted: Iterable[ExtractedPhoto]
        if self._folder is None:
            extracted = self._extractor.extract(sources)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            extracted = FeatureCache(self._folder / name, sources, self._extractor.extract).fill()
        with self._progress("photos", len(sources)) as step:
            for photo in extracted:
                step()
                if photo.broken is not None:
                    self.broken.add(photo.source.name)
                yield photo
