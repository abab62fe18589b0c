"""The parts that a server shares between requests, started and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from udq.collection import Collection
from udq.common import threads
from udq.photos.sandbox import Decoder
from udq.store.segments import Image
from udq.web.changes import PhotoChanges
from udq.web.live_collection import CollectionView, LiveCollection
from udq.web.metrics import Metrics
from udq.web.problems import Problem
from udq.web.queue import MAX_WAITING, Searches, WorkQueue
from udq.web.renditions import PhotoFile, Renditions, file_of
from udq.web.uploads import Uploads

Result = TypeVar("Result")

# Renditions that may wait for a worker: the page requests dozens at once.
_MAX_RENDITIONS_WAITING = 1000
# Uploads in progress: until one is complete it is spooled to disk, where the budget of uploads does not count it.
MAX_UPLOADS_IN_PROGRESS = 16
# Seconds between two deletions of expired uploads.
_SWEEP_INTERVAL = 60.0
# What the API returns of ``Collection.info``.
_FACTS = (
    *("regions", "removed", "bytes_per_region", "subspaces", "codewords", "bytes_on_disk", "format_version"),
    *("created", "changed", "model", "network", "scan", "drift"),
)


@dataclass
class Service:
    """A served collection; ``app.state.service`` of the application.

    Attributes:
        live: the newest state of the collection.
        decoder: decodes photos in separate processes.
        searches: runs searches.
        renditions: makes JPEGs and thumbnails.
        uploads: photos that clients upload.
        changes: adds and removes photos, if allowed.
        metrics: of this server.
        render_queue: workers that make renditions.
        upload_queue: the one worker that decodes uploads: a large photo takes much time and memory.
        ready: whether the server answers requests.
    """

    live: LiveCollection
    decoder: Decoder
    searches: Searches
    renditions: Renditions
    uploads: Uploads
    changes: PhotoChanges
    metrics: Metrics
    render_queue: WorkQueue
    upload_queue: WorkQueue
    ready: bool = False
    _uploads_in_progress: int = 0
    _sweeping: asyncio.Task[None] | None = field(default=None)

    @staticmethod
    def start(collection: Collection, *, write_to: Path | None = None) -> Service:
        """Load the collection and its network, and warm up the workers: the first search is as fast as any other.

        Args:
            collection: what to serve.
            write_to: folder for photos added over HTTP; None serves the collection read-only.
        """
        live = LiveCollection(collection)
        decoder = Decoder(limit=collection.config.images.max_megapixels)
        metrics, workers = Metrics(), threads.count(collection.threads)
        service = Service(
            live=live,
            decoder=decoder,
            searches=Searches(decoder, metrics, workers),
            renditions=Renditions(decoder),
            uploads=Uploads(decoder),
            changes=PhotoChanges(live, write_to),
            metrics=metrics,
            render_queue=WorkQueue(workers, _MAX_RENDITIONS_WAITING),
            upload_queue=WorkQueue(1, MAX_UPLOADS_IN_PROGRESS),
        )
        try:
            service.searches.warm_up(live.view)
        except BaseException:
            service.close()
            raise
        service._add_gauges()
        return service

    def _add_gauges(self) -> None:
        add, live = self.metrics.add_gauge, self.live
        add("udq_photos", "Photos in the collection.", lambda: len(live.view.collection))
        add("udq_regions", "Regions of all photos.", lambda: live.view.collection.regions)
        add("udq_searches_waiting", "Searches waiting for a worker.", lambda: self.searches.queue.waiting)
        add("udq_uploads_bytes", "Bytes of uploaded photos.", lambda: self.uploads.size)
        add("udq_renditions_bytes", "Bytes of renditions in memory.", lambda: self.renditions.size)

    async def __aenter__(self) -> Service:
        """Start to delete expired uploads regularly."""
        self._sweeping = asyncio.create_task(self._sweep())
        self.ready = True
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Close everything."""
        self.ready = False
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.close()

    def close(self) -> None:
        """Stop workers and decoders, and delete all uploads; can be called twice."""
        for queue in (self.searches.queue, self.render_queue, self.upload_queue):
            queue.close()
        self.decoder.close()
        self.uploads.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL)
            with suppress(OSError):
                await asyncio.to_thread(self.uploads.sweep)

    async def view(self) -> CollectionView:
        """Return the newest state of the collection."""
        # In a thread: reading a new state, or a disk that does not respond, would block all other requests.
        return await asyncio.to_thread(self.live.current)

    async def find(self, number: int) -> tuple[Image, PhotoFile]:
        """Return a photo of the collection by its id, and its file.

        Raises:
            Problem: there is no such photo, its file is gone, or it is a link to a file outside the indexed folder.
        """
        return await asyncio.to_thread(self._find, number)

    def _find(self, number: int) -> tuple[Image, PhotoFile]:
        image = self.live.current().photo(number)
        return image, file_of(image)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Count an upload in progress; raises Problem if there are too many."""
        if self._uploads_in_progress >= MAX_UPLOADS_IN_PROGRESS:
            raise Problem(
                "busy",
                f"{self._uploads_in_progress} uploads are already in progress; try again in 1 s",
                headers={"retry-after": "1"},
            )
        self._uploads_in_progress += 1
        try:
            yield
        finally:
            self._uploads_in_progress -= 1

    async def render(self, disconnected: Callable[[], Awaitable[bool]], make: Callable[[], Result]) -> Result:
        """Make a rendition in a worker; arguments and errors as in ``WorkQueue.run``."""
        return await self.render_queue.run(disconnected, make)

    def facts(self, view: CollectionView) -> dict[str, Any]:
        """Return contents and settings of the collection, for ``GET /collection``."""
        info = view.facts
        return {
            "name": view.collection.path.resolve().name,
            "photos": info["images"],
            **{name: info[name] for name in _FACTS},
            "not_indexed": len(info["broken"]),
            "features": info["config"]["features"],
            "device": str(view.collection.extractor.device),
            "writable": self.changes.allowed,
            "limits": {"searches_waiting": MAX_WAITING},
        }
