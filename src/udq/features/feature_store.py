"""Features of photos and queries, kept in a folder between runs, so that a change after the network costs seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from udq.common import npz
from udq.common.files import checksum, fingerprint, guarded, npy, write_whole
from udq.common.provenance import code, versions
from udq.config import IndexConfig
from udq.features.cache import damaged, read_cached, to_bytes
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import Source

# Settings of [images] that change what is extracted from a query, but not from a photo.
_QUERY_SETTINGS = "least", "mirror"
# Version of the stored files; raise it when their layout changes.
_FORMAT = 3
CODE = "features", "keypoints", "photos"
"""Packages whose code decides what is extracted."""


class FeatureStore:
    """Regions and features by photo, about 0.5 MB per photo with the default preset.

    An entry is valid as long as the photo's path, size and modification time are the same, and everything else that
    extraction depends on (``facts``). Unreadable photos are not stored: they are read again each time. The folder may
    be deleted at any time, and several processes may share it.

    Attributes:
        facts: what the features depend on besides the photos: settings, weights, engine, versions and code.
        folder: folder of the entries with these facts.
        extracted: number of photos and queries that were missing and had to be extracted.
    """

    def __init__(self, folder: Path, extractor: Extractor, config: IndexConfig) -> None:
        """Open a store, or start one.

        Args:
            folder: may contain features of other photos, and of the same photos with other settings.
            extractor: extracts what is missing; its weights must not change afterwards.
            config: the settings that the extractor was built with.
        """
        self.extracted = 0
        self._extractor = extractor
        self._query_settings = [getattr(config.images, name) for name in _QUERY_SETTINGS]
        self.facts = _facts(extractor, config)
        self.folder = folder / f"{config.features.backbone}-{_checksum(self.facts)[:16]}"
        guarded(self.folder, lambda: self.folder.mkdir(parents=True, exist_ok=True))
        if not (facts := self.folder / "facts.json").exists():
            self._write(facts, (json.dumps(self.facts, indent=1) + "\n").encode())

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order, as ``Extractor.extract``; store those that were missing.

        Raises:
            UdqError: a stored file is damaged.
        """
        entries = [(source, self._file(source, ".npz")) for source in sources]
        missing = {file for _, file in entries if not file.exists()}
        wanted = (source for source, file in entries if file in missing)
        extracted = self._extractor.extract(wanted) if missing else iter(())
        for source, file in entries:
            if file not in missing:
                yield _read(file, source)
                continue
            photo = next(extracted)
            self.extracted += 1
            if photo.broken is None:
                self._write(file, to_bytes([photo]))
            yield photo

    def describe(self, path: Path, box: Sequence[float] | None) -> NDArray[np.float32]:
        """Return the feature (D,) of a query, as ``Extractor.describe``.

        Raises:
            UdqError: a stored file is damaged.
        """
        corners = None if box is None else [float(corner) for corner in box]
        file = self._file(Source(path.name, path), ".npy", corners, self._query_settings)
        if not file.exists():
            self.extracted += 1
            self._write(file, npy(self._extractor.describe(path, box)[1]))
        try:
            return npz.read_array(file)
        except ValueError as error:
            raise damaged(file, error) from error

    def _file(self, source: Source, suffix: str, *more: object) -> Path:
        return self.folder / (_checksum([source.root, source.name, source.state(), *more])[:32] + suffix)

    def _write(self, file: Path, data: bytes) -> None:
        # The process id keeps two processes apart that extract the same photo.
        write_whole(file, data, suffix=str(os.getpid()))


def _read(file: Path, source: Source) -> ExtractedPhoto:
    photos = read_cached(file, iter([source]))
    if len(photos) != 1:
        raise damaged(file, ValueError(f"{len(photos)} photos, not one"))
    return photos[0]


def _facts(extractor: Extractor, config: IndexConfig) -> dict[str, object]:
    """Return everything besides the photo that the output of an extractor depends on; JSON-serialisable."""
    settings = dataclasses.asdict(config.images)
    return {
        "format": _FORMAT,
        "images": {name: value for name, value in settings.items() if name not in _QUERY_SETTINGS},
        "features": dataclasses.asdict(config.features),
        "keypoints": dataclasses.asdict(extractor.keypoints),
        "weights": _weights(extractor.trunk),
        "rpn": (given := fingerprint(extractor.rpn)) and given["sha256"],
        "engine": extractor.engine.facts(),
        "versions": versions(),
        "code": code(*CODE),
    }


def _weights(network: torch.nn.Module) -> str:
    """Return a checksum of a network's current weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(facts: object) -> str:
    return checksum(json.dumps(facts, sort_keys=True).encode())
