"""Matches of the local features of a query and a photo, before any geometry.

Descriptors are compared in whole steps, whose products are the same on every processor and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udq.keypoints.codebook import BYTES, Codebook, joined
from udq.keypoints.sift import LocalFeatures

try:
    from udq.keypoints import _match
except ImportError:  # built without a compiler
    _match = None  # type: ignore[assignment]

# Largest ratio of the distances of the nearest and the second nearest descriptor. Lowe's 0.8 is for matches that are
# trusted one by one; here they must also agree with each other, and at 0.9 more correct matches do.
RATIO = 0.9

EXTENT, STEPS = 0.4, 127
"""Largest component of a descriptor of unit length, either way, and its steps. Of the descriptors that were measured, 1
of 10,000 has a component above 0.37."""
# A product of 1, in steps.
_ONE = (STEPS / EXTENT) ** 2
# Less than any product, and the number of features from which a view has nearest and second nearest ones.
_NOTHING, _LEAST = -(2**30), 2
_NO_PAIRS: NDArray[np.int64] = np.empty((0, 2), np.int64)


class Neighbours(NamedTuple):
    """The nearest descriptors of a photo to each of n of a query, by products in steps.

    Attributes:
        nearest: (n,) int64, the row with the largest product; the first of equals.
        first: (n,) int32, that product.
        second: (n,) int32, the largest one of any other row.
        best: (P,) int32, the largest product of each row of the photo with any of the query.
    """

    nearest: NDArray[np.int64]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    best: NDArray[np.int32]


def kernels() -> tuple[str, ...]:
    """Return the kernels that this machine can run, fastest first; all give the same results."""
    return (*(_match.kernels() if _match else ()), "numpy")


_FASTEST = kernels()[0]


def neighbours(query: NDArray[np.float32], photo: NDArray[np.float32], *, kernel: str = _FASTEST) -> Neighbours:
    """Return the neighbours of the descriptors of a query (n, 128) among those of a photo (P, 128); n, P >= 1."""
    if kernel == "numpy":
        return _by_numpy(_whole(query), _whole(photo))
    found = _room(len(query), len(query), len(photo))
    _match.neighbours(kernel, _plain(query), _plain(photo), EXTENT, *found)
    return found


def stored_neighbours(
    query: NDArray[np.float32], photos: Sequence[NDArray[np.uint8]], *, kernel: str = _FASTEST
) -> list[Neighbours]:
    """Return the neighbours of the descriptors of a query among those of each of several photos.

    Args:
        query: (n, 128) float32, n >= 1, rotated (``Codebook.rotated``).
        photos: (P, 24) uint8 of each photo, P >= 1, as the codebook stores local features.
        kernel: one of ``kernels``.
    """
    codewords = Codebook.shipped().codes.codebooks
    if kernel == "numpy":
        whole = _whole(query)
        return [_by_numpy(whole, _whole(Codebook.shipped().descriptors(photo))) for photo in photos]
    n = len(query)
    starts = np.cumsum([0, *map(len, photos)])
    found = _room(len(photos) * n, len(photos) * n, int(starts[-1]))
    _match.stored_neighbours(kernel, _plain(query), _plain(codewords), joined(photos), BYTES, starts, EXTENT, *found)
    rows = [slice(i * n, (i + 1) * n) for i in range(len(photos))]
    return [
        Neighbours(found.nearest[each], found.first[each], found.second[each], found.best[start:end])
        for each, start, end in zip(rows, starts[:-1], starts[1:], strict=True)
    ]


def _room(nearest: int, products: int, best: int) -> Neighbours:
    """Return arrays of these lengths for the extension to write to."""
    first, second = np.empty(products, np.int32), np.empty(products, np.int32)
    return Neighbours(np.empty(nearest, np.int64), first, second, np.empty(best, np.int32))


def _plain(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors as the extension reads them; a copy only if they are not so already."""
    return np.require(vectors, np.float32, ["C", "A"])


def _whole(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return descriptors in steps. Sums of their products stay below 2^24, up to which float32 is exact."""
    per_unit = np.float32(STEPS) / np.float32(EXTENT)
    steps: NDArray[np.float32] = np.rint(descriptors * per_unit).clip(-STEPS, STEPS)
    return steps


def _by_numpy(query: NDArray[np.float32], photo: NDArray[np.float32]) -> Neighbours:
    alike = query @ photo.T
    rows = np.arange(len(query))
    nearest = alike.argmax(axis=1)
    first, best = alike[rows, nearest], alike.max(axis=0)
    alike[rows, nearest] = _NOTHING
    second = alike.max(axis=1)
    return Neighbours(nearest, first.astype(np.int32), second.astype(np.int32), best.astype(np.int32))


def match(query: LocalFeatures, photo: LocalFeatures) -> NDArray[np.int64]:
    """Return the mutual nearest neighbours that pass the ratio test, in the order of their ratios.

    Returns:
        (m, 2) int64: rows of ``query`` and of ``photo``; no feature occurs twice.
    """
    if len(query) < _LEAST or len(photo) < _LEAST:
        return _NO_PAIRS
    return _pairs(neighbours(query.descriptors, photo.descriptors))


def match_stored(query: LocalFeatures, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.int64]]:
    """Return what ``match`` returns for the features of a query and of each of several photos, from their codes.

    Args:
        query: with rotated descriptors (``Codebook.rotated``).
        photos: as in ``stored_neighbours``; without features, too.
    """
    enough = [row for row, photo in enumerate(photos) if len(photo) >= _LEAST] if len(query) >= _LEAST else []
    found = [_NO_PAIRS] * len(photos)
    if enough:
        each = stored_neighbours(query.descriptors, [photos[row] for row in enough])
        for row, near in zip(enough, each, strict=True):
            found[row] = _pairs(near)
    return found


def _pairs(near: Neighbours) -> NDArray[np.int64]:
    """Return the mutual nearest neighbours that pass the ratio test, as ``match``."""
    nearest, first, second, best = near
    mutual = np.flatnonzero(first == best[nearest])
    mutual = mutual[np.sort(np.unique(nearest[mutual], return_index=True)[1])]  # of equal descriptors, the first
    # Distances of unit vectors; the lower bound avoids 0 / 0 if a photo is matched with itself.
    one, other = 2 - first[mutual] * (2 / _ONE), 2 - second[mutual] * (2 / _ONE)
    ratio = np.sqrt(np.maximum(one, 0) / np.maximum(other, 1e-6))
    order = np.argsort(ratio, kind="stable")
    kept = mutual[order[ratio[order] < RATIO]]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int64)
