"""What a server is made of, started and ended together."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image as Pillow

from udq.collection import Collection
from udq.decode import Decoder
from udq.types import Box
from udq.web.living import Living, State
from udq.web.metrics import Metrics
from udq.web.pictures import Pictures, Shown, within
from udq.web.searching import LINE, Asked, Line, Searches
from udq.web.uploads import Uploads
from udq.web.writing import Writer

Result = TypeVar("Result")

# Thumbnails and uploads that may wait for a worker: a page asks for some dozens at once.
_PICTURES_WAITING = 1000
# Seconds between two looks for uploads that nobody asks for any more.
_SWEEP_EVERY = 60.0
# What is told of ``udq info``.
_FACTS = (
    *("regions", "removed", "bytes_per_region", "subspaces", "codewords", "bytes_on_disk", "format_version"),
    *("created", "changed", "model", "scan", "drift"),
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
    """

    living: Living
    decoder: Decoder
    searches: Searches
    pictures: Pictures
    uploads: Uploads
    writer: Writer
    metrics: Metrics
    drawing: Line
    ready: bool = False
    _sweeping: asyncio.Task[None] | None = field(default=None)

    @staticmethod
    def start(collection: Collection, *, write_to: Path | None = None) -> Service:
        """Read the collection and its network, so that the first search is as fast as any other.

        Args:
            collection: what is served.
            write_to: the folder for photos that are added; None where nothing may be changed.
        """
        decoder, metrics = Decoder(), Metrics()
        living = Living(collection)
        uploads = Uploads(decoder)
        searches = Searches(decoder, metrics)
        service = Service(
            living,
            decoder,
            searches,
            Pictures(decoder),
            uploads,
            Writer(living, write_to),
            metrics,
            Line(os.cpu_count() or 1, _PICTURES_WAITING),
        )
        metrics.watch("udq_photos", "Photos of the collection.", lambda: len(living.state.collection))
        metrics.watch("udq_regions", "Regions of all photos.", lambda: living.state.collection.regions)
        metrics.watch("udq_searches_waiting", "Searches that wait for a worker.", lambda: searches.line.waiting)
        metrics.watch("udq_uploads_bytes", "Photos that visitors brought.", lambda: uploads.size)
        metrics.watch("udq_renditions_bytes", "Renditions in memory.", lambda: service.pictures.size)
        return service

    async def __aenter__(self) -> Service:
        """Warm up, and begin to sweep."""
        await self._warm_up()
        self._sweeping = asyncio.create_task(self._sweep())
        self.ready = True
        return self

    async def __aexit__(self, *failure: object) -> None:
        """End everything, and delete what visitors brought."""
        self.ready = False
        if self._sweeping is not None:
            self._sweeping.cancel()
        for line in (self.searches.line, self.drawing):
            line.close()
        self.decoder.close()
        self.uploads.close()

    async def _warm_up(self) -> None:
        """Search once for real on each worker, so that networks, decoders and the scan are loaded."""
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            Pillow.effect_noise((640, 480), 64).convert("RGB").save(file, "PNG")
            file.flush()
            photo = within(Path(file.name), Path(file.name).parent, width=640, height=480)
            # A box of its own for each: else the second finds the feature of the first one.
            boxes: list[Box] = [(0.0, 0.0, 640.0 - i, 480.0) for i in range(os.cpu_count() or 1)]
            asked = [Asked(photo, box, False) for box in boxes]
            state = self.living.now()
            await asyncio.gather(
                *(self.searches.search(_here, state, [each], k=20, offset=0, min_score=None) for each in asked)
            )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            with suppress(OSError):
                await asyncio.to_thread(self.uploads.sweep)

    async def now(self) -> State:
        """Return the newest state of the collection; reading a new one does not hold up other requests."""
        return await asyncio.to_thread(self.living.now)

    def shown(self, state: State, number: int) -> Shown:
        """Return a photo of the collection to be served."""
        image = state.photo(number)
        return within(image.path, Path(image.root), width=image.width, height=image.height)

    async def draw(self, gone: Callable[[], Awaitable[bool]], work: Callable[[], Result]) -> Result:
        """Have a photo decoded."""
        return await self.drawing.run(gone, work)

    def facts(self, state: State) -> dict[str, Any]:
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


async def _here() -> bool:
    return False
