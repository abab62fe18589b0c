"""A collection: build it from photos, open it, search it. Opening and scanning never import torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq import drift, inference, proposals, scan, segments, storage
from udq.config import IndexConfig
from udq.database import Database, LocalDatabase
from udq.drift import Drift
from udq.errors import CollectionError, UdqError
from udq.head import Arrays
from udq.model import Model
from udq.progress import Progress, silent
from udq.segments import Image, Segment
from udq.storage import Manifest
from udq.types import Example, SearchResult

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.distributed.shards import Spread
    from udq.extract import Extractor
    from udq.index import Hire
    from udq.update import Changes
    from udq.verify import Damage

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class _Held:
    """What a collection holds in one state."""

    manifest: Manifest
    database: Database
    backbone: Arrays

    @staticmethod
    def read(path: Path, manifest: Manifest, looked_at: float | None, spread: Spread | None) -> _Held:
        model = storage.read_model(path, manifest)
        if spread is not None:
            from udq.distributed.shards import ShardedDatabase

            database = ShardedDatabase(path, manifest, model, spread, looked_at)
            return _Held(manifest, database, storage.read_backbone(path, manifest))
        shape = {"subspaces": model.quantizer.subspaces, "codewords": model.quantizer.codewords}
        held = tuple(segments.read(path, manifest, **shape))
        ranked = manifest.config.features.proposals in proposals.RANKED
        return _Held(manifest, LocalDatabase(model, held, ranked, looked_at), storage.read_backbone(path, manifest))


def extractor_of(manifest: Manifest, backbone: Arrays, device: str) -> Extractor:
    """Return the network that encodes as a collection's photos were encoded; imports torch.

    Args:
        manifest: of the collection.
        backbone: its trained convolutions, by name; empty where they are the usual ones.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    from udq.extract import Extractor

    extractor = Extractor(
        manifest.config.images,
        manifest.config.features,
        weights=storage.given_file(manifest.given, "weights"),
        rpn=storage.given_file(manifest.given, "rpn"),
        device=device,
    )
    extractor.load(backbone)
    return extractor


def _hire(address: str) -> Hire:
    """Return what finds workers of the Ray cluster at an address."""
    from udq.distributed import workers

    return partial(workers.hired, address)


def _see_alike(one: Manifest, other: Manifest) -> bool:
    """Whether the networks of two states are the same."""
    parts = ("config", "backbone", *storage.GIVEN)
    return all(one.document.get(part) == other.document.get(part) for part in parts)


