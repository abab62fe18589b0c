"""A collection whose codes are held by actors of a Ray cluster: each holds some segments, and all are searched at once.

A shard is a run of whole segments, so that every collection can be searched like this as it is, without being written
anew. Each shard answers for its own photos what ``LocalDatabase`` answers, and the nearest of all are the nearest of
these answers. A shard that does not answer in time is asked again of another replica; where none answers, the search
goes on without it and says how many photos that leaves out (``NearestImages.missing``). Ray starts what died anew.
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
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.manifest import Manifest
from udq.store.segments import Image, StoredPhoto

PATIENCE = 5.0
"""Seconds that a shard has for an answer: a scan of 200 million codes takes a tenth of one."""

# Seconds that shards have to read what they hold: a gigabyte takes some.
_READING = 1800.0
# Photos whose codes and boxes are kept here: those of results, which are looked at again for boxes and by stages.
_KEPT = 8192


@dataclass(frozen=True)
class Spread:
    """Over what a collection is spread.

    Attributes:
        address: of the cluster, as in ``cluster.connected``.
        shards: how many; one for each processor of the cluster where None, shared by the replicas, but no more than
            there are segments.
        replicas: actors that hold each shard, on different machines as far as there are such.
    """

    address: str
    shards: int | None = None
    replicas: int = 1

    def __post_init__(self) -> None:
        for name, value in (("shards", self.shards), ("replicas", self.replicas)):
            if value is not None and value < 1:
                raise InputError(f"{name}: expected 1 or more, found {value}")


class Shard:
    """Some segments of a collection, in the memory of an actor."""

    def __init__(self, path: Path, manifest: Manifest, first: int, last: int, looked_at: float | None) -> None:
        """Read segments first..last - 1 of a collection; every byte is compared with its checksum."""
        model = manifests.read_model(path, manifest)
        shape = {"subspaces": model.quantizer.subspaces, "codewords": model.quantizer.codewords}
        removed = manifests.read_removed(path, manifest)
        held = [segments.read_one(path, manifest, i, removed=removed, **shape) for i in range(first, last)]
        ranked = manifest.config.features.proposals in proposals.RANKED
        self._database = LocalDatabase(model, tuple(held), ranked, looked_at, threads=1)
        if looked_at is not None and held:
            _ = self._database.index  # now, rather than in a search, which has seconds

    def size(self) -> int:
        """Return how many photos it holds."""
        return len(self._database)

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the nearest of its photos, by their places here."""
        return self._database.nearest_images(lookups, k)

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of each of its photos."""
        return self._database.distances(lookup)

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return what is kept of some of its photos."""
        return self._database.photos(places)


@dataclass(frozen=True)
class _Share:
    """A shard as it is seen from here.

    Attributes:
        replicas: actors that hold the same.
        start: the place of its first photo among all.
        size: photos.
    """

    replicas: tuple[Any, ...]
    start: int
    size: int


