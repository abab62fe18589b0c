"""Accuracy after every round of training, where a ground truth is given: for the curves, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from udq import metrics, scan
from udq.datasets import Query
from udq.extract import Extracted
from udq.model import Model


def mean_average_precision(
    fitted: Model,
    queries: Sequence[Query],
    described: Sequence[NDArray[np.float32]],
    photos: Iterable[Extracted],
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
        order = scan.rank(scan.best_regions(fitted.lookup_tables(feature), codes, offsets))
        ranked = [names[i] for i in order if names[i] != query.image]
        found.append(metrics.average_precision(ranked, positives, query.junk))
    return float(np.mean(found)) if found else None