class Collection:
    """Photos that can be searched for an object; read-only and safe to share between threads once opened."""

    def __init__(
        self, path: Path, *, device: str = "auto", looked_at: float | None = None, spread: Spread | None = None
    ) -> None:
        """Open a collection; prefer ``Collection.open``."""
        self.path = path
        self.device = device
        self.looked_at = looked_at
        self._spread = spread
        self._manifest = storage.read_manifest(path)
        self._lock = threading.Lock()
        self._read: _Held | None = None
        # With the manifest that it was built for.
        self._extractor: tuple[Manifest, Extractor] | None = None

    @staticmethod
    def open(
        path: PathLike,
        *,
        device: str = "auto",
        looked_at: float | None = None,
        ray: str | None = None,
        shards: int | None = None,
        replicas: int = 1,
    ) -> Collection:
        """Open a collection on disk.

        Args:
            path: the folder that ``build`` made.
            device: where queries are encoded: ``auto``, ``cpu`` or ``cuda``.
            looked_at: part of the codes that a search looks at, above 0 and at most 1, by way of an inverted index
                that is built when first needed: for many searches of tens of millions of regions, each of which takes
                12 bytes of memory more. With 1 answers are those of None, which scans all codes.
            ray: have actors of a Ray cluster hold and search the codes, with the same answers: ``local`` (of this
                machine), ``auto`` (the cluster that it is of) or ``HOST:PORT``. Their machines read the collection from
                the same path. It can be searched then, and not changed.
            shards: in how many parts; one for each processor of the cluster where None.
            replicas: actors that hold each part; with 2, one may die and searches go on.
        """
        spread = None
        if ray is not None:
            from udq.distributed.shards import Spread

            spread = Spread(ray, shards, replicas)
        return Collection(Path(path), device=device, looked_at=looked_at, spread=spread)

    @staticmethod
    def build(
        images: PathLike | Sequence[PathLike],
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        weights: PathLike | None = None,
        rpn: PathLike | None = None,
        device: str = "auto",
        ray: str | None = None,
        truth: GroundTruth | None = None,
        progress: Progress = silent,
    ) -> Collection:
        """Build a collection from photos, and open it.

        Args:
            images: a file or a folder (searched through and through), a tar file, the URL of a folder in storage such
                as ``s3://bucket/photos/``, or several of these.
            path: the collection to make; nothing may be there yet.
            config: what to build it with; the ``default`` preset where None.
            weights: a file of weights instead of the backbone's usual ones.
            rpn: a region proposal network that ``udq train-rpn`` made, instead of the shipped one.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
            ray: have workers of a Ray cluster look at the photos, to the same codes: ``local`` (workers of this
                machine), ``auto`` (the cluster that it is of) or ``HOST:PORT``. Their machines read photos from the
                same paths or URLs.
            truth: a benchmark to measure after every round of training, for the curves; nothing goes by it.
            progress: is told of each photo.

        Raises:
            InputError: a path is missing, no cluster answers at ``ray``, or something is already at ``path``.
            ImageError: not one photo can be read. Single broken photos are no error: see ``broken``.
        """
        from udq import index, stored

        sources, passed_over = stored.find([images] if isinstance(images, str | os.PathLike) else list(images))
        index.build(
            sources,
            Path(path),
            passed_over=passed_over,
            config=config or IndexConfig(),
            weights=None if weights is None else Path(weights),
            rpn=None if rpn is None else Path(rpn),
            device=device,
            truth=truth,
            hire=None if ray is None else _hire(ray),
            progress=progress,
        )
        return Collection.open(path, device=device)

    @staticmethod
    def retrain(
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        device: str = "auto",
        truth: GroundTruth | None = None,
        progress: Progress = silent,
    ) -> Collection:
        """Train a collection anew on its photos as they are now, encode them anew in its place, and open it.

        Whoever has the collection open goes on with what it was. Until the last step, which is atomic, it stays so.

        Args:
            path: the collection.
            config: what to build it with; that of the collection, with training, where None.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
            truth: a benchmark to measure after every round of training, for the curves; nothing goes by it.
            progress: is told of each photo.

        Raises:
            InputError: some of its photos are gone: no features are kept, so that photos must be looked at again.
        """
        from udq import index

        if config is None:
            config = Collection.open(path).config.replace({"training": {"enabled": True}})
        index.rebuild(Path(path), config=config, device=device, truth=truth, progress=progress)
        return Collection.open(path, device=device)

    def search(
        self, query: PathLike, box: Sequence[float] | None = None, *, k: int = 20, rerank: Sequence[str] = ()
    ) -> SearchResult:
        """Return the ``k`` photos most similar to the object in a box of a photo, best first.

        Args:
            query: a photo, in the collection or not.
            box: x1, y1, x2, y2 in pixels of that photo as a viewer shows it; the whole photo where None.
            k: photos wanted, >= 1; fewer come where the collection has fewer.
            rerank: stages of post-processing, names of ``udq.rerank.STAGES``, one after another.
        """
        return self.search_examples([Example(query, box)], k=k, rerank=rerank)

    def search_examples(self, examples: Sequence[Example], *, k: int = 20, rerank: Sequence[str] = ()) -> SearchResult:
        """Return the ``k`` photos most similar to the object that several boxes show, best first.

        Args:
            examples: boxes of the object, in one photo or several; those marked ``wrong`` show something else, which is
                then found less. At least one is not wrong.
            k: photos wanted, >= 1; fewer come where the collection has fewer.
            rerank: as in ``search``.
        """
        from udq import search

        return search.search(self, examples, k=k, stages=rerank)

    def search_many(
        self, queries: Sequence[tuple[PathLike, Sequence[float] | None]], *, k: int = 20
    ) -> list[SearchResult]:
        """Return what ``search`` does for each of several photos and boxes; they share the pass over the codes.

        Args:
            queries: photos, and a box of each or None.
            k: photos wanted for each, >= 1.
        """
        from udq import search

        return search.search_many(self, [[Example(query, box)] for query, box in queries], k=k)

    def add(
        self,
        images: PathLike | Sequence[PathLike],
        *,
        sync: bool = False,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> tuple[Collection, Changes]:
        """Add photos, and return the collection as it is then and what was done.

        What the collection holds already is not looked at again: a file of the size and time that it had is the same,
        and so is one of other times with the same bytes. A file whose bytes have changed takes the place of the photo
        of its name, under a new id. Photos are committed some hundreds at a time: what a kill cuts off, the same call
        goes on with.

        Args:
            images: a file or a folder (searched through and through), or several.
            sync: make the collection hold these photos and no others: photos that are gone are removed, and one that
                was renamed or moved keeps its id and its codes.
            dry_run: change nothing, and return what would be done.
            progress: is told of each photo.

        Raises:
            InputError: a path is missing, another process is changing the collection, or with ``sync`` not one of the
                collection's photos is among ``images``.
        """
        from udq import update

        arguments = [images] if isinstance(images, str | os.PathLike) else list(images)
        changes = update.add(self, arguments, mirror=sync, dry_run=dry_run, progress=progress)
        return self.refreshed(), changes

    def remove(self, names: str | Sequence[str]) -> tuple[Collection, Changes]:
        """Remove photos, and return the collection as it is then and what was done; their files are left alone.

        Args:
            names: one or several, as indexed. One that ends in ``/`` stands for all photos of that folder, one with
                ``*`` or ``?`` for all that match.

        Raises:
            InputError: one of them names no photo; nothing is removed then.
        """
        from udq import update

        changes = update.remove(self, [names] if isinstance(names, str) else names)
        return self.refreshed(), changes

    def compact(self) -> Collection:
        """Write segments anew without what was removed and as few as can be, and return the collection as it is then.

        Answers stay what they were.
        """
        from udq import update

        update.compact(self)
        return self.refreshed()

    def verify(self) -> list[Damage]:
        """Read every byte of the collection and return what is not as it was written."""
        from udq import verify

        return verify.verify(self.path)

    def refreshed(self) -> Collection:
        """Return the collection as it is now: itself where nothing has changed since it was opened."""
        newest = storage.read_manifest(self.path)
        if newest == self._manifest:
            return self
        opened = Collection(self.path, device=self.device, looked_at=self.looked_at, spread=self._spread)
        opened._extractor = self._extractor  # loading it takes longer than all the rest
        return opened

    def __len__(self) -> int:
        """Return the number of photos that can be found."""
        return self._manifest.images

    @property
    def regions(self) -> int:
        """Regions of all photos that can be found."""
        return self._manifest.regions

    @property
    def config(self) -> IndexConfig:
        """What the collection was built with."""
        return self._manifest.config

    @property
    def broken(self) -> list[dict[str, str]]:
        """Photos that could not be read when they were indexed: ``image`` and ``reason``."""
        return self._manifest.broken

    @property
    def database(self) -> Database:
        """The photos in codes, which are what is searched."""
        return self._held.database

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
        """Codes, boxes and photos."""
        return self._local.segments

    @property
    def extractor(self) -> Extractor:
        """The network that encodes queries as the photos were; the first use imports torch."""
        held = self._held  # first: it says of which state the network must be
        with self._lock:
            if self._extractor is None or not _see_alike(self._extractor[0], held.manifest):
                self._extractor = held.manifest, extractor_of(held.manifest, held.backbone, self.device)
            return self._extractor[1]

    @property
    def _local(self) -> LocalDatabase:
        if not isinstance(self.database, LocalDatabase):
            raise UdqError(f"{self.path}: a Ray cluster holds its codes; open it without ray for this")
        return self.database

    @property
    def _held(self) -> _Held:
        """What is read of one state, on first use.

        A writer may have changed the collection twice meanwhile and deleted what it held then. As nothing has been
        answered from that, this is then a reader of the newest state.
        """
        with self._lock:
            while self._read is None:
                try:
                    self._read = _Held.read(self.path, self._manifest, self.looked_at, self._spread)
                except CollectionError:
                    newest = storage.read_manifest(self.path)
                    if newest == self._manifest:
                        raise
                    self._manifest = newest
            return self._read

    @property
    def drift(self) -> Drift | None:
        """How well the codes say what newer photos show, beside older ones; None where there is nothing to compare."""
        return drift.measure(self.segments, self._manifest.fitted_before) if self._spread is None else None

    def info(self) -> dict[str, Any]:
        """Return what the collection holds, JSON-serialisable."""
        document = self._manifest.document
        size = sum(storage.sizes_of(document).values())
        measured = self.drift
        return {
            "path": str(self.path),
            "format_version": document["version"],
            "udq": document["udq"],
            "created": document["created"],
            "changed": document.get("changed"),
            "images": len(self),
            "regions": self._manifest.regions,
            "removed": self._manifest.removed["images"],
            "segments": len(self._manifest.segments),
            "bytes_per_region": self.model.quantizer.bits / 8,
            "subspaces": self.model.quantizer.subspaces,
            "codewords": self.model.quantizer.codewords,
            "bytes_on_disk": size,
            "model": document["model"]["origin"],
            "training": document["training"],
            "config": document["config"],
            **self._manifest.given,
            "network": inference.engine(),
            "scan": scan.kernel(),
            "drift": None if measured is None else measured.to_json(),
            "broken": self.broken,
            "passed_over": document["passed_over"],
        }
