"""What a server is made of, started and ended together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from udq.collection import Collection
from udq.photos.sandbox import Decoder
from udq.store.segments import Image
from udq.web.changes import PhotoChanges
from udq.web.live_collection import CollectionView, LiveCollection
from udq.web.metrics import Metrics
from udq.web.problems import Problem
from udq.web.queue import LINE, Searches, WorkQueue
from udq.web.renditions import Pictures, Shown, within
from udq.web.uploads import Uploads

Result = TypeVar("Result")

# Renditions that may wait for a worker: a page asks for some dozens at once.
_PICTURES_WAITING = 1000
# Photos that may be coming in at a time: until one is whole, it waits on the disk, outside the budget of uploads.
UPLOADS_AT_A_TIME = 16
# Seconds between two looks for uploads that nobody asks for any more.
_SWEEP_EVERY = 60.0
# What is told of ``udq info``.
_FACTS = (
    *("regions", "removed", "bytes_per_region", "subspaces", "codewords", "bytes_on_disk", "format_version"),
    *("created", "changed", "model", "network", "scan", "drift"),
)


@dataclass
class Service:
    """A collection, served.

    Attributes:
        living: the collection as it is now.
        decoder: decodes photos in processes of their own.
        searches: answer searches.
        pictures: make renditions of photos.
        uploads: photos that visitors bring.
        writer: changes the collection, where that is allowed.
        metrics: of this server.
        drawing: workers that decode photos to be shown, and those who wait for them.
        receiving: the one that looks at photos which are brought: a large one takes time and memory.
    """

    living: LiveCollection
    decoder: Decoder
    searches: Searches
    pictures: Pictures
    uploads: Uploads
    writer: PhotoChanges
    metrics: Metrics
    drawing: WorkQueue
    receiving: WorkQueue
    ready: bool = False
    _coming: int = 0
    _sweeping: asyncio.Task[None] | None = field(default=None)

    @staticmethod
    def start(collection: Collection, *, write_to: Path | None = None) -> Service:
        """Read the collection and its network, so that the first search is as fast as any other.

        Args:
            collection: what is served.
            write_to: the folder for photos that are added; None where nothing may be changed.
        """
        living = LiveCollection(collection)
        decoder, metrics = Decoder(), Metrics()
        uploads, searches = Uploads(decoder), Searches(decoder, metrics)
        service = Service(
            living,
            decoder,
            searches,
            Pictures(decoder),
            uploads,
            PhotoChanges(living, write_to),
            metrics,
            WorkQueue(os.cpu_count() or 1, _PICTURES_WAITING),
            WorkQueue(1, UPLOADS_AT_A_TIME),
        )
        try:
            searches.warm_up(living.state)
        except BaseException:
            service.close()
            raise
        metrics.watch("udq_photos", "Photos of the collection.", lambda: len(living.state.collection))
        metrics.watch("udq_regions", "Regions of all photos.", lambda: living.state.collection.regions)
        metrics.watch("udq_searches_waiting", "Searches that wait for a worker.", lambda: searches.line.waiting)
        metrics.watch("udq_uploads_bytes", "Photos that visitors brought.", lambda: uploads.size)
        metrics.watch("udq_renditions_bytes", "Renditions in memory.", lambda: service.pictures.size)
        return service

    async def __aenter__(self) -> Service:
        """Begin to sweep."""
        self._sweeping = asyncio.create_task(self._sweep())
        self.ready = True
        return self

    async def __aexit__(self, *failure: object) -> None:
        """End everything, and delete what visitors brought."""
        self.ready = False
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.close()

    def close(self) -> None:
        """End workers and decoders, and delete what visitors brought; doing so twice is no error."""
        for line in (self.searches.line, self.drawing, self.receiving):
            line.close()
        self.decoder.close()
        self.uploads.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            with suppress(OSError):
                await asyncio.to_thread(self.uploads.sweep)

    async def now(self) -> CollectionView:
        """Return the newest state of the collection."""
        # Not here: reading a new state, or a disk that does not answer, would hold up all other requests.
        return await asyncio.to_thread(self.living.now)

    async def find(self, number: int) -> tuple[Image, Shown]:
        """Return a photo of the collection, and as it is to be served; raises Problem where it is gone."""
        return await asyncio.to_thread(self._find, number)

    def _find(self, number: int) -> tuple[Image, Shown]:
        image = self.living.now().photo(number)
        return image, shown_of(image)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Count a photo that comes in; raises Problem where too many do."""
        if self._coming >= UPLOADS_AT_A_TIME:
            raise Problem("busy", f"{self._coming} photos are coming in already", headers={"retry-after": "1"})
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def draw(self, gone: Callable[[], Awaitable[bool]], work: Callable[[], Result]) -> Result:
        """Have a photo decoded."""
        return await self.drawing.run(gone, work)

    def facts(self, state: CollectionView) -> dict[str, Any]:
        """Return what the collection holds, for its page."""
        info = state.facts
        return {
            "name": state.collection.path.resolve().name,
            "photos": info["images"],
            **{name: info[name] for name in _FACTS},
            "not_indexed": len(info["broken"]),
            "features": info["config"]["features"],
            "device": str(state.collection.extractor.device),
            "writable": self.writer.allowed,
            "limits": {"searches_waiting": LINE},
        }


def shown_of(image: Image) -> Shown:
    """Return a photo of the collection as it is to be served; raises Problem where it is gone, or a link leads out."""
    return within(image.path, Path(image.root), name=image.name, width=image.width, height=image.height)
