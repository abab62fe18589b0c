"""Cache of extracted photos on disk, so that no photo goes through the network twice."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from udq.common import npz
from udq.common.files import MAX_FEATURES, guarded, read_regular, reason, write_whole
from udq.errors import UdqError
from udq.features.extractor import ExtractedPhoto
from udq.keypoints.codebook import joined
from udq.photos.source import Content, Source
from udq.types import Features, Regions

Extract = Callable[[Iterable[Source]], Iterator[ExtractedPhoto]]

# Most photos per file: 36 MB with the default backbone. With a slow network, a file is written after some seconds, so
# that progress is shown, and little is lost if the process is killed.
_PHOTOS, _SECONDS = 64, 20.0


class FeatureCache:
    """Regions and features of photos in a folder, several photos per file.

    Attributes:
        folder: the folder; no other photos may be cached there.
        sources: the photos, in order.
        broken: reasons of the photos that could not be decoded, in order, as far as ``fill`` has come.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], extract: Extract) -> None:
        """Open the cache; nothing is extracted yet.

        Args:
            folder: the folder, created on first use.
            sources: the photos, in order.
            extract: ``Extractor.extract``, or the same on other workers.
        """
        self.folder = folder
        self.sources = sources
        self._extract = extract
        self.broken: list[str] = []

    def fill(self) -> Iterator[ExtractedPhoto]:
        """Yield all photos: first those that an earlier run cached, then the others as they are extracted."""
        guarded(self.folder, lambda: self.folder.mkdir(exist_ok=True))
        done = 0
        for photo in self.drain(skip=0):
            done += 1
            yield self._recorded(photo)
        extracted = self._extract(self.sources[done:])
        for number in itertools.count(len(list(self._files())) + 1):
            if not (batch := _batch(extracted)):
                return
            write_whole(self._file(number), to_bytes(batch))
            yield from map(self._recorded, batch)

    def drain(self, *, skip: int) -> Iterator[ExtractedPhoto]:
        """Yield the cached photos in order, without the first ``skip``.

        Raises:
            UdqError: a file is damaged.
        """
        sources = iter(self.sources)
        read = (read_cached(file, sources) for file in self._files())
        return itertools.islice(itertools.chain.from_iterable(read), skip, None)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _files(self) -> Iterator[Path]:
        """Yield the files in order, up to the first that is missing."""
        return itertools.takewhile(os.path.lexists, map(self._file, itertools.count(1)))

    def _recorded(self, photo: ExtractedPhoto) -> ExtractedPhoto:
        """Add the photo to ``broken`` if it is."""
        if photo.broken is not None:
            self.broken.append(photo.broken)
        return photo


def _batch(extracted: Iterator[ExtractedPhoto]) -> list[ExtractedPhoto]:
    """Return the next photos, as many as a file takes; none at the end."""
    batch: list[ExtractedPhoto] = []
    started = time.monotonic()
    for photo in extracted:
        batch.append(photo)
        if len(batch) == _PHOTOS or time.monotonic() - started > _SECONDS:
            break
    return batch


def to_bytes(photos: Sequence[ExtractedPhoto]) -> bytes:
    """Return photos as an .npz archive; ``from_bytes`` reads it back exactly."""
    facts = [
        [
            photo.width,
            photo.height,
            len(photo.regions),
            len(photo.points),
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
            "of_view": np.concatenate([photo.of_view for photo in photos]),
            "points": joined([photo.points for photo in photos]),
        }
    )


def read_cached(file: Path, sources: Iterator[Source]) -> list[ExtractedPhoto]:
    """Read a file of the bytes of ``to_bytes``; the sources of the photos are taken from an iterator.

    Raises:
        UdqError: it is damaged, or not a regular file.
    """
    try:
        return from_bytes(read_regular(file, limit=MAX_FEATURES), sources)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UdqError:
    """Return the error for a file of features that cannot be read."""
    found = f"found a damaged file ({reason(error)})"
    return UdqError(f"{file}: expected stored features, {found}; delete it, and what it held is extracted again")


def from_bytes(data: bytes, sources: Iterator[Source]) -> list[ExtractedPhoto]:
    """Read ``to_bytes``; the sources of the photos are taken from an iterator."""
    arrays = npz.from_bytes(data)
    facts, boxes, vectors = json.loads(str(arrays["facts"])), arrays["boxes"], arrays["vectors"]
    of_view, points = arrays["of_view"], arrays["points"]
    photos, start, first = [], 0, 0
    # Facts first: zip ends with them before it takes a source that belongs to the next file.
    for (width, height, count, local, broken, described), source in zip(facts, sources, strict=False):
        rows = slice(start, start := start + count)
        own = points[first : (first := first + local)]
        content = described and Content(described[0], described[1], bytes.fromhex(described[2]))
        regions, features = Regions(boxes[rows]), Features(vectors[rows])
        photos.append(ExtractedPhoto(source, width, height, regions, features, of_view[rows], own, broken, content))
    return photos
