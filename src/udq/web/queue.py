"""Work queues with a fixed number of workers and a bounded number of waiting requests; and the queue of searches.

Encoding a query takes a core some hundredths of a second, far longer than ranking all photos by it. So one search per
core runs at a time, and the features of recently drawn boxes are cached.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import math
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.collection import Collection
from udq.common import threads
from udq.common.byte_cache import Cache
from udq.photos.sandbox import Decoder
from udq.search import query
from udq.types import Box, Example, SearchResult
from udq.web.live_collection import CollectionView
from udq.web.metrics import Metrics
from udq.web.problems import Problem
from udq.web.renditions import PhotoFile, resolve

Result = TypeVar("Result")

# Searches that may wait for a worker.
MAX_WAITING = 100
# Memory for features of boxes, in bytes: about 6,000 boxes.
CACHE_BYTES = 32 * 2**20


class WorkQueue:
    """Worker threads, and a bounded first-in first-out queue in front of them.

    Attributes:
        waiting: requests in the queue.
    """

    def __init__(self, workers: int, max_waiting: int, initializer: Callable[[], None] | None = None) -> None:
        """Start no thread yet.

        Args:
            workers: threads.
            max_waiting: length of the queue.
            initializer: what each thread runs first.
        """
        self._limits = ExitStack()  # while the queue is open
        self._limits.enter_context(threads.one_core_each())
        self._pool = ThreadPoolExecutor(workers, "udq", initializer=initializer)
        self._free = asyncio.Semaphore(workers)
        self._workers = workers
        self._max_waiting = max_waiting
        self.waiting = 0
        self._seconds = 0.05  # moving average of the time that one piece of work takes

    async def run(self, disconnected: Callable[[], Awaitable[bool]], work: Callable[[], Result]) -> Result:
        """Run work in a worker thread.

        Args:
            disconnected: whether the client has disconnected, in which case the work is skipped.
            work: what to run.

        Raises:
            Problem: the queue is full, or the client has disconnected.
        """
        if self.waiting >= self._max_waiting:
            seconds = max(1, math.ceil(self.waiting * self._seconds / self._workers))
            raise Problem(
                "busy",
                f"the queue is full: {self.waiting} requests are waiting; try again in {seconds} s",
                headers={"retry-after": str(seconds)},
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            if await disconnected():
                raise Problem("bad-request", "the client disconnected")
            started = time.perf_counter()
            result = await asyncio.get_running_loop().run_in_executor(self._pool, work)
            self._seconds += 0.1 * (time.perf_counter() - started - self._seconds)
            return result
        finally:
            self._free.release()

    def run_on_each(self, work: Callable[[int], object]) -> None:
        """Run ``work(worker)`` once in every worker thread before any other work, and wait for all of them."""
        barrier = threading.Barrier(self._workers)

        def once(worker: int) -> None:
            barrier.wait()  # keeps every thread busy until all have started, so that none runs twice
            work(worker)

        list(self._pool.map(once, range(self._workers)))

    def close(self) -> None:
        """Cancel the work that waits, and wait for the work that runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.close()


async def never_disconnected() -> bool:
    """Run work whether or not its client is still connected: an argument of ``WorkQueue.run``."""
    return False


def torch_on_one_core() -> None:
    """Have torch compute on this worker's core alone."""
    importlib.import_module("torch")  # a library that is not loaded has no setting
    threads.set_for_this_thread(1)


class Searches:
    """Runs searches, one per thread.

    Attributes:
        queue: the workers.
    """

    def __init__(self, decoder: Decoder, metrics: Metrics, workers: int) -> None:
        """Start with an empty cache of features.

        Args:
            decoder: decodes the photos of examples in separate processes: uploads are untrusted.
            metrics: counts and times the searches.
            workers: searches that run at the same time.
        """
        self._decoder = decoder
        self._metrics = metrics
        self._features: Cache[tuple[Box, NDArray[np.float32]]] = Cache(CACHE_BYTES)
        self.queue = WorkQueue(workers, MAX_WAITING, initializer=torch_on_one_core)

    async def search(
        self,
        disconnected: Callable[[], Awaitable[bool]],
        view: CollectionView,
        examples: Sequence[Example],
        *,
        k: int,
        offset: int,
        min_score: float | None,
        stages: Sequence[str] | None = None,
    ) -> SearchResult:
        """Search a collection in a worker thread; raises Problem if the queue is full.

        Args:
            disconnected: whether the client has disconnected.
            view: the collection.
            examples: their photos are ``PhotoFile``.
            k, offset, min_score, stages: as in ``udq.search.query.search``.
        """
        work = functools.partial(self._search, view, examples, k=k, offset=offset, min_score=min_score, stages=stages)
        try:
            result = await self.queue.run(disconnected, work)
        except Problem as problem:
            if problem.kind == "busy":
                self._metrics.refused.inc()
            raise
        self._metrics.searches.inc()
        self._metrics.encode.observe(result.elapsed_ms["encode"])
        self._metrics.scan.observe(result.elapsed_ms["scan"])
        return result

    def warm_up(self, view: CollectionView) -> None:
        """Run one search in each worker, so that the network, the decoders and the scan are loaded."""
        with tempfile.TemporaryDirectory(prefix="udq-serve-") as folder:
            path = Path(folder, "noise.png")
            Image.effect_noise((640, 480), 64).convert("RGB").save(path)
            photo = resolve(path, path.parent, name=path.name, width=640, height=480)

            def search(worker: int) -> None:
                # A different box for each worker, so that none finds its feature in the cache.
                box = (0.0, 0.0, 640.0 - worker, 480.0)
                self._search(view, [Example(photo, box)], k=20, offset=0, min_score=None)

            self.queue.run_on_each(search)

    def _search(
        self,
        view: CollectionView,
        examples: Sequence[Example],
        *,
        k: int,
        offset: int,
        min_score: float | None,
        stages: Sequence[str] | None = None,
    ) -> SearchResult:
        with ExitStack() as stack:
            for example in examples:
                stack.enter_context(_file(example).name_in_errors())
            return query.search(
                view.collection,
                examples,
                k=k,
                offset=offset,
                min_score=min_score,
                stages=stages,
                extract_feature=functools.partial(self._describe, view.collection),
                decoder=self._decoder,
            )

    def _describe(self, collection: Collection, example: Example) -> tuple[Box, NDArray[np.float32]]:
        """Return the box of an example and its feature (D,), from the cache if its photo has not changed.

        The key contains the network: searches of the states before and after a retraining run at the same time.
        """
        key = collection.network_checksum, _file(example).version, example.box
        described = self._features.get(key)
        if described is None:
            described = collection.extractor.describe(Path(example.photo), example.box, decoder=self._decoder)
            self._features.put(key, described, described[1].nbytes)
        return described


def _file(example: Example) -> PhotoFile:
    """Return the photo of an example; on this server it always is a ``PhotoFile``."""
    assert isinstance(example.photo, PhotoFile)
    return example.photo
