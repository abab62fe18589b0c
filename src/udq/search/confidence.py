"""Confidence of matches, from the distances of a query and a null model learned from the codes, without labels.

Most photos of a collection do not show the object of a query, so the bulk of its distances is the distribution under
chance. With D the distance of a photo (the root of eq. 5) and D_med its median over the photos, the expected number of
photos that come as near by chance is

    E(D) = N / 2 exp(-rate (D_med - D)),

an E-value as in BLAST (Karlin and Altschul, *Methods for assessing the statistical significance of molecular sequence
features*, 1990). D_med is computed for each query, because objects differ in how common they look. ``rate`` is computed
for the collection: it varies less between queries than the error of an estimate from a single query. Of the first j
photos, E(D_j) are expected to be there by chance, so the confidence of the match at rank i is

    max over j >= i of 1 - E(D_j) / j,

one minus the q-value of Storey (*A direct approach to false discovery rates*, 2002). A threshold of 1 - alpha on it is
the procedure of Benjamini and Hochberg (*Controlling the false discovery rate*, 1995): as far as E is right, it reports
a match for an absent object with a probability of at most alpha; and if many photos show the object, each of them needs
less evidence. E grows with the size of the collection, so a single match must be nearer in a larger collection.

The rate of a collection is estimated with regions of its own photos as queries. Most of these have true matches, which
can only widen the bulk of the distances and lower the rate. It is therefore estimated where true matches are fewest:
from the lower side of the bulk, at the quarter of the queries for which it is narrowest, and from its upper side; the
larger rate counts. Photos of similar objects make real tails heavier than the bulk suggests, by the factors ``LOWER``
and ``UPPER``. benchmarks/decisions/absent.py measures the resulting error rates.

Copies of one photo are no further evidence and no further chance, but they would be the bulk: N, the sample and the
distances contain one photo of each content (``udq.search.copies``).

If most photos of a collection show the object, their distances are the bulk, and no match is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError
from udq.quantization.quantizer import Quantizer
from udq.search import copies
from udq.search.distance import root
from udq.search.scan import exhaustive
from udq.search.scan.exhaustive import Part
from udq.store.segments import StoredPhoto
from udq.types import Codes, Features

THRESHOLD = 0.95
"""Confidence from which a match counts as found by default; if no match reaches it, the object was not found."""

DEPTH = 100
"""Number of nearest photos that ``confidence`` needs, however few are reported: each affects those before it."""

PHOTOS = 1024
"""Size of the sample of photos whose distances give the median of a query: large enough for a median, fast to scan."""

QUERIES = 256
"""Number of regions that serve as queries when the rate of a collection is estimated."""

LOWER, UPPER = 0.55, 0.485
"""Ratios of the rate of E to the rates that the lower and the upper side of the bulk suggest.

