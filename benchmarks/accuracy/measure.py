"""A development set and a configuration -> figures, with features of photos and queries kept between runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accuracy.sets import DevelopmentSet
from udq.collection import Collection
from udq.common.progress import Progress
from udq.config import IndexConfig
from udq.evaluation import benchmark, scoring
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.features.feature_store import FeatureStore
from udq.indexing import build
from udq.indexing.workers import LocalWorkers
from udq.photos.source import Source
from udq.types import Arrays, Box, Features


@dataclass(frozen=True)
class Setup:
    """What is measured on every set.

    Attributes:
        config: settings of the collection.
        stages: names of ``udq.search.rerank.STAGES``.
        weights, rpn: files instead of the usual weights of backbone and region proposal network.
        device: where the network runs.
        features: the folder of the feature cache.
    """

    config: IndexConfig
    stages: Sequence[str]
    weights: Path | None
    rpn: Path | None
    device: str
    features: Path


@dataclass(frozen=True)
class Run:
    """One set, built and evaluated with one seed.

    Attributes:
        figures: of ``table.METRICS``; None if the set does not have it.
        by_size: the same by the size of the object, as in the report of ``udq evaluate``; None without true boxes.
        photos, regions, queries: how many were measured.
        extracted: photos and queries whose features were not stored yet.
        seconds: of everything.
    """

    figures: dict[str, float | None]
    by_size: dict[str, Any] | None
    photos: int
    regions: int
    queries: int
    extracted: int
    seconds: float


class CachedWorkers(LocalWorkers):
    """Workers in this process that read stored features; without the store after the convolutions were trained."""

    def __init__(self, extractor: Extractor, cache: FeatureStore) -> None:
        """Read features from a store that the extractor fills."""
        super().__init__(extractor)
        self._cache: FeatureStore | None = cache

    def extract(self, sources: Iterable[Source]) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order."""
        return super().extract(sources) if self._cache is None else self._cache.extract(sources)

    def load(self, convolutions: Arrays) -> None:
        """Load trained convolutions; their features are of no use to other runs, and are not stored."""
        super().load(convolutions)
        if convolutions:
            self._cache = None

    def describe(self, path: Path, box: Box | None) -> NDArray[np.float32]:
        """Return the feature (D,) of a query."""
        return self._extractor.describe(path, box)[1] if self._cache is None else self._cache.describe(path, box)


def measure(found: DevelopmentSet, setup: Setup, *, seed: int, progress: Progress) -> Run:
    """Build a collection as ``udq index`` does, and evaluate it as ``udq evaluate`` does."""
    started = time.perf_counter()
    config = setup.config.replace({"sample": {"seed": seed}})
    made: list[tuple[CachedWorkers, FeatureStore]] = []

    def make_workers(extractor: Extractor, config: IndexConfig) -> AbstractContextManager[CachedWorkers]:
        cache = FeatureStore(setup.features, extractor, config)
        made.append((CachedWorkers(extractor, cache), cache))
        return nullcontext(made[0][0])

    with TemporaryDirectory(prefix="udq-accuracy-") as scratch:
        path = Path(scratch, "collection.udq")
        files = {"weights": setup.weights, "rpn": setup.rpn}
        build.build(
            found.sources, path, config=config, **files, device=setup.device, workers=make_workers, progress=progress
        )
        workers, cache = made[0]
        collection = Collection.open(path, device=setup.device)
        summary = _evaluate(collection, found, workers, setup.stages, progress)
        top = summary["localisation"][f"top_{scoring.TOP}"]
        return Run(
            {"mAP": summary["mAP"], "mP@1": summary["mP@1"], "mP@5": summary["mP@5"], "mean IoU": top["mean_iou"]},
            summary["by_size"],
            photos=len(collection),
            regions=collection.regions,
            queries=len(found.truth.queries),
            extracted=cache.extracted,
            seconds=round(time.perf_counter() - started, 1),
        )


def _evaluate(
    collection: Collection, found: DevelopmentSet, workers: CachedWorkers, stages: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Return ``scoring.summary`` of the set."""
    photos = {image.name: image.path for image in collection.images}
    broken = {entry["image"] for entry in collection.broken}
    queries = benchmark.protocol_queries(found.truth, photos, broken, queries=found.queries)
    features = []
    with progress("queries", len(queries.boxes)) as step:
        for query, box in zip(queries.truth.queries, queries.boxes, strict=True):
            features.append(workers.describe(queries.paths[query.image], box))
            step()
    database = collection.database
    vectors = database.model.head.apply(Features(np.stack(features))).vectors
    return scoring.summary(benchmark.score(database, queries, benchmark.rankings(database, queries, vectors, stages)))
