"""What was extracted from photos, waiting on disk, so that no photo goes through the network twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from udq.common import npz
from udq.common.files import write_whole
from udq.features.extractor import ExtractedPhoto
from udq.photos import source as photo_source
from udq.types import Features, Regions

Extract = Callable[[Iterable[photo_source.Source]], Iterator[ExtractedPhoto]]

# Photos a file: 36 MB with the default backbone.
_PHOTOS = 64


class FeatureCache:
    """What was extracted from the training photos, waiting to be encoded: files of some photos each."""

    def __init__(self, folder: Path, sources: Sequence[photo_source.Source], extract: Extract) -> None:
        """Look at nothing yet.

        Args:
            folder: of these photos alone.
            sources: the photos.
            extract: ``Extractor.extract``, or a workforce's.
        """
        self.folder = folder
        self.sources = sources
        self._extract = extract
        self.broken: list[str] = []

    def fill(self) -> Iterator[ExtractedPhoto]:
        """Yield the photos, extracted now or by an earlier try, and keep them."""
        self.folder.mkdir(exist_ok=True)
        done = 0
        for photo in self.drain(skip=0):
            done += 1
            yield self._noticed(photo)
        fresh = self._extract(self.sources[done:])
        for number in itertools.count(len(list(self._files())) + 1):
            some = list(itertools.islice(fresh, _PHOTOS))
            if not some:
                return
            write_whole(self._file(number), self._bytes(some))
            yield from map(self._noticed, some)

    def drain(self, *, skip: int) -> Iterator[ExtractedPhoto]:
        """Yield the photos again, in the same order, but for the first ones."""
        sources = iter(self.sources)
        read = (self._read(file, sources) for file in self._files())
        return itertools.islice(itertools.chain.from_iterable(read), skip, None)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _files(self) -> Iterator[Path]:
        """Files without a gap, in order."""
        return itertools.takewhile(Path.exists, map(self._file, itertools.count(1)))

    def _noticed(self, photo: ExtractedPhoto) -> ExtractedPhoto:
        if photo.broken is not None:
            self.broken.append(photo.broken)
        return photo

    def _bytes(self, photos: Sequence[ExtractedPhoto]) -> bytes:
        facts = [
            [
                photo.width,
                photo.height,
                len(photo.regions),
                photo.broken,
                photo.content and [photo.content.size, photo.content.modified, photo.content.digest.hex()],
            ]
            for photo in photos
        ]
        return npz.to_bytes(
            {
                "facts": np.array(json.dumps(facts)),
                "boxes": np.concatenate([photo.regions.boxes for photo in photos]),
                "vectors": np.concatenate([photo.features.vectors for photo in photos]),
            }
        )

    def _read(self, file: Path, sources: Iterator[photo_source.Source]) -> list[ExtractedPhoto]:
        arrays = npz.from_bytes(file.read_bytes())
        facts, boxes, vectors = json.loads(str(arrays["facts"])), arrays["boxes"], arrays["vectors"]
        found, start = [], 0
        # Facts first: of two iterators, the one that ends first is asked first.
        for (width, height, count, broken, held), source in zip(facts, sources, strict=False):
            rows = slice(start, start := start + count)
            content = held and photo_source.Content(held[0], held[1], bytes.fromhex(held[2]))
            regions, features = Regions(boxes[rows]), Features(vectors[rows])
            found.append(ExtractedPhoto(source, width, height, regions, features, broken, content))
        return found