class ShardedDatabase:
    """What is searched, in the memory of many actors (``udq.search.database.Database``)."""

    def __init__(self, path: Path, manifest: Manifest, model: Model, spread: Spread, looked_at: float | None) -> None:
        """Start the actors, and wait until all have read what they hold.

        Args:
            path: the collection, in a place that all machines of the cluster have.
            manifest: its state.
            model: of that.
            spread: over what.
            looked_at: as in ``LocalDatabase``.

        Raises:
            UdqError: an actor cannot be started, or cannot read its part.
        """
        self.model = model
        self.ranked = manifest.config.features.proposals in proposals.RANKED
        self._path, self._manifest = path, manifest
        self._photos: OrderedDict[int, StoredPhoto] = OrderedDict()
        self._lock = threading.Lock()
        engine = cluster.ray()
        cluster.connect(spread.address)
        replicas = spread.replicas
        wanted = spread.shards or max(1, cluster.processors() // replicas)
        # Kept: an actor that is started anew asks for it again.
        self._given = engine.put(manifest)
        started = []
        for first, last in _runs([entry["regions"] for entry in manifest.segments], wanted):
            # Without Ray's own repeats: what does not answer is asked elsewhere, or left out. A shard is memory, and
            # computes now and then: it waits for no processor of its own.
            actor = engine.remote(Shard).options(
                num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
            )
            started.append([actor.remote(path.resolve(), self._given, first, last, looked_at) for _ in range(replicas)])
        asked = [actor.size.remote() for actors in started for actor in actors]
        try:
            sizes = engine.get(asked, timeout=_READING)[::replicas]
        except engine.exceptions.GetTimeoutError as error:
            raise UdqError(f"{path}: the cluster has not read it after {_READING / 60:.0f} minutes") from error
        except engine.exceptions.RayError as error:
            raise cluster.reason(error) from error
        starts = np.cumsum([0, *sizes]).tolist()
        pairs = zip(started, starts, sizes, strict=False)
        self._shares = [_Share(tuple(actors), start, size) for actors, start, size in pairs]
        # While all are known to answer: later, one that is silent would leave every search without it.
        self.calibration = Calibration.learn(len(self), self.photos, model.quantizer)

    def ready(self) -> None:
        """Do nothing: all is ready."""

    def __len__(self) -> int:
        """Return the number N of photos."""
        return sum(share.size for share in self._shares)

    @cached_property
    def images(self) -> list[Image]:
        """All photos, by their places; read from disk, as only lists of all photos need them."""
        return segments.read_living(self._path, self._manifest)

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return what is kept of some photos; raises UdqError where a shard does not answer."""
        found, silent = self._fetched(places)
        self._expect_all(silent)
        return [found[place] for place in places]

    def distances(self, lookup: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance (N,) of each photo's best region by a query's (M, K) tables."""
        answers = self._asked([(share, "distances", (lookup,)) for share in self._shares])
        self._expect_all([number for number, answer in enumerate(answers) if answer is None])
        return np.concatenate([np.empty(0, np.float32), *answers])

    def nearest_images(self, lookups: NDArray[np.float32], k: int) -> list[NearestImages]:
        """Return the ``k`` nearest photos of each of Q queries, by their tables (Q, M, K); ``image`` holds places."""
        given = self._asked([(share, "nearest_images", (lookups, k)) for share in self._shares])
        answers = {number: answer for number, answer in enumerate(given) if answer is not None}
        while True:
            pairs = [(self._shares[number].start, answer) for number, answer in answers.items()]
            merged = [_merged([(start, each[query]) for start, each in pairs], k) for query in range(len(lookups))]
            # Now, while those who hold them answer: boxes and stages ask for them one after the other.
            places = np.unique(np.concatenate([np.empty(0, np.int64), *(found.image for found in merged)]))
            _, silent = self._fetched(places.tolist())
            if not silent:
                break
            for number in silent:
                answers.pop(number, None)
        missing = sum(share.size for number, share in enumerate(self._shares) if number not in answers)
        return [replace(found, missing=missing) for found in merged]

    def _expect_all(self, silent: Sequence[int]) -> None:
        """Raise UdqError where some shards, by their numbers, do not answer."""
        photos = sum(self._shares[number].size for number in silent)
        if silent:
            raise UdqError(f"{counted(photos, 'photo')} cannot be searched: who holds them does not answer; try again")

    def _fetched(self, places: Sequence[int]) -> tuple[dict[int, StoredPhoto], list[int]]:
        """Return what is kept of some photos, and the numbers of shards that do not say theirs."""
        with self._lock:
            found = {place: self._photos[place] for place in places if place in self._photos}
        by_share: dict[int, list[int]] = {}
        starts = [share.start for share in self._shares]
        for place in places:
            if place not in found:
                by_share.setdefault(int(np.searchsorted(starts, place, side="right")) - 1, []).append(place)
        asked = [
            (self._shares[number], "photos", ([place - starts[number] for place in group],))
            for number, group in by_share.items()
        ]
        fresh: dict[int, StoredPhoto] = {}
        silent = []
        for (number, group), answer in zip(by_share.items(), self._asked(asked), strict=True):
            if answer is None:
                silent.append(number)
            else:
                fresh |= zip(group, answer, strict=True)
        with self._lock:
            self._photos |= fresh
            while len(self._photos) > _KEPT:
                self._photos.popitem(last=False)
        return found | fresh, silent

    def _asked(self, questions: Sequence[tuple[_Share, str, tuple[Any, ...]]]) -> list[Any]:
        """Ask shards, all at once; where one does not answer, another replica is asked. None is the answer of none."""
        engine = cluster.ray()
        answers: list[Any] = [None] * len(questions)
        open_ones = list(range(len(questions)))
        turns = max((len(share.replicas) for share, _, _ in questions), default=0)
        # Each process begins with replicas of its own, so that all have something to do.
        begin = threading.get_native_id()
        for turn in range(turns):
            refs = {}
            for number in open_ones:
                share, method, given = questions[number]
                replica = share.replicas[(begin + turn) % len(share.replicas)]
                refs[number] = getattr(replica, method).remote(*given)
            engine.wait(list(refs.values()), num_returns=len(refs), timeout=PATIENCE)
            open_ones = []
            for number, ref in refs.items():
                try:
                    answers[number] = engine.get(ref, timeout=0)
                except engine.exceptions.RayTaskError as error:  # it did answer, but by an error of its own
                    raise cluster.reason(error) from error
                except engine.exceptions.RayError:
                    open_ones.append(number)
            if not open_ones:
                break
        return answers


def _runs(regions: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """Cut segments into runs of about as many regions each: ``wanted`` runs, or as many as there are segments."""
    if not regions:
        return []
    ends = np.cumsum(regions)
    runs = min(wanted, len(regions))
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
