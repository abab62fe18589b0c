"""A collection: build it from photos, open it, search it. Opening and scanning never import torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq.common.progress import Progress, silent
from udq.config import IndexConfig
from udq.datasets import protocol
from udq.features import runtime
from udq.indexing import drift
from udq.indexing.drift import Drift
from udq.search.database import LocalDatabase
from udq.search.reader import OpenDatabase, Reader
from udq.search.scan import kernels
from udq.store import manifest
from udq.types import Example, SearchResult

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.indexing.build import MonitorFactory
    from udq.indexing.update import Changes
    from udq.indexing.verify import Damage

PathLike = str | os.PathLike[str]


def _database_opener(looked_at: float | None, ray: str | None, shards: int | None, replicas: int) -> OpenDatabase:
    """Return what opens the codes: in this process, or in actors of a Ray cluster."""
    if ray is None:
        return partial(LocalDatabase.open, looked_at=looked_at)
    from udq.distributed.shards import ShardedDatabase, Spread

    return partial(ShardedDatabase, spread=Spread(ray, shards, replicas), looked_at=looked_at)


def _monitor(
    truth: GroundTruth | None, config: IndexConfig, names: Iterable[str], broken: Iterable[str]
) -> MonitorFactory | None:
    """Return what measures a ground truth after each round of training, after checking that its photos are there."""
    if truth is None:
        return None
    from udq.evaluation.monitor import RoundMonitor

    protocol.check_names(truth, set(names), set(broken))
    return partial(RoundMonitor, truth, config)


class Collection(Reader):
    """Photos that can be searched for an object; read-only and safe to share between threads once opened."""

    @staticmethod
    def open(
        path: PathLike,
        *,
        device: str = "auto",
        network: str | None = None,
        looked_at: float | None = None,
        ray: str | None = None,
        shards: int | None = None,
        replicas: int = 1,
    ) -> Collection:
        """Open a collection on disk.

        Args:
            path: the folder that ``build`` made.
            device: where queries are encoded: ``auto``, ``cpu`` or ``cuda``.
            network: the library that computes convolutions on a CPU, ``openvino`` or ``torch``; the environment
                variable UDQ_NETWORK overrides it, and the fastest installed one is used if both are unset.
            looked_at: share of the codes that a search scans, above 0 and at most 1, by an inverted index that is
                built on first use: for many searches of tens of millions of regions, each of which then takes 12 more
                bytes of memory. With 1, results equal those of None, which scans all codes.
            ray: actors of a Ray cluster hold and search the codes, with the same results: ``local`` (this machine),
                ``auto`` (the cluster that this machine belongs to) or ``HOST:PORT``. Their machines read the collection
                from the same path. Such a collection can be searched but not changed.
            shards: number of parts; one for each processor of the cluster if None.
            replicas: actors that hold each part; with 2, searches go on if one dies.
        """
        opener = _database_opener(looked_at, ray, shards, replicas)
        return Collection(Path(path), device=device, network=network, open_database=opener)

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
        from udq.indexing import build as index_build
        from udq.photos import remote

        config = config or IndexConfig()
        sources, passed_over = remote.find([images] if isinstance(images, str | os.PathLike) else list(images))
        elsewhere: dict[str, Any] = {}
        if ray is not None:
            from udq.distributed import training, workers

            elsewhere = {"workers": partial(workers.ray_workers, ray), "trainer": training.train}
        index_build.build(
            sources,
            Path(path),
            passed_over=passed_over,
            config=config,
            weights=None if weights is None else Path(weights),
            rpn=None if rpn is None else Path(rpn),
            device=device,
            monitor=_monitor(truth, config, (source.name for source in sources), ()),
            progress=progress,
            **elsewhere,
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
        from udq.indexing import build as index_build

        opened = Collection.open(path)
        if config is None:
            config = opened.config.replace({"training": {"enabled": True}})
        monitor = None
        if truth is not None:
            monitor = _monitor(truth, config, opened.names, (entry["image"] for entry in opened.broken))
        index_build.rebuild(Path(path), config=config, device=device, monitor=monitor, progress=progress)
        return Collection.open(path, device=device)

    def search(
        self, query: PathLike, box: Sequence[float] | None = None, *, k: int = 20, rerank: Sequence[str] = ()
    ) -> SearchResult:
        """Return the ``k`` photos most similar to the object in a box of a photo, best first.

        Args:
            query: a photo, in the collection or not.
            box: x1, y1, x2, y2 in pixels of that photo as a viewer shows it; the whole photo where None.
            k: photos wanted, >= 1; fewer come where the collection has fewer.
            rerank: stages of post-processing, names of ``udq.search.rerank.STAGES``, one after another.
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
        from udq.search import query as searching

        return searching.search(self, examples, k=k, stages=rerank)

    def search_many(
        self, queries: Sequence[tuple[PathLike, Sequence[float] | None]], *, k: int = 20
    ) -> list[SearchResult]:
        """Return what ``search`` does for each of several photos and boxes; they share the pass over the codes.

        Args:
            queries: photos, and a box of each or None.
            k: photos wanted for each, >= 1.
        """
        from udq.search import query as searching

        return searching.search_many(self, [[Example(query, box)] for query, box in queries], k=k)

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
        from udq.indexing import update

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
        from udq.indexing import update

        changes = update.remove(self, [names] if isinstance(names, str) else names)
        return self.refreshed(), changes

    def compact(self) -> Collection:
        """Write segments anew without what was removed and as few as can be, and return the collection as it is then.

        Answers stay what they were.
        """
        from udq.indexing import update

        update.compact(self)
        return self.refreshed()

    def verify(self) -> list[Damage]:
        """Read every byte of the collection and return what is not as it was written."""
        from udq.indexing import verify

        return verify.verify(self.path)

    @property
    def drift(self) -> Drift | None:
        """How well the codes say what newer photos show, beside older ones; None where there is nothing to compare."""
        local = isinstance(self.database, LocalDatabase)
        return drift.measure(self.segments, self.manifest.fitted_before) if local else None

    def info(self) -> dict[str, Any]:
        """Return what the collection holds, JSON-serialisable."""
        document = self.manifest.document
        size = sum(manifest.sizes_of(document).values())
        measured = self.drift
        return {
            "path": str(self.path),
            "format_version": document["version"],
            "udq": document["udq"],
            "created": document["created"],
            "changed": document.get("changed"),
            "images": len(self),
            "regions": self.manifest.regions,
            "removed": self.manifest.removed["images"],
            "segments": len(self.manifest.segments),
            "bytes_per_region": self.model.quantizer.bits / 8,
            "subspaces": self.model.quantizer.subspaces,
            "codewords": self.model.quantizer.codewords,
            "bytes_on_disk": size,
            "model": document["model"]["origin"],
            "training": document["training"],
            "config": document["config"],
            **self.manifest.given,
            "network": runtime.engine(),
            "scan": kernels.kernel(),
            "drift": None if measured is None else measured.to_json(),
            "broken": self.broken,
            "passed_over": document["passed_over"],
        }
