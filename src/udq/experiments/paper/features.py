"""What a network makes of a data set's photos, kept on disk so that every cell finds it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from udq.common.progress import Progress
from udq.features.cache import FeatureCache
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import Source


class Photos(Protocol):
    """What a network makes of some photos, as often as it is asked for."""

    def __iter__(self) -> Iterator[ExtractedPhoto]:
        """Yield every photo, in the order of names."""

    def __len__(self) -> int:
        """Return how many there are, with those that cannot be read."""

    def some(self, rows: Sequence[int]) -> Iterator[ExtractedPhoto]:
        """Yield the photos of these places, ascending, without a look at the others."""

    def seen_by(self, extractor: Extractor) -> Photos:
        """Return the same photos as another network sees them."""


class CachedPhotos:
    """Photos of files.

    Attributes:
        broken: names of those that could not be read, as far as they were looked at, by whatever network.
    """

    def __init__(
        self, sources: Sequence[Source], extractor: Extractor, progress: Progress, folder: Path | None = None
    ) -> None:
        """Look at nothing yet.

        Args:
            sources: the photos, in the order of names.
            extractor: the network.
            progress: is told of each photo.
            folder: where features are kept, and found again after a kill; without one, photos are looked at each
                time, as is best with convolutions that are trained for one cell alone.
        """
        self._sources = sources
        self._extractor = extractor
        self._progress = progress
        self._folder = folder
        self.broken: set[str] = set()

    def __iter__(self) -> Iterator[ExtractedPhoto]:
        """Yield every photo."""
        return self._look(self._sources, "photos")

    def __len__(self) -> int:
        """Return how many photos there are."""
        return len(self._sources)

    def some(self, rows: Sequence[int]) -> Iterator[ExtractedPhoto]:
        """Yield the photos of these places; which they are may not differ from call to call."""
        return self._look([self._sources[i] for i in rows], "photos-sample")

    def seen_by(self, extractor: Extractor) -> CachedPhotos:
        """Return the same photos as another network sees them, kept nowhere."""
        seen = CachedPhotos(self._sources, extractor, self._progress)
        seen.broken = self.broken
        return seen

    def _look(self, sources: Sequence[Source], name: str) -> Iterator[ExtractedPhoto]:
        found: Iterable[ExtractedPhoto]
        if self._folder is None:
            found = self._extractor.extract(sources)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = FeatureCache(self._folder / name, sources, self._extractor.extract).fill()
        with self._progress("photos", len(sources)) as step:
            for photo in found:
                step()
                if photo.broken is not None:
                    self.broken.add(photo.source.name)
                yield photo
