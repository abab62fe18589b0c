"""Workers on a Ray cluster who look at photos and encode them (``udq.indexing.workers.Workers``).

Ray Data gives each worker some photos at a time and keeps their order; what a lost worker or node had in hand, others
do. What comes back of a photo are its codes and boxes, some 3 kB, and one process writes them: so each photo is in the
collection once, whoever looked at it and however often.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from udq.config import IndexConfig
from udq.distributed import cluster
from udq.errors import UdqError
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.indexing.encode import Seen
from udq.indexing.workers import LocalWorkers
from udq.photos.sandbox import Decoder
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.types import Arrays

# Photos that go to a worker together: a second of work, which is what a lost worker costs.
_PHOTOS = 16


@dataclass(frozen=True)
class ExtractorSpec:
    """How photos are looked at, everywhere the same.

    Attributes:
        config: settings.
        weights, rpn: the user's own files, which every machine must have in the same place.
        device: where the network runs.
        facts: of the engine, which must be the same everywhere: other arithmetic gives other codes.
        convolutions: where they were trained.
    """

    config: IndexConfig
    weights: Path | None
    rpn: Path | None
    device: str
    facts: tuple[str, ...]
    convolutions: Arrays

    def extractor(self) -> Extractor:
        """Return an extractor that sees so."""
        found = Extractor(
            self.config.images, self.config.features, weights=self.weights, rpn=self.rpn, device=self.device
        ).proposing()
        if (facts := tuple(found.engine.facts())) != self.facts:
            raise UdqError(
                f"a worker computes by {', '.join(facts)} and this process by {', '.join(self.facts)}: codes would "
                "differ; use machines of one kind, or set UDQ_NETWORK=torch for all"
            )
        found.load(self.convolutions)
        return found


class _Worker:
    """A process of the cluster."""

    def __init__(self, sight: ExtractorSpec, fitted: Model | None) -> None:
        self._sight = sight
        self._fitted = fitted
        self._here: LocalWorkers | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Not before: Ray would start a worker that cannot be built over and over again.
        if self._here is None:
            self._here = LocalWorkers(self._sight.extractor(), Decoder())
        photos = batch["photo"].tolist()
        sources = (source for _, source in photos)
        seen = self._here.extract(sources) if self._fitted is None else self._here.encode(photos, self._fitted)
        return {"seen": _column(list(seen))}


class RayWorkers:
    """Workers on the cluster that this process is connected to, one a processor."""

    def __init__(self, extractor: Extractor, config: IndexConfig) -> None:
        """Have photos looked at as an extractor of this process does.

        Args:
            extractor: the example.
            config: what it was built with.
        """
        weights, rpn = (file and file.absolute() for file in (extractor.weights, extractor.rpn))
        self._sight = ExtractorSpec(config, weights, rpn, extractor.device.type, tuple(extractor.engine.facts()), {})

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason."""
        return self._shared(((0, source) for source in sources), None)

    def encode(self, photos: Iterable[tuple[int, Source]], fitted: Model) -> Iterator[Seen]:
        """Yield what a collection keeps of each photo, in order; photos come with their ids."""
        return self._shared(photos, fitted)

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions; none leave the network as it is."""
        if convolutions:
            self._sight = replace(self._sight, convolutions=convolutions)

    def _shared(self, photos: Iterable[tuple[int, Source]], fitted: Model | None) -> Iterator[Any]:
        items = [(number, _anywhere(source)) for number, source in photos]
        if not items:
            return
        data, failed = _ray_data(), cluster.ray().exceptions.RayError
        blocks = -(-len(items) // _PHOTOS)
        rows = data.from_items([{"photo": item} for item in items], override_num_blocks=blocks)
        looked_at = rows.map_batches(
            _Worker,
            fn_constructor_args=(self._sight, fitted),
            batch_size=_PHOTOS,
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(cluster.processors(), blocks)),
            num_cpus=1,
            num_gpus=1 if self._sight.device == "cuda" else 0,
        )
        try:
            for row in looked_at.iter_rows():
                yield row["seen"]
        except failed as error:
            raise cluster.reason(error, cluster.GO_ON) from error


@contextmanager
def ray_workers(address: str, extractor: Extractor, config: IndexConfig) -> Iterator[RayWorkers]:
    """Return the workers of a cluster (``indexing.build.WorkerFactory``); its address is as in ``cluster.connected``."""
    with cluster.connected(address):
        yield RayWorkers(extractor, config)


def _ray_data() -> Any:
    cluster.ray()
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # else what a worker says is lost on the way
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


def _anywhere(source: Source) -> Source:
    """Return a source whose path holds wherever a process was started."""
    return Source(source.name, source.path.absolute()) if type(source) is Source else source


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    """Return objects as a column of one dimension, whatever they are."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
