"""Extracted features on disk, so that no photo goes through the network twice: for one build, or between runs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from udq import (
    archive,
    backbones,
    decode,
    decoding_process,
    engine,
    extract,
    images,
    inference,
    pooling,
    proposals,
    trunk,
)
from udq.config import IndexConfig
from udq.durable import guarded, npy, write_new, write_whole
from udq.errors import UdqError
from udq.extract import Extracted, Extractor
from udq.provenance import versions
from udq.types import Features, Regions

Extract = Callable[[Iterable[images.Source]], Iterator[Extracted]]

# Photos a file: 36 MB with the default backbone.
_PHOTOS = 64


class Spool:
    """What was extracted from the training photos, waiting to be encoded: files of some photos each."""

    def __init__(self, folder: Path, sources: Sequence[images.Source], extract: Extract) -> None:
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

    def fill(self) -> Iterator[Extracted]:
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
            write_whole(self._file(number), _to_bytes(some))
            yield from map(self._noticed, some)

    def drain(self, *, skip: int) -> Iterator[Extracted]:
        """Yield the photos again, in the same order, but for the first ones."""
        sources = iter(self.sources)
        read = (_from_bytes(file.read_bytes(), sources) for file in self._files())
        return itertools.islice(itertools.chain.from_iterable(read), skip, None)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _files(self) -> Iterator[Path]:
        """Files without a gap, in order."""
        return itertools.takewhile(Path.exists, map(self._file, itertools.count(1)))

    def _noticed(self, photo: Extracted) -> Extracted:
        if photo.broken is not None:
            self.broken.append(photo.broken)
        return photo


def _to_bytes(photos: Sequence[Extracted]) -> bytes:
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
    return archive.to_bytes(
        {
            "facts": np.array(json.dumps(facts)),
            "boxes": np.concatenate([photo.regions.boxes for photo in photos]),
            "vectors": np.concatenate([photo.features.vectors for photo in photos]),
        }
    )


def _from_bytes(data: bytes, sources: Iterator[images.Source]) -> list[Extracted]:
    arrays = archive.from_bytes(data)
    facts, boxes, vectors = json.loads(str(arrays["facts"])), arrays["boxes"], arrays["vectors"]
    found, start = [], 0
    # Facts first: of two iterators, the one that ends first is asked first.
    for (width, height, count, broken, held), source in zip(facts, sources, strict=False):
        rows = slice(start, start := start + count)
        content = held and images.Content(held[0], held[1], bytes.fromhex(held[2]))
        regions, features = Regions(boxes[rows]), Features(vectors[rows])
        found.append(Extracted(source, width, height, regions, features, broken, content))
    return found


# Settings of [images] that change what is extracted from a query and not what is extracted from a photo.
_QUERY_SETTINGS = "least", "mirror"
# To be raised when files of the cache are written otherwise.
_FORMAT = 1
# Code whose output is kept, beside everything in the folder of proposals.
_CODE = backbones, decode, decoding_process, engine, extract, images, inference, pooling, trunk


class FeatureCache:
    """Features of photos and queries, kept in a folder between runs; about 0.5 MB a photo with the default preset.

    An entry is found again if the photo's path, size and modification time are the same, and everything else that
    extraction depends on (``facts``). Photos that cannot be read are not kept: they are read again each time. The
    folder may be deleted at any time; several processes may share it.

    Attributes:
        facts: what the features depend on besides the photos: settings, weights, engine, versions and code.
        folder: of the entries that were extracted with these.
        extracted: photos and queries that were not found and had to be extracted.
    """

    def __init__(self, folder: Path, extractor: Extractor, config: IndexConfig) -> None:
        """Open a cache, or start one.

        Args:
            folder: may hold features of other photos, and of the same photos with other settings.
            extractor: extracts what is not there; its weights must not change afterwards.
            config: the settings that it was built with.
        """
        self.extracted = 0
        self._extractor = extractor
        self._query_settings = [getattr(config.images, name) for name in _QUERY_SETTINGS]
        self.facts = _facts(extractor, config)
        self.folder = folder / f"{config.features.backbone}-{_checksum(self.facts)[:16]}"
        guarded(self.folder, lambda: self.folder.mkdir(parents=True, exist_ok=True))
        if not (facts := self.folder / "facts.json").exists():
            self._write(facts, (json.dumps(self.facts, indent=1) + "\n").encode())

    def extract(self, sources: Iterable[images.Source]) -> Iterator[Extracted]:
        """Yield regions and features of each photo, in order, as ``Extractor.extract``; keep those that were missing.

        Raises:
            UdqError: a kept file is damaged.
        """
        asked = [(source, self._file(source, ".npz")) for source in sources]
        missing = {file for _, file in asked if not file.exists()}
        fresh = self._extractor.extract(source for source, file in asked if file in missing) if missing else iter(())
        for source, file in asked:
            if file not in missing:
                yield _read(file, source)
                continue
            photo = next(fresh)
            self.extracted += 1
            if photo.broken is None:
                self._write(file, _to_bytes([photo]))
            yield photo

    def describe(self, path: Path, box: Sequence[float] | None) -> NDArray[np.float32]:
        """Return the feature (D,) of a query, as ``Extractor.describe``.

        Raises:
            UdqError: a kept file is damaged.
        """
        corners = None if box is None else [float(corner) for corner in box]
        file = self._file(images.Source(path.name, path), ".npy", corners, self._query_settings)
        if not file.exists():
            self.extracted += 1
            self._write(file, npy(self._extractor.describe(path, box)[1]))
        try:
            return archive.read_array(file)
        except ValueError as error:
            raise _damaged(file, error) from error

    def _file(self, source: images.Source, ending: str, *more: object) -> Path:
        return self.folder / (_checksum([source.root, source.name, source.state(), *more])[:32] + ending)

    def _write(self, file: Path, data: bytes) -> None:
        # A name of its own, so that two processes may extract the same photo.
        beside = file.with_name(f"{file.name}.{os.getpid()}")
        write_new(beside, data)
        guarded(file, lambda: beside.replace(file))


def _read(file: Path, source: images.Source) -> Extracted:
    try:
        [photo] = _from_bytes(file.read_bytes(), iter([source]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error
    return photo


def _damaged(file: Path, error: Exception) -> UdqError:
    return UdqError(
        f"{file}: expected kept features, found a damaged file ({archive.in_a_line(error)}); delete it, and its photo "
        "is extracted again"
    )


def _facts(extractor: Extractor, config: IndexConfig) -> dict[str, object]:
    """Return everything that the output of an extractor depends on but the photo; JSON-serialisable."""
    settings = dataclasses.asdict(config.images)
    return {
        "format": _FORMAT,
        "images": {name: value for name, value in settings.items() if name not in _QUERY_SETTINGS},
        "features": dataclasses.asdict(config.features),
        "weights": _weights(extractor.trunk),
        "rpn": extractor.rpn and hashlib.sha256(extractor.rpn.read_bytes()).hexdigest(),
        "engine": extractor.engine.facts(),
        "versions": versions(),
        "code": _code(),
    }


def _weights(network: torch.nn.Module) -> str:
    """Return a checksum of a network's weights as they are now."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@functools.cache
def _code() -> str:
    """Return a checksum of the code that extracts features, and of the region proposal networks shipped with it."""
    files = [Path(str(module.__file__)) for module in _CODE]
    files += files[0].parent.glob("openvino*.py")  # not imported: it needs OpenVINO
    files += [file for file in Path(str(proposals.__file__)).parent.rglob("*") if file.suffix in (".py", ".npz")]
    return _checksum([[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in sorted(files)])


def _checksum(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
