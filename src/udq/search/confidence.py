"""A query's distances -> how sure its matches are, learned from the codes of a collection without labels.

Most photos of a collection do not show what a query asks for, so the bulk of its distances says what chance looks like.
With D the distance of a photo (the root of eq. 5) and D_med its median over the photos, the expected number of photos
that come as near by chance is

    E(D) = N / 2 exp(-rate (D_med - D)),

an E-value as of BLAST (Karlin and Altschul, *Methods for assessing the statistical significance of molecular sequence
features*, 1990). D_med is the query's own, as what is searched for may be an everyday thing or none. ``rate`` is the
collection's: queries differ less in it than in what one query tells of it. Of the first j photos, E(D_j) are expected
to be there by chance, so that the confidence of the match at rank i is

    max over j >= i of 1 - E(D_j) / j,

one less the q-value of Storey (*A direct approach to false discovery rates*, 2002). A threshold of 1 - alpha on that is
the procedure of Benjamini and Hochberg (*Controlling the false discovery rate*, 1995): as far as E is right, it finds
something where nothing is with a probability of at most alpha; and where many photos show the object, it asks less of
each. E grows with the collection, so that one photo alone must be the nearer, the more photos there are.

The collection's rate comes from regions of its own photos taken as queries. Most of these have true matches, which can
only make the bulk of distances wider and the rate smaller. So it is taken where there are fewest: from the lower side
of the bulk for the cleaner queries, and from its upper side; the larger counts. Things that look alike make real tails
heavier than the bulk, by the factors ``LOWER`` and ``UPPER``: benchmarks/decisions/absent.py measures what comes of all this.

Where most photos show what is searched for, their distances are the bulk, and nothing is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError
from udq.quantization.quantizer import Quantizer
from udq.search.scan import exhaustive
from udq.search.scan.exhaustive import Part
from udq.store.segments import StoredPhoto
from udq.types import Codes, Features

THRESHOLD = 0.95
"""Matches of at least this confidence are found, by default; where there is none, the answer is that nothing was."""

DEPTH = 100
"""How many of the nearest photos ``confidence`` wants, however few are reported: each speaks for those nearer."""

PHOTOS = 1024
"""Photos whose distances stand for those of all: enough for a median, and scanned in a moment."""

QUERIES = 256
"""Regions taken as queries, once for a collection."""

LOWER, UPPER = 0.65, 0.57
"""By how much E falls slower with the distance than the lower and the upper side of the bulk say.

