"""Searches: some at a time, the others wait in line, first come first served, and beyond that they are refused.

Encoding a query takes a core some hundredths of a second, far longer than ranking all photos by it. So as many
searches run as there are cores, and the features of boxes that were drawn lately are kept.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.common import threads
from udq.common.byte_cache import Cache
from udq.photos.sandbox import Decoder
from udq.search import query
from udq.types import Box, Example, SearchResult
from udq.web.live_collection import CollectionView
from udq.web.metrics import Metrics
from udq.web.problems import Problem
from udq.web.renditions import Shown, within

if TYPE_CHECKING:
    from udq.features.extractor import Extractor

Result = TypeVar("Result")

# Searches that may wait for a worker.
LINE = 100
# Of features in memory: some 6,000 boxes.
CACHE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class QueryPhoto:
    """An example, its photo found.

    Attributes:
        photo: where it is.
        box: x1, y1, x2, y2 in its pixels; the whole photo where None.
        wrong: whether it shows something else.
    """

    photo: Shown
    box: Box | None
    wrong: bool


class WorkQueue:
    """Workers, and those who wait for one in the order in which they came."""

    def __init__(self, workers: int, waiting: int, initializer: Callable[[], None] | None = None) -> None:
        """Start no worker yet.

        Args:
            workers: that run at the same time.
            waiting: that may wait.
            initializer: what each worker runs first.
        """
        self._limits = ExitStack()  # while the queue is open
        self._limits.enter_context(threads.one_core_each())
        self._pool = ThreadPoolExecutor(workers, "udq", initializer=initializer)
        self._free = asyncio.Semaphore(workers)
        self._workers = workers
        self._most = waiting
        self.waiting = 0
        self._seconds = 0.05

    async def run(self, gone: Callable[[], Awaitable[bool]], work: Callable[[], Result]) -> Result:
        """Have work done; raises Problem where too many wait.

        Args:
            gone: whether nobody waits for the result any more.
            work: what to do.
        """
        if self.waiting >= self._most:
            seconds = max(1, math.ceil(self.waiting * self._seconds / self._workers))
            raise Problem(
                "busy",
                f"{self.waiting} others wait already; ask again in {seconds} s",
                headers={"retry-after": str(seconds)},
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            if await gone():
                raise Problem("bad-request", "whoever asked has gone")
            started = time.perf_counter()
            result = await asyncio.get_running_loop().run_in_executor(self._pool, work)
            self._seconds += 0.1 * (time.perf_counter() - started - self._seconds)
            return result
        finally:
            self._free.release()

    def on_each(self, work: Callable[[int], object]) -> None:
        """Have each worker do something before anything else, and wait for that."""
        met = threading.Barrier(self._workers)

        def once(worker: int) -> None:
            met.wait()  # so that none does two
            work(worker)

        list(self._pool.map(once, range(self._workers)))

    def close(self) -> None:
        """End the workers, once what they do is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.close()


def one_core() -> None:
    """Have torch compute on this worker's core alone."""
    importlib.import_module("torch")  # a library that is not loaded has no setting
    threads.set_for_this_thread(1)


class Searches:
    """Answers searches."""

    def __init__(self, decoder: Decoder, metrics: Metrics) -> None:
        """Begin with nothing kept.

        Args:
            decoder: decodes query photos, which may be strangers'.
            metrics: are told of each search.
        """
        self._decoder = decoder
        self._metrics = metrics
        self._features: Cache[tuple[Box, NDArray[np.float32]]] = Cache(CACHE_BYTES)
        self._seen_by: Extractor | None = None
        self.line = WorkQueue(os.cpu_count() or 1, LINE, initializer=one_core)

    async def search(
        self,
        gone: Callable[[], Awaitable[bool]],
        state: CollectionView,
        examples: Sequence[QueryPhoto],
        *,
        k: int,
        offset: int,
        min_score: float | None,
        stages: Sequence[str] = (),
    ) -> SearchResult:
        """Search a collection; raises Problem where too many searches wait."""
        work = functools.partial(self._search, state, examples, k=k, offset=offset, min_score=min_score, stages=stages)
        try:
            result = await self.line.run(gone, work)
        except Problem as problem:
            if problem.kind == "busy":
                self._metrics.refused.inc()
            raise
        self._metrics.searches.inc()
        self._metrics.encode.observe(result.elapsed_ms["encode"])
        self._metrics.scan.observe(result.elapsed_ms["scan"])
        return result

    def warm_up(self, state: CollectionView) -> None:
        """Search once for real on each worker, so that networks, decoders and the scan are loaded."""
        with tempfile.TemporaryDirectory(prefix="udq-serve-") as folder:
            path = Path(folder, "noise.png")
            Image.effect_noise((640, 480), 64).convert("RGB").save(path)
            photo = within(path, path.parent, name=path.name, width=640, height=480)

            def once(worker: int) -> None:
                # A box of its own for each: else the second would find the feature of the first one.
                box = (0.0, 0.0, 640.0 - worker, 480.0)
                self._search(state, [QueryPhoto(photo, box, False)], k=20, offset=0, min_score=None)

            self.line.on_each(once)

    def _search(
        self,
        state: CollectionView,
        asked: Sequence[QueryPhoto],
        *,
        k: int,
        offset: int,
        min_score: float | None,
        stages: Sequence[str] = (),
    ) -> SearchResult:
        extractor = state.collection.extractor
        if extractor is not self._seen_by:  # the collection was trained anew
            self._features.clear()
            self._seen_by = extractor
        photos = {str(each.photo.path): each.photo for each in asked}

        def describe(example: Example) -> tuple[Box, NDArray[np.float32]]:
            key = photos[str(example.photo)].mark, example.box
            kept = self._features.get(key)
            if kept is None:
                with photos[str(example.photo)].by_name():
                    kept = extractor.describe(Path(example.photo), example.box, load_crop=self._decoder.load_crop)
                self._features.put(key, kept, kept[1].nbytes)
            return kept

        examples = [Example(each.photo.path, each.box, each.wrong) for each in asked]
        return query.search(
            state.collection,
            examples,
            k=k,
            offset=offset,
            min_score=min_score,
            stages=stages,
            describe=describe,
            load_crop=self._decoder.load_crop,
        )