Tuned on the collections of results/benchmark_absent.json and parts of them, with a safety margin.
"""

# Cells of a query's box with inliers from which on a verified photo counts as found, if it is one of few and if it is
# one of a crowd; what is between few and a crowd; and how many more cells divide the share of false matches by e.
_SURE_CELLS, _CROWDED_CELLS = 7, 18
_FEW, _CROWD = 20, 40
_FALLING = 3
# Largest rate: if all photos are alike, the bulk has no width and the rate would be infinite.
_MOST = 30.0
# Quantiles of few photos may be too close to each other by chance, so the rate of a small sample is shrunk: by half at
# this number of photos.
_HALF_WEIGHT = 10


@dataclass(frozen=True)
class Calibration:
    """The null model of a collection: how many photos come near a query by chance.

    Attributes:
        photos: N, the number of photos that can be found, each content counted once.
        rate: exponential rate of E in the distance (not squared), > 0.
        sample: codes of photos, evenly spread over the collection and one of each content, whose distances to a query
            give its median.
    """

    photos: int
    rate: float
    sample: Part

    @staticmethod
    def learn(
        photos: int, read: Callable[[Sequence[int]], Sequence[StoredPhoto]], quantizer: Quantizer, *, ranked: bool
    ) -> Calibration:
        """Learn from the codes of a collection; deterministic.

        Args:
            photos: N, of the collection.
            read: returns the codes and boxes of the photos at some places, 0..N - 1.
            quantizer: of the model of the collection.
            ranked: as in ``Database``.
        """
        drawn = read(_spread(photos, PHOTOS).tolist())
        sampled = copies.distinct(drawn, quantizer if ranked else None)
        photos = round(photos * len(sampled) / max(len(drawn), 1))
        dtype = np.uint8 if quantizer.codewords <= 256 else np.uint16
        codes = [photo.codes for photo in sampled]
        offsets = np.cumsum([0, *map(len, codes)], dtype=np.int64)
        sample = Part(np.concatenate([np.empty((0, quantizer.subspaces), dtype), *codes]), offsets)
        queries = _spread(len(sampled), QUERIES)
        regions = [offsets[i] + _object_like(sampled[i].boxes) for i in queries.tolist()]
        return Calibration(photos, _rate(sample, queries, regions, quantizer), sample)

    def expected(self, lookup: NDArray[np.float32], distance: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return E, the number of photos expected to come as near by chance: (n,) float64, >= 0.

        Args:
            lookup: (M, K) float32, tables of the query.
            distance: (n,) float32, squared distances of eq. 5, in any order.
        """
        if not self.photos:
            return np.zeros(len(distance))
        nearer = root(distance.astype(np.float64)) - np.median(_distances(lookup, self.sample))
        with np.errstate(over="ignore"):  # inf is correct for a photo without regions
            expected: NDArray[np.float64] = self.photos / 2 * np.exp(self.rate * nearer)
        return expected

    def confidence(self, lookup: NDArray[np.float32], distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the expected share of true matches among the photos that are at least as near as each.

        Only the nearest photos are needed: those after the first ``DEPTH`` do not change the confidence of these. With
        fewer, of a larger collection, confidences can only be lower. Leave out the photo that the query was cut from:
        it always matches, and would raise the confidence of the photos after it. Of copies, only the nearest counts.

        Args:
            lookup: (M, K) float32, tables of the query.
            distance: (n,) float32, squared distances of eq. 5 of the n nearest photos, nearest first.

        Returns:
            (n,) float32, 0..1, non-increasing; matches of at least ``THRESHOLD`` count as found.

        Raises:
            InputError: the distances are not in order.
        """
        if distance.ndim != 1 or not (distance[1:] >= distance[:-1]).all() or np.isnan(distance).any():
            raise InputError("distance: expected non-decreasing distances, nearest first; sort them")
        share = 1 - self.expected(lookup, distance) / np.arange(1, len(distance) + 1)
        share[:DEPTH] = np.maximum.accumulate(share[:DEPTH][::-1])[::-1]
        return np.clip(np.minimum.accumulate(share), 0, 1).astype(np.float32)


def of_verification(coverage: float, *, crowd: int = 0) -> float:
    """Return the confidence in a photo of which local features agree on the place of the object, 0..1.

    The share of false matches falls with the part of the query's box that has inliers, and the more photos have many
    inliers, the larger that part has to be: sister products, or one print in many places, share much of what they show.
    Fitted to ``packages_dev``, and checked on the other sets (benchmarks/decisions/pipeline.py).

    Args:
        coverage: that part, 0..1, in cells of 1/36.
        crowd: as in ``ranking.Verified``.
    """
    cells = _SURE_CELLS + crowdedness(crowd) * (_CROWDED_CELLS - _SURE_CELLS)
    return max(0.0, 1 - (1 - THRESHOLD) * math.exp((cells - 36 * coverage) / _FALLING))


def crowdedness(crowd: int) -> float:
    """Return how much a number of photos with many inliers is a crowd: 0 up to 20 photos, 1 from 40 on."""
    return min(max((crowd - _FEW) / (_CROWD - _FEW), 0.0), 1.0)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Return at most ``wanted`` of ``count`` places, evenly spread: photos of one time or folder are adjacent."""
    size = min(count, wanted)
    return np.arange(size, dtype=np.int64) * count // max(size, 1)


def _object_like(boxes: NDArray[Any]) -> int:
    """Return the row of a region that a user might draw: larger than 90 % of the regions of its photo."""
    x1, y1, x2, y2 = boxes.astype(np.int64).T
    return int(np.argsort((x1 - x2) * (y2 - y1), kind="stable")[len(boxes) // 10])


def _rate(sample: Part, photos: NDArray[np.int64], regions: Sequence[int], quantizer: Quantizer) -> float:
    """Return the rate of a collection, with one region each of some photos of a sample as queries for the others.

    Args:
        sample: codes of photos.
        photos: photos in the sample that the queries come from.
        regions: the row of the query region of each.
        quantizer: of the codes.
    """
    if len(sample) < 2:
        return _MOST / (1 + _HALF_WEIGHT)
    codes = Codes(sample.codes[np.array(regions)], quantizer.codewords)
    # A codeword is a mean of features and shorter than they are; a query has unit length.
    queries = Features(quantizer.decode(codes).vectors @ quantizer.rotation.T).unit()
    lower, upper = [], []
    for photo, query in zip(photos.tolist(), queries.vectors, strict=True):
        others = np.delete(_distances(quantizer.lookup_tables(query), sample), photo)
        tenth, median, nine_tenths = np.quantile(others, [0.1, 0.5, 0.9])
        lower.append(median - tenth)
        upper.append(nine_tenths - median)
    width = min(float(np.quantile(lower, 0.25)) / LOWER, float(np.median(upper)) / UPPER)
    # An exponential falls to a fifth between the median and the tenth percentile.
    steepest = min(np.log(5) / max(width, 1e-9), _MOST)
    return float(steepest * len(sample) / (len(sample) + _HALF_WEIGHT))


def _distances(lookup: NDArray[np.float32], sample: Part) -> NDArray[np.float64]:
    """Return the distance (N,) of each photo of a sample, not squared."""
    squared = exhaustive.best_regions(lookup, sample.codes, sample.offsets, threads=1).distance
    return root(squared.astype(np.float64))
