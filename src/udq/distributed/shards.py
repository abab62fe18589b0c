"""Search codes in actors of a Ray cluster: each actor holds a shard of the collection, and all search in parallel.

A shard consists of whole consecutive segments, so that any collection can be sharded without writing it again. Each
shard answers for its own photos like a ``LocalDatabase``, and the answers are merged. If a replica of a shard does not
answer in time, the next replica is asked; if none of them answers, the search continues without the shard and reports
how many photos are missing (``NearestImages.missing``). Ray restarts actors that died.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common.text import counted
from udq.distributed import cluster
from udq.errors import InputError, UdqError
from udq.features import proposals
from udq.quantization.model import Model
from udq.search.confidence import Calibration
from udq.search.database import LocalDatabase
from udq.search.scan.exhaustive import NearestImages
from udq.search.scan.votes import MostVoted
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.manifest import Manifest
from udq.store.segments import Image, StoredPhoto

PATIENCE = 5.0
"""Seconds that a shard has for an answer; a scan of 200 million codes takes 0.1 s."""

# Seconds that shards have to read their segments.
_READING = 1800.0
# Photos of results whose codes and boxes are cached here: boxes and reranking stages need them after the scan.
_CACHED = 8192


@dataclass(frozen=True)
class Spread:
    """How a collection is distributed over a cluster.

    Attributes:
        address: of the cluster, as in ``cluster.connect``.
        shards: number of shards, at most the number of segments; if None, the number of processors of the cluster
            divided by ``replicas``.
        replicas: actors that hold the same shard, on different machines if possible.
    """

    address: str
    shards: int | None = None
    replicas: int = 1

    def __post_init__(self) -> None:
        for name, value in (("shards", self.shards), ("replicas", self.replicas)):
            if value is not None and value < 1:
                raise InputError(f"{name}: expected 1 or more, found {value}")


class Shard:
    """Consecutive segments of a collection, in the memory of a Ray actor."""

    def __init__(self, path: Path, manifest: Manifest, first: int, last: int, looked_at: float | None) -> None:
        """Read segments ``first`` to ``last - 1`` of a collection and compare every byte with its checksum."""
        model = manifests.read_model(path, manifest)
        shape = {"subspaces": model.quantizer.subspaces, "codewords": model.quantizer.codewords}
        removed = manifests.read_removed(path, manifest)
        read = [segments.read_one(path, manifest, i, removed=removed, **shape) for i in range(first, last)]
        ranked = manifest.config.features.proposals in proposals.RANKED
        self._database = LocalDatabase(model, tuple(read), ranked, looked_at, threads=1)
        self._database.sort()  # here, because the first search has only seconds

    def size(self) -> int:
        """Return the number of its photos."""
        return len(self._database)

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the nearest of its photos, by their places here."""
        return self._database.nearest_images(lookups, k)

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of each of its photos."""
        return self._database.distances(lookup)

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return the records, codes and boxes of the photos at these places."""
        return self._database.photos(places)

    def most_voted(self, descriptors: NDArray[np.float32], count: int) -> MostVoted:
        """Return those of its photos that local features vote for, by their places here."""
        return self._database.most_voted(descriptors, count)


@dataclass(frozen=True)
class _Share:
    """A shard, as the searching process knows it.

    Attributes:
        replicas: actors that hold the shard.
        start: the place of its first photo in the collection.
        size: number of its photos.
    """

    replicas: tuple[Any, ...]
    start: int
    size: int


