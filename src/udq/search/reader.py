"""A collection on disk, opened for reading in one state; layers below ``Collection`` work with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from udq.common.files import checksum
from udq.common.threads import count
from udq.config import IndexConfig
from udq.errors import CollectionError, UdqError
from udq.photos import sandbox
from udq.photos.sandbox import Decoder
from udq.quantization.model import Model
from udq.search.database import Database, LocalDatabase
from udq.store.manifest import GIVEN, Manifest, UnreadablePhoto, given_file, read_backbone, read_manifest, read_model
from udq.store.segments import Image, Segment
from udq.types import Arrays

if TYPE_CHECKING:
    from udq.features.extractor import Extractor

OpenDatabase = Callable[[Path, Manifest, Model], Database]
"""Opens the codes of a collection in one state: in this process (``LocalDatabase.open``), or on a cluster."""


@dataclass(frozen=True)
class _State:
    """The contents of a collection in one state."""

    manifest: Manifest
    database: Database
    backbone: Arrays
    network: str


def extractor_of(
    manifest: Manifest, backbone: Arrays, device: str, network: str | None = None, threads: int | None = None
) -> Extractor:
    """Return the network that the photos of a collection were encoded with; imports torch.

    Args:
        manifest: of the collection.
        backbone: its trained convolutions, by name; empty if they were not trained.
        device: ``auto``, ``cpu`` or ``cuda``.
        network, threads: as in ``Reader``.
    """
    from udq.features.extractor import Extractor

    extractor = Extractor(
        manifest.config.images,
        manifest.config.features,
        manifest.config.keypoints,
        weights=given_file(manifest.given, "weights"),
        rpn=given_file(manifest.given, "rpn"),
        device=device,
        network=network,
        threads=threads,
    )
    extractor.load(backbone)
    return extractor


def _network_checksum(manifest: Manifest) -> str:
    """Return a checksum of the settings and weights of the network of a state of a collection."""
    weights = [(manifest.document.get(part) or {}).get("sha256") for part in ("backbone", *GIVEN)]
    return checksum(json.dumps([manifest.document["config"], weights], sort_keys=True).encode())


class Reader:
    """One state of a collection on disk, read on first use; safe to share between threads.

    Attributes:
        path: the collection.
        device: where queries are encoded: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads that work is divided among; as many as there are cores if None.
        manifest: the contents of this state: settings, files and counts.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        network: str | None = None,
        threads: int | None = None,
        open_database: OpenDatabase = LocalDatabase.open,
    ) -> None:
        """Read the manifest.

        Args:
            path: the collection.
            device: where queries are encoded.
            network: the library that computes convolutions on a CPU, ``openvino`` or ``torch``; the environment
                variable UDQ_NETWORK overrides it, and the fastest installed one is used if both are unset.
            threads: number of threads that the network uses on a CPU; as many as there are cores if None.
            open_database: opens the codes.

        Raises:
            InputError: not a collection, or fewer than one thread.
        """
        self.path = path
        self.device = device
        self.threads = None if threads is None else count(threads)
        self.manifest = read_manifest(path)
        self._network = network
        self._open_database = open_database
        self._lock = threading.Lock()
        self._read: _State | None = None
        # The network, with its checksum.
        self._extractor: tuple[str, Extractor] | None = None

    def refreshed(self) -> Self:
        """Return the newest state of the collection: this reader itself if nothing has changed."""
        if read_manifest(self.path) == self.manifest:
            return self
        opened = type(self)(
            self.path,
            device=self.device,
            network=self._network,
            threads=self.threads,
            open_database=self._open_database,
        )
        opened._extractor = self._extractor  # loading it takes longer than everything else
        return opened

    def __len__(self) -> int:
        """Return the number of photos that can be found."""
        return self.manifest.images

    @property
    def regions(self) -> int:
        """Number of regions in all photos that can be found."""
        return self.manifest.regions

    @property
    def config(self) -> IndexConfig:
        """The settings that the collection was built with."""
        return self.manifest.config

    @property
    def decoder(self) -> Decoder:
        """The decoder of this process, with this collection's limit of megapixels."""
        return sandbox.shared().limited(self.config.images.max_megapixels)

    @property
    def broken(self) -> list[UnreadablePhoto]:
        """Photos that could not be read when they were indexed: ``image`` and ``reason``."""
        return self.manifest.broken

    @property
    def database(self) -> Database:
        """The photos in codes, which a search scans."""
        return self._state.database

    @property
    def images(self) -> list[Image]:
        """The photos, in the order of their ids."""
        return self.database.images

    @property
    def names(self) -> list[str]:
        """Names of the photos, in the order of their ids."""
        return [image.name for image in self.images]

    @property
    def model(self) -> Model:
        """Fully connected layers and quantizer."""
        return self.database.model

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Codes, boxes and photos.

        Raises:
            UdqError: the codes are not in this process.
        """
        if not isinstance(self.database, LocalDatabase):
            raise UdqError(f"{self.path}: its codes are on a Ray cluster; open it without ray for this")
        return self.database.segments

    @property
    def extractor(self) -> Extractor:
        """The network that encodes queries as the photos were; the first use imports torch."""
        state = self._state  # first: it determines the state that the network must belong to
        with self._lock:
            if self._extractor is None or self._extractor[0] != state.network:
                built = extractor_of(state.manifest, state.backbone, self.device, self._network, self.threads)
                self._extractor = state.network, built
            return self._extractor[1]

    @property
    def network_checksum(self) -> str:
        """Checksum of what ``extractor`` depends on: its features are comparable if this is equal."""
        return self._state.network

    @property
    def _state(self) -> _State:
        """The files of one state, read on first use.

        A writer may have changed the collection twice since it was opened, and deleted the files of this state. Nothing
        has been read from this state yet, so the newest state is read instead.
        """
        with self._lock:
            while self._read is None:
                try:
                    model = read_model(self.path, self.manifest)
                    database = self._open_database(self.path, self.manifest, model)
                    backbone = read_backbone(self.path, self.manifest)
                    self._read = _State(self.manifest, database, backbone, _network_checksum(self.manifest))
                except CollectionError:
                    newest = read_manifest(self.path)
                    if newest == self.manifest:
                        raise
                    self.manifest = newest
            return self._read
