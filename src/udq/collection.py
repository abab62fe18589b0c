"""The ``Collection`` class: build, open, search, change and evaluate a collection. It composes the packages below.

Opening and scanning a collection never import torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from udq.common.files import given_path
from udq.common.progress import Progress, silent
from udq.config import IndexConfig
from udq.datasets import matching, protocol
from udq.errors import InputError
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
    from udq.evaluation.benchmark import Evaluation
    from udq.indexing.build import MonitorFactory
    from udq.indexing.relocation import Relocation
    from udq.indexing.update import Changes
    from udq.indexing.verify import Damage

PathLike = str | os.PathLike[str]


def _database_opener(
    looked_at: float | None, ray: str | None, shards: int | None, replicas: int, threads: int | None
) -> OpenDatabase:
    """Return the function that opens the codes: in this process, or in actors of a Ray cluster."""
    if ray is None:
        return partial(LocalDatabase.open, looked_at=looked_at, threads=threads)
    from udq.distributed.shards import ShardedDatabase, Spread

    return partial(ShardedDatabase, spread=Spread(ray, shards, replicas), looked_at=looked_at, threads=threads)


def _paths(images: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """Return one or several paths as a list; raises InputError for anything else, such as a picture in memory."""
    given = [images] if isinstance(images, str | os.PathLike) or not isinstance(images, Iterable) else list(images)
    for each in given:
        if not isinstance(each, str | os.PathLike):
            raise InputError(f"images: expected paths of files or folders, found {type(each).__name__}")
        given_path(each)
    return given


def _monitor(
    truth: GroundTruth | None, config: IndexConfig, names: Iterable[str], broken: Iterable[str]
) -> MonitorFactory | None:
    """Return a factory of the monitor that evaluates after each round of training; None without a ground truth.

    Raises:
        InputError: the ground truth names photos that are not in the collection.
    """
    if truth is None:
        return None
    from udq.evaluation.monitor import RoundMonitor

    names, broken = set(names), set(broken)
    truth = matching.resolve(truth, names | broken)
    protocol.check_names(truth, names, broken)
    return partial(RoundMonitor, truth, config)


class Collection(Reader):
    """Photos on disk that can be searched for an object; an open one is read-only and safe to share between threads."""

    @staticmethod
    def open(
        path: PathLike,
        *,
        device: str = "auto",
        network: str | None = None,
        threads: int | None = None,
        looked_at: float | None = None,
        ray: str | None = None,
        shards: int | None = None,
        replicas: int = 1,
    ) -> Collection:
        """Open a collection on disk.

        Args:
            path: the folder that ``build`` created.
            device: where queries are encoded: ``auto``, ``cpu`` or ``cuda``.
            network: the library that computes convolutions on a CPU, ``openvino`` or ``torch``; the environment
                variable UDQ_NETWORK overrides it, and the fastest installed one is used if both are unset.
            threads: number of threads that searches, ``add`` and ``evaluate`` use, >= 1; as many as there are cores if
                None, or as torch is set to if it is less.
            looked_at: share of the codes that a search scans, above 0 and at most 1, by an inverted index that is
                built on first use: for many searches of tens of millions of regions, each of which then takes 12 more
                bytes of memory. With 1, results equal those of None, which scans all codes.
            ray: actors of a Ray cluster hold and search the codes, with the same results: ``local`` (this machine),
                ``auto`` (the cluster that this machine belongs to) or ``HOST:PORT``. Their machines read the collection
                from the same path. Such a collection can be searched but not changed.
            shards: number of parts; one for each processor of the cluster if None.
            replicas: actors that hold each part; with 2, searches go on if one dies.
        """
        opener = _database_opener(looked_at, ray, shards, replicas, threads)
        return Collection(given_path(path), device=device, network=network, threads=threads, open_database=opener)

    @staticmethod
    def build(
        images: PathLike | Sequence[PathLike],
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        weights: PathLike | None = None,
        rpn: PathLike | None = None,
        device: str = "auto",
        threads: int | None = None,
        ray: str | None = None,
        truth: GroundTruth | None = None,
        exclude: Sequence[str] = (),
        progress: Progress = silent,
    ) -> Collection:
        """Build a collection from photos, and open it.

        Args:
            images: a file, a folder (searched recursively), a tar file, the URL of a folder in storage such as
                ``s3://bucket/photos/``, or several of these.
            path: the collection to create; it must not exist.
            config: the settings; the ``default`` preset if None.
            weights: a file of weights for the backbone, instead of the pretrained ones.
            rpn: a region proposal network from ``udq train-rpn``, instead of the shipped one.
            device: ``auto`` (a GPU if available), ``cpu`` or ``cuda``.
            threads: number of threads of this process, >= 1; as many as there are cores if None, or as torch is set to
                if it is less. Codes do not depend on it, unless convolutions are trained.
            ray: extract features on workers of a Ray cluster, with the same codes: ``local`` (this machine), ``auto``
                (the cluster that this machine belongs to) or ``HOST:PORT``. Their machines read photos from the same
                paths or URLs.
            truth: a ground truth to evaluate after every round of training, for the curves; it does not influence
                training.
            exclude: patterns of folders and photos to leave out, now and in later additions (``listing.Excludes``).
            progress: reports stages and photos (``common.progress``).

        Raises:
            InputError: a path is missing, no cluster answers at ``ray``, or ``path`` already exists.
            ImageError: none of the photos can be read. Single unreadable photos are no error: see ``broken``.
        """
        from udq.indexing import build
        from udq.photos import remote

        config = config or IndexConfig()
        sources, passed_over = remote.find(_paths(images), exclude)
        elsewhere: dict[str, Any] = {}
        if ray is not None:
            from udq.distributed import training, workers

            elsewhere = {"workers": partial(workers.ray_workers, ray), "trainer": training.train}
        build.build(
            sources,
            given_path(path),
            passed_over=passed_over,
            exclude=exclude,
            config=config,
            weights=None if weights is None else given_path(weights),
            rpn=None if rpn is None else given_path(rpn),
            device=device,
            threads=threads,
            monitor=_monitor(truth, config, (source.name for source in sources), ()),
            progress=progress,
            **elsewhere,
        )
        return Collection.open(path, device=device, threads=threads)

    @staticmethod
    def retrain(
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        device: str = "auto",
        threads: int | None = None,
        truth: GroundTruth | None = None,
        progress: Progress = silent,
    ) -> Collection:
        """Train the model again on the collection's current photos, encode them again, and open the result.

        The collection is replaced in one atomic step, the last one. Readers that have it open keep the old state.

        Args:
            path: the collection.
            config: the settings; those of the collection, with training enabled, if None.
            device: ``auto`` (a GPU if available), ``cpu`` or ``cuda``.
            threads: as in ``build``.
            truth: a ground truth to evaluate after every round of training, for the curves; it does not influence
                training.
            progress: reports stages and photos (``common.progress``).

        Raises:
            InputError: some of its photos are gone. A collection keeps no features, so all photos are extracted again.
        """
        from udq.indexing import build

        opened = Collection.open(path)
        if config is None:
            config = opened.config.replace({"training": {"enabled": True}})
        monitor = None
        if truth is not None:
            monitor = _monitor(truth, config, opened.names, (entry["image"] for entry in opened.broken))
        build.rebuild(opened.path, config=config, device=device, threads=threads, monitor=monitor, progress=progress)
        return Collection.open(path, device=device, threads=threads)

    def search(
        self,
        query: PathLike,
        box: Sequence[float] | None = None,
        *,
        k: int = 20,
        rerank: Sequence[str] | None = None,
        stack: bool = True,
        progress: Progress = silent,
    ) -> SearchResult:
        """Return the ``k`` photos most similar to the object in a box of a photo, best first.

        Args:
            query: a photo, in the collection or not.
            box: x1, y1, x2, y2 in pixels of that photo as a viewer shows it; the whole photo if None.
            k: number of matches to return, >= 1; fewer if the collection is smaller.
            rerank: stages of post-processing, names in ``udq.search.rerank.STAGES``, applied in this order; none if
                empty. None verifies matches if the collection stores local features (``rerank.DEFAULT``).
            stack: whether copies of one photo are one match, which lists the others as ``copies``.
            progress: reports the photos that are verified.
        """
        return self.search_examples([Example(query, box)], k=k, rerank=rerank, stack=stack, progress=progress)

    def search_examples(
        self,
        examples: Sequence[Example],
        *,
        k: int = 20,
        rerank: Sequence[str] | None = None,
        stack: bool = True,
        progress: Progress = silent,
    ) -> SearchResult:
        """Return the ``k`` photos most similar to an object that several boxes show, best first.

        Args:
            examples: boxes of the object, in one photo or several; those marked ``wrong`` show something else, which is
                then ranked lower. At least one is not wrong.
            k: number of matches to return, >= 1; fewer if the collection is smaller.
            rerank, stack, progress: as in ``search``.
        """
        from udq.search.query import search

        return search(self, examples, k=k, stages=rerank, stack=stack, progress=progress)

    def search_many(
        self,
        queries: Sequence[tuple[PathLike, Sequence[float] | None]],
        *,
        k: int = 20,
        rerank: Sequence[str] | None = None,
        stack: bool = True,
    ) -> list[SearchResult]:
        """Return what ``search`` returns for each of several queries, which share one pass over the codes.

        Args:
            queries: pairs of a photo and a box in it, or None for the whole photo.
            k: number of matches to return for each, >= 1.
            rerank, stack: as in ``search``.
        """
        from udq.search.query import search_many

        examples = [[Example(query, box)] for query, box in queries]
        return search_many(self, examples, k=k, stages=rerank, stack=stack)

    def add(
        self,
        images: PathLike | Sequence[PathLike],
        *,
        sync: bool = False,
        dry_run: bool = False,
        exclude: Sequence[str] = (),
        yes: bool = False,
        progress: Progress = silent,
    ) -> tuple[Collection, Changes]:
        """Add photos, and return the collection in its new state and the changes.

        Photos that the collection already holds are not extracted again: a file of the same size and time is the same
        photo, and so is one with the same bytes. A file whose bytes have changed replaces the photo of its name, under
        a new id. Photos are committed in batches of some hundreds: after a kill, the same call resumes.

        Args:
            images: as in ``build``.
            sync: mirror ``images``: photos that are gone from these folders are removed, and one that was renamed or
                moved keeps its id and its codes. Photos of other folders stay as they are.
            dry_run: change nothing, and return what would change.
            exclude: patterns as in ``build``, besides those that the collection was built with.
            yes: with ``sync``, remove the photos of folders that lost all photos at once.
            progress: reports stages and photos (``common.progress``).

        Raises:
            InputError: a path is missing, another process is changing the collection, or it contains another photo of
                a given photo's name, from another folder.
            ConsentError: with ``sync`` and without ``yes``, a folder lost all photos at once: its disk may not be
                mounted.
        """
        from udq.indexing import update

        arguments = _paths(images)
        changes = update.add(self, arguments, mirror=sync, dry_run=dry_run, exclude=exclude, yes=yes, progress=progress)
        return self.refreshed(), changes

    def relocate(
        self,
        old: PathLike,
        new: PathLike,
        *,
        dry_run: bool = False,
        yes: bool = False,
        progress: Progress = silent,
    ) -> tuple[Collection, Relocation]:
        """Tell the collection that a folder of photos moved; photos keep their ids and codes, and no photo is encoded.

        Args:
            old: the folder where the photos were, or a folder above or below it; also a tar file or an address.
            new: the folder where they are now.
            dry_run: change nothing, and return what would change.
            yes: also if photos are missing in ``new``, or differ from those that were indexed.
            progress: reports the photos (``common.progress``).

        Returns:
            The collection in its new state, and counts of the photos that are the same, missing or changed there.

        Raises:
            InputError: no photo is below ``old``, ``new`` is not a folder, two photos would have one name, or another
                process is changing the collection.
            ConsentError: without ``yes``, photos are missing in ``new`` or differ.
        """
        from udq.indexing import update

        for each in (old, new):
            given_path(each)
        done = update.relocate(self, old, new, dry_run=dry_run, yes=yes, progress=progress)
        return self.refreshed(), done

    def remove(self, names: str | Sequence[str]) -> tuple[Collection, Changes]:
        """Remove photos, and return the collection in its new state and the changes; files stay where they are.

        Args:
            names: one or several, as indexed. A name that ends in ``/`` is a folder. In a name that no photo has, ``*``
                and ``?`` match any characters; ``remove_ids`` removes a photo whatever its name is.

        Raises:
            InputError: one of them matches no photo; then none is removed.
        """
        from udq.indexing import update

        changes = update.remove(self, [names] if isinstance(names, str) else names)
        return self.refreshed(), changes

    def remove_ids(self, ids: int | Iterable[int]) -> tuple[Collection, Changes]:
        """Remove photos by their ids, and return the collection in its new state and the changes.

        An id names one photo for ever: programs that may repeat a removal, or that get names from others, use this.

        Args:
            ids: one or several, ``Match.id`` of a search.

        Raises:
            UnknownPhotoError: no photo has one of them (any more); then none is removed.
        """
        from udq.indexing import update

        changes = update.remove_ids(self, [ids] if isinstance(ids, int) else ids)
        return self.refreshed(), changes

    def compact(self) -> Collection:
        """Rewrite the collection without removed photos, in as few segments as possible, and return its new state.

        Search results do not change.
        """
        from udq.indexing import update

        update.compact(self)
        return self.refreshed()

    def evaluate(
        self,
        truth: GroundTruth,
        *,
        keep_query: bool = False,
        queries: PathLike | None = None,
        real_valued: bool = False,
        features: PathLike | None = None,
        stages: Sequence[str] | None = None,
        progress: Progress = silent,
    ) -> Evaluation:
        """Run every query of a benchmark, by its protocol, and return mean average precision and localisation.

        Args:
            truth: queries and answers, from ``udq.datasets.load``.
            keep_query: whether a query photo stays in its own ranking even if the protocol leaves it out.
            queries: a folder of query photos that are not in the collection, for protocols that have such; by default
                they are searched for beside the ground truth and in the folders of the collection's photos.
            real_valued: whether to also rank by features before quantization, which shows the loss of the codes. It
                extracts all photos again, which takes about as long as building the collection.
            features: with ``real_valued``, a folder that keeps these features for the next time.
            stages: as ``rerank`` of ``search``, applied to the rankings by codes.
            progress: reports stages, queries and photos.

        Returns:
            ``report``, the object that ``udq evaluate --json`` prints, and ``outcomes``, the scored queries.

        Raises:
            InputError: the collection and the ground truth do not fit: photos are missing, or a box is outside its
                photo.
        """
        from udq.evaluation.benchmark import evaluate

        return evaluate(
            self,
            truth,
            keep_query=keep_query,
            queries=None if queries is None else given_path(queries),
            real_valued=real_valued,
            features=None if features is None else given_path(features),
            stages=stages,
            progress=progress,
        )

    def verify(self) -> list[Damage]:
        """Compare every byte of the collection with its checksum, and return the damage."""
        from udq.indexing import verify

        return verify.verify(self.path)

    @property
    def drift(self) -> Drift | None:
        """Quantization errors of photos older and newer than the model; None if there are not both, or on a cluster."""
        local = isinstance(self.database, LocalDatabase)
        return drift.measure(self.segments, self.manifest.fitted_before) if local else None

    def info(self) -> dict[str, Any]:
        """Return what ``udq info --json`` prints: contents, settings and training, JSON-serialisable."""
        from udq.photos import pyramid

        document = self.manifest.document
        size = sum(manifest.sizes_of(document).values())
        measured, images = self.drift, self.config.images
        return {
            "path": str(self.path),
            "format_version": document["version"],
            "udq": document["udq"],
            "created": document["created"],
            "changed": document.get("changed"),
            "images": len(self),
            "regions": self.manifest.regions,
            "points": self.manifest.points,
            "smallest_object": {
                "percent": round(pyramid.smallest_seen(shorter=images.shorter, smallest=images.smallest), 1),
                "pixels": round(pyramid.VISIBLE),
            },
            "removed": self.manifest.removed["images"],
            "segments": len(self.manifest.segments),
            "bytes_per_region": self.model.quantizer.bits / 8,
            "subspaces": self.model.quantizer.subspaces,
            "codewords": self.model.quantizer.codewords,
            "bytes_on_disk": size,
            "model": document["model"]["origin"],
            "training": self.manifest.training,
            "config": document["config"],
            **self.manifest.given,
            "network": runtime.engine(),
            "scan": kernels.kernel(),
            "drift": None if measured is None else measured.to_json(),
            "folders": dict(Counter(image.root for image in self.images).most_common()),
            "broken": self.broken,
            **self.manifest.passed_over.to_json(),
            "exclude": list(self.manifest.exclude),
        }
