"""Accuracy after every round of training, if a ground truth is given; plotted, without influence on the training."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from udq.config import IndexConfig
from udq.datasets import GroundTruth, Query
from udq.evaluation import metrics
from udq.features.cache import FeatureCache
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import Source
from udq.quantization import model
from udq.quantization.head import Head
from udq.quantization.model import Model
from udq.search.scan import exhaustive
from udq.training.sampling import draw
from udq.types import Arrays


class RoundMonitor:
    """Measures the mAP of a benchmark on the training photos, which are all photos of a small collection.

    It is the ``measure`` of the training (``fitting.Measure``).
    """

    def __init__(
        self,
        truth: GroundTruth,
        config: IndexConfig,
        sources: Sequence[Source],
        spool: FeatureCache,
        extractor: Extractor,
    ) -> None:
        """Extract the features of the queries, so that an unreadable one fails before hours of training.

        Args:
            truth: queries and answers, by the names of ``sources``.
            config: settings of the collection.
            sources: all photos of the collection.
            spool: regions and features of the training photos.
            extractor: the network before training.
        """
        self._queries = truth.queries
        self._paths = {source.name: source.path for source in sources}
        self._spool = spool
        self._extractor = extractor
        self._config = config
        self._query_features = self._extract_queries(extractor)

    def __call__(self, head: Head, convolutions: Arrays) -> float | None:
        """Return the mAP with a head and, if trained, convolutions; None as in ``mean_average_precision``."""
        config, spool, query_features = self._config, self._spool, self._query_features
        if convolutions:
            extractor = Extractor(
                config.images,
                config.features,
                weights=self._extractor.weights,
                rpn=self._extractor.rpn,
                device=self._extractor.device.type,
                threads=self._extractor.engine.threads,
            )
            extractor.load(convolutions)
            folder = self._spool.folder.with_name("photos-watched")
            spool = FeatureCache(folder, self._spool.sources, extractor.extract)
            query_features = self._extract_queries(extractor)
            shutil.rmtree(spool.folder, ignore_errors=True)
        features = draw(spool.fill(), len(spool.sources), config.sample).features
        threads = self._extractor.engine.threads
        fitted = model.fit(features, head, config.quantizer, seed=config.sample.seed, threads=threads)
        return mean_average_precision(fitted, self._queries, query_features, spool.drain(skip=0))

    def _extract_queries(self, extractor: Extractor) -> list[NDArray[np.float32]]:
        """Return the pooled feature (D,) of each query."""
        return [extractor.describe(self._paths[query.image], query.box)[1] for query in self._queries]


def mean_average_precision(
    fitted: Model,
    queries: Sequence[Query],
    query_features: Sequence[NDArray[np.float32]],
    photos: Iterable[ExtractedPhoto],
) -> float | None:
    """Encode photos, rank them by each query, and return the mAP; the photo of a query is left out of its ranking.

    Only positives among the photos count, which may be a sample of the collection.

    Args:
        fitted: encodes the photos and the queries.
        queries: with their answers.
        query_features: the pooled feature (D,) of each query.
        photos: with their features.

    Returns:
        0..1; None if no query has a positive among the photos.
    """
    encoded = [(photo.source.name, fitted.encode(photo.features).values) for photo in photos if photo.broken is None]
    names = [name for name, _ in encoded]
    readable = set(names)
    codes = np.concatenate([values for _, values in encoded])
    offsets = np.cumsum([0] + [len(values) for _, values in encoded]).astype(np.int64)
    precisions = []
    for query, feature in zip(queries, query_features, strict=True):
        positives = (query.positives - {query.image}) & readable
        if not positives:
            continue
        order = exhaustive.image_order(exhaustive.best_regions(fitted.lookup_tables(feature), codes, offsets))
        ranked = [names[i] for i in order if names[i] != query.image]
        precisions.append(metrics.average_precision(ranked, positives, query.junk))
    return float(np.mean(precisions)) if precisions else None
