"""A development set and a configuration -> figures, with features of photos and queries kept between runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import udq
from accuracy import table
from accuracy.sets import DevelopmentSet
from udq.collection import Collection
from udq.common.progress import Progress
from udq.common.provenance import versions
from udq.config import IndexConfig
from udq.evaluation import benchmark, scoring
from udq.evaluation.benchmark import ProtocolQueries
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.features.feature_store import FeatureStore
from udq.indexing import build
from udq.indexing.workers import LocalWorkers
from udq.photos.source import Source
from udq.search import rerank
from udq.types import Arrays, Box, Features

_ROOT = Path(udq.__file__).parent
# Packages whose code decides what a collection holds.
_BUILDING = "photos", "keypoints", "features", "quantization", "training", "store", "indexing"


@dataclass(frozen=True)
class Setup:
    """What is measured on every set.

    Attributes:
        config: settings of the collection.
        stages: names of ``udq.search.rerank.STAGES``, of the ranking beside that by codes alone; None for the default.
        weights, rpn: files instead of the usual weights of backbone and region proposal network.
        device: where the network runs.
        features: the folder of the feature cache.
    """

    config: IndexConfig
    stages: Sequence[str] | None
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
        precision: number format of the convolutions, as in the report of ``udq evaluate``.
        extracted: photos and queries whose features were not stored yet.
        seconds: of everything.
        estimate: what training brought, by the collection itself (``udq.training.verified_pairs.Estimate``).
    """

    figures: dict[str, float | None]
    by_size: dict[str, Any] | None
    photos: int
    regions: int
    queries: int
    precision: str
    extracted: int
    seconds: float
    estimate: dict[str, Any] | None


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
    with TemporaryDirectory(prefix="udq-accuracy-") as scratch:
        collection, workers, cache = _built(found, setup, Path(scratch, "collection.udq"), seed, progress)
        queries = protocol_queries(found, collection)
        features = describe(workers, queries, progress)
        plain = summary_of(collection, queries, features)
        best = summary_of(collection, queries, features, rerank.resolve(setup.stages, collection.database))
        return Run(
            _figures(plain) | _figures(best, table.BEST),
            plain["by_size"],
            photos=len(collection),
            regions=collection.regions,
            queries=len(found.truth.queries),
            precision=collection.extractor.precision,
            extracted=cache.extracted,
            seconds=round(time.perf_counter() - started, 1),
            estimate=(collection.info()["training"] or {}).get("estimate"),
        )


def _figures(summary: dict[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Return the metrics of a summary, by their titles in the table."""
    iou = summary["localisation"][f"top_{scoring.TOP}"]["mean_iou"]
    return {prefix + name: iou if name == "mean IoU" else summary[name] for name in table.PLAIN}


def kept(
    found: DevelopmentSet, setup: Setup, folder: Path, *, seed: int, progress: Progress
) -> tuple[Collection, CachedWorkers]:
    """Open the collection of a set that an earlier call built in a folder; build it there if it is missing.

    It is found again as long as the photos, the settings, the code that builds collections and the versions of packages
    are the same. Not for end-to-end training, after which stored features of queries are wrong.
    """
    config = setup.config.replace({"sample": {"seed": seed}})
    photos = [(photo.root, photo.name, photo.state()) for photo in found.sources]
    code = [(file.name, file.read_text("utf-8")) for name in _BUILDING for file in sorted((_ROOT / name).rglob("*.py"))]
    facts = [found.name, photos, config.to_dict(), str(setup.weights), str(setup.rpn), setup.device, code, versions()]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    path = folder / f"{found.name}-{digest[:16]}.udq"
    if path.exists():
        collection = Collection.open(path, device=setup.device)
        store = FeatureStore(setup.features, collection.extractor, config)
        return collection, CachedWorkers(collection.extractor, store)
    folder.mkdir(parents=True, exist_ok=True)
    return _built(found, setup, path, seed, progress)[:2]


def protocol_queries(found: DevelopmentSet, collection: Collection) -> ProtocolQueries:
    """Return the queries of a set, resolved against its collection."""
    photos = {image.name: image.path for image in collection.images}
    broken = {entry["image"] for entry in collection.broken}
    return benchmark.protocol_queries(found.truth, photos, broken, queries=found.queries)


def describe(workers: CachedWorkers, queries: ProtocolQueries, progress: Progress) -> NDArray[np.float32]:
    """Return the pooled features (Q, D) of queries."""
    features = []
    with progress("queries", len(queries.boxes)) as step:
        for query, box in zip(queries.truth.queries, queries.boxes, strict=True):
            features.append(workers.describe(queries.paths[query.image], box))
            step()
    return np.stack(features)


def summary_of(
    collection: Collection, queries: ProtocolQueries, features: NDArray[np.float32], stages: Sequence[str] = ()
) -> dict[str, Any]:
    """Return ``scoring.summary`` of queries with these pooled features (Q, D)."""
    database = collection.database
    vectors = database.model.head.apply(Features(features)).vectors
    return scoring.summary(benchmark.score(database, queries, benchmark.rankings(database, queries, vectors, stages)))


def _built(
    found: DevelopmentSet, setup: Setup, path: Path, seed: int, progress: Progress
) -> tuple[Collection, CachedWorkers, FeatureStore]:
    """Build a collection; return it, and the workers and the store that it was built with."""
    made: list[tuple[CachedWorkers, FeatureStore]] = []

    def make_workers(extractor: Extractor, config: IndexConfig) -> AbstractContextManager[CachedWorkers]:
        cache = FeatureStore(setup.features, extractor, config)
        made.append((CachedWorkers(extractor, cache), cache))
        return nullcontext(made[0][0])

    config = setup.config.replace({"sample": {"seed": seed}})
    files = {"weights": setup.weights, "rpn": setup.rpn}
    build.build(
        found.sources, path, config=config, **files, device=setup.device, workers=make_workers, progress=progress
    )
    return Collection.open(path, device=setup.device), *made[0]
