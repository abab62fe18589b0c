"""Workers on a Ray cluster that extract and encode photos (``udq.indexing.workers.Workers``).

Ray Data sends each worker a few photos at a time and keeps their order; photos of a lost worker or node are sent to
another. Only codes and boxes come back, about 3 kB per photo, and one process writes them: each photo is in the
collection once, even if it was encoded twice.
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
from udq.indexing.workers import LocalWorkers
from udq.photos.sandbox import Decoder
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.store.manifest import UnreadablePhoto
from udq.store.segments import StoredPhoto
from udq.types import Arrays

# Photos that are sent to a worker together: about a second of work, the most that a lost worker costs.
_PHOTOS = 16


@dataclass(frozen=True)
class ExtractorSpec:
    """How to build the same extractor on every machine.

    Attributes:
        config: settings.
        weights, rpn: the user's own files, which every machine must have at the same path.
        device: where the network runs.
        facts: facts of the engine, which must be equal on all machines: other arithmetic gives other codes.
        convolutions: trained convolutions, by name; empty if they were not trained.
    """

    config: IndexConfig
    weights: Path | None
    rpn: Path | None
    device: str
    facts: tuple[str, ...]
    convolutions: Arrays

    def extractor(self) -> Extractor:
        """Build the extractor; raises UdqError if this machine computes in another way than the first one."""
        extractor = Extractor(
            self.config.images,
            self.config.features,
            self.config.keypoints,
            weights=self.weights,
            rpn=self.rpn,
            device=self.device,
        ).proposing()
        if (facts := tuple(extractor.engine.facts())) != self.facts:
            raise UdqError(
                f"a worker computes by {', '.join(facts)} and this process by {', '.join(self.facts)}: codes would "
                "differ; use machines of one kind, or set UDQ_NETWORK=torch for all"
            )
        extractor.load(self.convolutions)
        return extractor


class _Worker:
    """A process of the cluster."""

    def __init__(self, spec: ExtractorSpec, model: Model | None) -> None:
        self._spec = spec
        self._model = model
        self._local: LocalWorkers | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Not in __init__: if that failed, Ray would restart the worker again and again.
        if self._local is None:
            self._local = LocalWorkers(self._spec.extractor(), Decoder())
        photos = batch["photo"].tolist()
        if self._model is None:
            return {"result": _column(list(self._local.extract(source for _, source in photos)))}
        return {"result": _column(list(self._local.encode(photos, self._model)))}


class RayWorkers:
    """Workers of the cluster that this process is connected to, one per processor."""

    def __init__(self, extractor: Extractor, config: IndexConfig) -> None:
        """Make workers that extract photos as an extractor of this process does.

        Args:
            extractor: the extractor to reproduce.
            config: the settings it was built with.
        """
        weights, rpn = (file and file.absolute() for file in (extractor.weights, extractor.rpn))
        self._spec = ExtractorSpec(config, weights, rpn, extractor.device.type, tuple(extractor.engine.facts()), {})

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, as in ``Workers.extract``."""
        return self._map(((0, source) for source in sources), None)

    def encode(self, photos: Iterable[tuple[int, Source]], model: Model) -> Iterator[StoredPhoto | UnreadablePhoto]:
        """Yield what a collection stores of each photo, as in ``Workers.encode``."""
        return self._map(photos, model)

    def load(self, convolutions: Arrays) -> None:
        """Replace the convolutions by trained ones, as in ``Workers.load``."""
        if convolutions:
            self._spec = replace(self._spec, convolutions=convolutions)

    def _map(self, photos: Iterable[tuple[int, Source]], model: Model | None) -> Iterator[Any]:
        """Yield the result of each photo, in order: extracted, or encoded if there is a model."""
        items = [(number, _absolute(source)) for number, source in photos]
        if not items:
            return
        data, ray_error = _ray_data(), cluster.ray().exceptions.RayError
        blocks = -(-len(items) // _PHOTOS)
        rows = data.from_items([{"photo": item} for item in items], override_num_blocks=blocks)
        results = rows.map_batches(
            _Worker,
            fn_constructor_args=(self._spec, model),
            batch_size=_PHOTOS,
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(cluster.processors(), blocks)),
            num_cpus=1,
            num_gpus=1 if self._spec.device == "cuda" else 0,
        )
        try:
            for row in results.iter_rows():
                yield row["result"]
        except ray_error as error:
            raise cluster.reason(error, cluster.RESUME) from error


@contextmanager
def ray_workers(address: str, extractor: Extractor, config: IndexConfig) -> Iterator[RayWorkers]:
    """Yield the workers of a cluster (``indexing.build.WorkerFactory``); ``address`` is that of ``cluster.connect``."""
    with cluster.connected(address):
        yield RayWorkers(extractor, config)


def _ray_data() -> Any:
    cluster.ray()
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # otherwise the message of a worker's error is lost
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


def _absolute(source: Source) -> Source:
    """Return a source with an absolute path: workers have another working directory."""
    return Source(source.name, source.path.absolute()) if type(source) is Source else source


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    """Return objects as a one-dimensional array, even if they are sequences."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