Set on the collections of results/benchmark_absent.json and parts of them, on the cautious side.
"""

# Photos that are all alike have no bulk, and a rate without bounds.
_MOST = 30.0
# Quantiles of few photos may be too near to each other by chance: the rate is halved at so many.
_UNSURE = 10


@dataclass(frozen=True)
class Calibration:
    """What chance looks like in a collection.

    Attributes:
        photos: N, photos that can be found.
        rate: how fast E falls with the distance (not squared), > 0.
        sample: codes of the photos, evenly spread over the collection, whose distances to a query give its median.
    """

    photos: int
    rate: float
    sample: Part

    @staticmethod
    def of(photos: int, kept: Callable[[Sequence[int]], Sequence[StoredPhoto]], quantizer: Quantizer) -> Calibration:
        """Learn from the codes of a collection; the same codes give the same answer.

        Args:
            photos: N, of the collection.
            kept: takes places of photos, 0..N - 1, to what is kept of them.
            quantizer: of the collection's model.
        """
        taken = kept(_spread(photos, PHOTOS).tolist())
        dtype = np.uint8 if quantizer.codewords <= 256 else np.uint16
        codes = [photo.codes for photo in taken]
        offsets = np.cumsum([0, *map(len, codes)], dtype=np.int64)
        sample = Part(np.concatenate([np.empty((0, quantizer.subspaces), dtype), *codes]), offsets)
        asking = _spread(len(taken), QUERIES)
        regions = [offsets[i] + _object_like(taken[i].boxes) for i in asking.tolist()]
        return Calibration(photos, _rate(sample, asking, regions, quantizer), sample)

    def expected(self, lookup: NDArray[np.float32], distance: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return E, how many photos of the collection are expected to come as near by chance: (n,) float64, >= 0.

        Args:
            lookup: (M, K) float32, tables of the query.
            distance: (n,) float32, squared distances of eq. 5, in any order.
        """
        if not self.photos:
            return np.zeros(len(distance))
        median = float(np.median(_distances(lookup, self.sample)))
        with np.errstate(over="ignore"):  # of a photo without regions, inf is what it should be
            found: NDArray[np.float64] = self.photos / 2 * np.exp(self.rate * (_root(distance) - median))
        return found

    def confidence(self, lookup: NDArray[np.float32], distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the expected share of true matches among the photos that score at least as high as each.

        Only the nearest photos need be known: what comes after the first ``DEPTH`` changes no answer before it. Fewer
        than these where the collection has more can only lower it. Leave out the photo that the query was cut from:
        it is found whatever the collection holds, and would speak for those after it.

        Args:
            lookup: (M, K) float32, tables of the query.
            distance: (n,) float32, squared distances of eq. 5 of the n nearest photos, nearest first.

        Returns:
            (n,) float32, 0..1, never rising; at least ``THRESHOLD`` for what counts as found.

        Raises:
            InputError: distances are not in order.
        """
        if distance.ndim != 1 or not (distance[1:] >= distance[:-1]).all() or np.isnan(distance).any():
            raise InputError("distance: expected those of the nearest photos, nearest first")
        share = 1 - self.expected(lookup, distance) / np.arange(1, len(distance) + 1)
        share[:DEPTH] = np.maximum.accumulate(share[:DEPTH][::-1])[::-1]
        return np.clip(np.minimum.accumulate(share), 0, 1).astype(np.float32)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Return places of so many, or of all, of a count, evenly spread: photos of one time or folder lie together."""
    kept = min(count, wanted)
    return np.arange(kept, dtype=np.int64) * count // max(kept, 1)


def _object_like(boxes: NDArray[Any]) -> int:
    """Return the row of a region of a photo that somebody might draw: large beside the others, but not all of it."""
    x1, y1, x2, y2 = boxes.astype(np.int64).T
    return int(np.argsort((x1 - x2) * (y2 - y1), kind="stable")[len(boxes) // 10])


def _rate(sample: Part, asking: NDArray[np.int64], regions: Sequence[int], quantizer: Quantizer) -> float:
    """Return the rate of a collection, by regions of photos of a sample that ask for the others."""
    if len(sample) < 2:
        return _MOST / (1 + _UNSURE)
    codes = Codes(sample.codes[np.array(regions)], quantizer.codewords)
    # A mean of features is shorter than they are; a query is not.
    queries = Features(quantizer.decode(codes).vectors @ quantizer.rotation.T).unit()
    lower, upper = [], []
    for photo, query in zip(asking.tolist(), queries.vectors, strict=True):
        others = np.delete(_distances(quantizer.lookup_tables(query), sample), photo)
        tenth, median, nine_tenths = np.quantile(others, [0.1, 0.5, 0.9])
        lower.append(median - tenth)
        upper.append(nine_tenths - median)
    width = min(float(np.quantile(lower, 0.25)) / LOWER, float(np.median(upper)) / UPPER)
    # An exponential falls to a fifth between the half and the tenth.
    steepest = min(np.log(5) / max(width, 1e-9), _MOST)
    return float(steepest * len(sample) / (len(sample) + _UNSURE))


def _distances(lookup: NDArray[np.float32], sample: Part) -> NDArray[np.float64]:
    """Return the distance (N,) of each photo of a sample."""
    return _root(exhaustive.best_regions(lookup, sample.codes, sample.offsets, threads=1).distance)


def _root(squared: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.sqrt(np.maximum(squared, 0), dtype=np.float64)
