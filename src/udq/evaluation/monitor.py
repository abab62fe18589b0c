"""Accuracy after every round of training, if a ground truth is given: for the training curves only."""

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
    """mAP of a benchmark over the training photos, which are all photos of a small collection (``fitting.Measure``)."""

    def __init__(
        self,
        truth: GroundTruth,
        config: IndexConfig,
        sources: Sequence[Source],
        spool: FeatureCache,
        extractor: Extractor,
    ) -> None:
        """Encode the queries at once, so that one that cannot be read fails before hours of training.

        Args:
            truth: queries and answers about ``sources``.
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
        self._described = self._describe(extractor)

    def __call__(self, head: Head, convolutions: Arrays) -> float | None:
        """Return the mAP of a head and trained convolutions."""
        config, spool, described = self._config, self._spool, self._described
        if convolutions:
            extractor = Extractor(
                config.images,
                config.features,
                weights=self._extractor.weights,
                rpn=self._extractor.rpn,
                device=self._extractor.device.type,
            )
            extractor.load(convolutions)
            folder = self._spool.folder.with_name("photos-watched")
            spool, described = FeatureCache(folder, self._spool.sources, extractor.extract), self._describe(extractor)
            shutil.rmtree(spool.folder, ignore_errors=True)
        features = draw(spool.fill(), len(spool.sources), config.sample).features
        fitted = model.fit(features, head, config.quantizer, seed=config.sample.seed)
        return mean_average_precision(fitted, self._queries, described, spool.drain(skip=0))

    def _describe(self, extractor: Extractor) -> list[NDArray[np.float32]]:
        return [extractor.describe(self._paths[query.image], query.box)[1] for query in self._queries]


def mean_average_precision(
    fitted: Model,
    queries: Sequence[Query],
    described: Sequence[NDArray[np.float32]],
    photos: Iterable[ExtractedPhoto],
) -> float | None:
    """Encode photos, rank them by each query, and return the mAP; a query's own photo is left out of its ranking.

    Positives that are not among the photos, which may be a sample of the collection, do not count; None is returned
    where no query has one left.

    Args:
        fitted: what encodes.
        queries: with their answers.
        described: the pooled feature (D,) of each.
        photos: with theirs.
    """
    whole = [(photo.source.name, fitted.encode(photo.features).values) for photo in photos if photo.broken is None]
    names = [name for name, _ in whole]
    held = set(names)
    codes = np.concatenate([values for _, values in whole])
    offsets = np.cumsum([0] + [len(values) for _, values in whole]).astype(np.int64)
    found = []
    for query, feature in zip(queries, described, strict=True):
        positives = (query.positives - {query.image}) & held
        if not positives:
            continue
        order = exhaustive.rank(exhaustive.best_regions(fitted.lookup_tables(feature), codes, offsets))
        ranked = [names[i] for i in order if names[i] != query.image]
        found.append(metrics.average_precision(ranked, positives, query.junk))
    return float(np.mean(found)) if found else None