class ShardedDatabase:
    """A database in the memory of several actors (``udq.search.database.Database``)."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        model: Model,
        spread: Spread,
        looked_at: float | None,
        threads: int | None = None,
    ) -> None:
        """Start the actors, and wait until all have read their segments.

        Args:
            path: the collection, at a path that all machines of the cluster can read.
            manifest: its state.
            model: its model.
            spread: the cluster, and numbers of shards and replicas.
            looked_at: as in ``LocalDatabase``.
            threads: as in ``Database``; an actor has one.

        Raises:
            UdqError: an actor cannot be started, or cannot read its segments.
        """
        self.model = model
        self.threads = threads
        self.ranked = manifest.config.features.proposals in proposals.RANKED
        self.position = manifest.config.search.position
        self._path, self._manifest = path, manifest
        self._photos: OrderedDict[int, StoredPhoto] = OrderedDict()
        self._lock = threading.Lock()
        engine = cluster.ray()
        cluster.connect(spread.address)
        replicas = spread.replicas
        shards = spread.shards or max(1, cluster.processors() // replicas)
        # An attribute, because an actor that is restarted reads it again.
        self._manifest_reference = engine.put(manifest)
        started = []
        for first, last in _runs([entry["regions"] for entry in manifest.segments], shards):
            # No retries by Ray: another replica is asked instead. No processor of its own: a shard mostly uses memory,
            # and computes only now and then.
            actor = engine.remote(Shard).options(
                num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
            )
            given = path.resolve(), self._manifest_reference, first, last, looked_at
            started.append([actor.remote(*given) for _ in range(replicas)])
        references = [actor.size.remote() for actors in started for actor in actors]
        try:
            sizes = engine.get(references, timeout=_READING)[::replicas]
        except engine.exceptions.GetTimeoutError as error:
            raise UdqError(f"{path}: the cluster has not read it after {_READING / 60:.0f} minutes") from error
        except engine.exceptions.RayError as error:
            raise cluster.reason(error) from error
        starts = np.cumsum([0, *sizes]).tolist()
        pairs = zip(started, starts, sizes, strict=False)
        self._shares = [_Share(tuple(actors), start, size) for actors, start, size in pairs]
        # Now, while all shards answer: a shard that fails later would make this fail in every search.
        self.calibration = Calibration.learn(len(self), self.photos, model.quantizer, ranked=self.ranked)

    def ready(self) -> None:
        """Do nothing: the constructor has waited for everything."""

    def __len__(self) -> int:
        """Return the number N of photos."""
        return sum(share.size for share in self._shares)

    @cached_property
    def images(self) -> list[Image]:
        """All photos, by place; read from disk, because only lists of all photos need them."""
        return segments.read_living(self._path, self._manifest)

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return the records, codes and boxes of the photos at these places; UdqError if a shard does not answer."""
        photos, failed = self._fetch(places)
        self._expect_none(failed)
        return [photos[place] for place in places]

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region, by the (M, K) tables of a query."""
        answers = self._ask([(share, "distances", (lookup,)) for share in self._shares])
        self._expect_none([number for number, answer in enumerate(answers) if answer is None])
        return np.concatenate([np.empty(0, np.float32), *answers])

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the ``k`` nearest photos of each of Q queries, by their tables (Q, M, K); ``image`` holds places."""
        given = self._ask([(share, "nearest_images", (lookups, k)) for share in self._shares])
        answers = {number: answer for number, answer in enumerate(given) if answer is not None}
        while True:
            pairs = [(self._shares[number].start, answer) for number, answer in answers.items()]
            merged = [_merged([(start, each[query]) for start, each in pairs], k) for query in range(len(lookups))]
            # Fetched now, while their shards answer: localisation and reranking stages need them later, one by one.
            places = np.unique(np.concatenate([np.empty(0, np.int64), *(found.image for found in merged)]))
            _, failed = self._fetch(places.tolist())
            if not failed:
                break
            for number in failed:
                answers.pop(number, None)
        missing = sum(share.size for number, share in enumerate(self._shares) if number not in answers)
        return [replace(found, missing=missing) for found in merged]

    @property
    def has_points(self) -> bool:
        """Whether local features of photos are stored."""
        return any(segments.POINTS in entry["files"] for entry in self._manifest.segments)

    def most_voted(self, descriptors: NDArray[np.float32], count: int) -> MostVoted:
        """Return the photos that local features vote for; those of shards that do not answer are ``missing``."""
        answers = self._ask([(share, "most_voted", (descriptors, count)) for share in self._shares])
        pairs = list(zip(self._shares, answers, strict=True))
        given = [(share.start, answer) for share, answer in pairs if answer is not None]
        place = np.concatenate([np.empty(0, np.int64), *(start + found.image for start, found in given)])
        votes = np.concatenate([np.empty(0, np.float32), *(found.votes for _, found in given)])
        missing = sum(share.size for share, answer in pairs if answer is None)
        return MostVoted.of(place, votes, count, missing=missing)

    def _expect_none(self, failed: Sequence[int]) -> None:
        """Raise UdqError if there are shards that do not answer, given by their numbers."""
        photos = sum(self._shares[number].size for number in failed)
        if failed:
            raise UdqError(f"{counted(photos, 'photo')} cannot be searched: their shards do not answer; try again")

    def _fetch(self, places: Sequence[int]) -> tuple[dict[int, StoredPhoto], list[int]]:
        """Return photos by place, from the cache or their shards, and the numbers of shards that do not answer."""
        with self._lock:
            cached = {place: self._photos[place] for place in places if place in self._photos}
        by_share: dict[int, list[int]] = {}
        starts = [share.start for share in self._shares]
        for place in places:
            if place not in cached:
                by_share.setdefault(int(np.searchsorted(starts, place, side="right")) - 1, []).append(place)
        requests = [
            (self._shares[number], "photos", ([place - starts[number] for place in group],))
            for number, group in by_share.items()
        ]
        fresh: dict[int, StoredPhoto] = {}
        failed = []
        for (number, group), answer in zip(by_share.items(), self._ask(requests), strict=True):
            if answer is None:
                failed.append(number)
            else:
                fresh |= zip(group, answer, strict=True)
        with self._lock:
            self._photos |= fresh
            while len(self._photos) > _CACHED:
                self._photos.popitem(last=False)
        return cached | fresh, failed

    def _ask(self, requests: Sequence[tuple[_Share, str, tuple[Any, ...]]]) -> list[Any]:
        """Call methods of shards in parallel, and return their results.

        If a replica does not answer in time, the next replica of its shard is asked; the result is None if no replica
        answers.

        Args:
            requests: shard, name of a method of ``Shard``, arguments.
        """
        engine = cluster.ray()
        answers: list[Any] = [None] * len(requests)
        pending = list(range(len(requests)))
        attempts = max((len(share.replicas) for share, _, _ in requests), default=0)
        # Each thread starts with another replica, so that all replicas are used.
        first = threading.get_native_id()
        for attempt in range(attempts):
            references = {}
            for number in pending:
                share, method, arguments = requests[number]
                replica = share.replicas[(first + attempt) % len(share.replicas)]
                references[number] = getattr(replica, method).remote(*arguments)
            engine.wait(list(references.values()), num_returns=len(references), timeout=PATIENCE)
            pending = []
            for number, reference in references.items():
                try:
                    answers[number] = engine.get(reference, timeout=0)
                except engine.exceptions.RayTaskError as error:  # the replica answered with an error
                    raise cluster.reason(error) from error
                except engine.exceptions.RayError:
                    pending.append(number)
            if not pending:
                break
        return answers


def _runs(regions: Sequence[int], shards: int) -> list[tuple[int, int]]:
    """Divide segments into consecutive runs with about equal numbers of regions.

    Args:
        regions: number of regions of each segment.
        shards: number of runs; fewer if there are fewer segments.

    Returns:
        First segment of each run, and the segment after its last one.
    """
    if not regions:
        return []
    ends = np.cumsum(regions)
    runs = min(shards, len(regions))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, runs) / runs, side="left") + 1
    edges = sorted({0, *cuts.tolist(), len(regions)})
    return list(pairwise(edges))


def _merged(answers: Sequence[tuple[int, NearestImages]], k: int) -> NearestImages:
    """Return the ``k`` nearest of what shards found, each with the place of its first photo."""
    place = np.concatenate([np.empty(0, np.int64), *(start + found.image for start, found in answers)])
    distance = np.concatenate([np.empty(0, np.float32), *(found.distance for _, found in answers)])
    region = np.concatenate([np.empty(0, np.int64), *(found.region for _, found in answers)])
    order = np.lexsort((place, distance))[:k]
    return NearestImages(place[order], distance[order], region[order])
