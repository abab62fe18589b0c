"""Exhaustive scan (sec. 3.5): the distance of every code to the query and the best region of every image, in one pass.

Eq. 5 replaces each region p by its codewords, so its squared distance to the query q sums M table entries,

    d(q, p) = sum_m lookup[m, h_p^m],        lookup[m, k] = ||f_q^m - c_k^m||^2,

and eq. 1 keeps the best region of an image: the largest similarity is the smallest distance. Results are
exact and the same on every machine and for any number of threads: the sum is taken in float32 from m = 0 upwards and
never reordered, and the lowest region row wins a tie.

``best_regions`` and ``image_order`` rank all images. ``nearest_images`` finds the first k of exactly that order several
times faster, as lower bounds rule out most regions (src/native/scan.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from udq.search.scan.checks import (
    check,
    check_codes,
    check_lookup,
    columns,
    expect,
    expect_array,
    expect_fitting,
    refuse_codes_from,
)
from udq.search.scan.kernels import (
    MATCH,
    REGIONS_PER_THREAD,
    extension,
    in_threads,
    kernel,
    plain,
    read_only,
    threads_for,
)

BOUNDED_PER_THREAD = 1 << 20
"""``REGIONS_PER_THREAD`` for ``nearest_images``, which computes the exact distance of few regions only."""

IMAGES_TO_SELECT = 1 << 17
"""Up to this number of images, sorting all of them takes less time than selecting the first few."""


@dataclass(frozen=True)
class BestRegions:
    """The best region of each of N images (eq. 1); an image without regions has distance inf and region -1.

    distance: float32 (N,), squared distance of eq. 5 to the best region.
    region: int64 (N,), the row of that region in the codes.
    """

    distance: NDArray[np.float32]
    region: NDArray[np.int64]

    def __post_init__(self) -> None:
        expect_array("distance", self.distance, np.float32, (None,))
        expect_array("region", self.region, np.int64, (len(self.distance),))
        object.__setattr__(self, "distance", read_only(self.distance))
        object.__setattr__(self, "region", read_only(self.region))

    def __len__(self) -> int:
        return len(self.distance)


@dataclass(frozen=True)
class Part:
    """The codes of some images, and which of the images may be found.

    codes: uint8 or uint16 (G, M), as in ``best_regions``.
    offsets: int64 (N + 1,), as in ``best_regions``.
    keep: bool (N,), images that may be found; None if all may.

    The arrays are checked here, once, and not in each search: a collection of a million photos has 250 parts.
    """

    codes: NDArray[np.uint8] | NDArray[np.uint16]
    offsets: NDArray[np.int64]
    keep: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        check_codes(self.codes, self.offsets)
        object.__setattr__(self, "offsets", plain(self.offsets))
        if self.keep is not None:
            expect_array("keep", self.keep, np.bool_, (len(self),))
            object.__setattr__(self, "keep", np.ascontiguousarray(self.keep))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def kept(self) -> int:
        """Number of images that may be found."""
        return len(self) if self.keep is None else int(np.count_nonzero(self.keep))


@dataclass(frozen=True)
class NearestImages:
    """The n nearest images, nearest first; ties are in the order of images.

    image: int64 (n,), index among the images of all parts; from a database, the place in ``Database.images``.
    distance: float32 (n,), squared distance of eq. 5 to the best region; inf for an image without regions.
    region: int64 (n,), the row of that region in the codes of its part; -1 for an image without regions.
    missing: number of images that could not be scanned, as the process that holds their codes did not answer.
    """

    image: NDArray[np.int64]
    distance: NDArray[np.float32]
    region: NDArray[np.int64]
    missing: int = 0

    def __post_init__(self) -> None:
        for name, dtype in (("image", np.int64), ("distance", np.float32), ("region", np.int64)):
            expect_array(name, getattr(self, name), dtype, (len(self.image),))
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.image)


def best_regions(
    lookup: NDArray[np.float32],
    codes: NDArray[np.uint8] | NDArray[np.uint16],
    offsets: NDArray[np.int64],
    *,
    threads: int | None = None,
) -> BestRegions:
    """Find the best region of every image and its squared distance to the query (eq. 1 and 5).

    lookup: float32 (M, K), finite; squared distance of each query sub-vector to each codeword; K <= 512.
    codes: uint8 (K <= 256) or uint16, (G, M), C-contiguous; row t holds the codewords of region t, each below K.
    offsets: int64 (N + 1,), from 0 to G, non-decreasing; image i owns the rows offsets[i]:offsets[i + 1].
    threads: number of threads; None uses as many processors as the amount of work justifies.

    A code of K or more raises InputError with its row; the scan reads nothing out of bounds.
    Without the extension, the first call for each M and dtype compiles for a fraction of a second.
    """
    check(lookup, codes, offsets)
    threads = threads_for(threads, len(codes), REGIONS_PER_THREAD)
    images = len(offsets) - 1
    distance = np.empty(images, np.float32)
    region = np.empty(images, np.int64)
    scan: Callable[[int, int], bool]
    if kernel() == "numba":
        from udq.search.scan import numba_kernels

        scan = numba_kernels.best_regions(
            lookup, read_only(codes), read_only(offsets), distance, region, columns(codes)
        )
    else:
        arrays = plain(lookup), len(lookup), plain(codes), codes.itemsize, plain(offsets)

        def scan(first: int, last: int) -> bool:
            return extension.best(*arrays, first, last, distance, region)

    cuts = _cuts(offsets, 0, len(codes), threads)
    if not all(in_threads(scan, pairwise(cuts))):
        refuse_codes_from(lookup.shape[1], codes)
    return BestRegions(distance, region)


def nearest_images(
    lookup: NDArray[np.float32], parts: Sequence[Part], k: int, *, threads: int | None = None
) -> NearestImages:
    """Find the k nearest images of all parts: bit for bit the first k of ``best_regions`` and ``image_order``.

    lookup: as in ``best_regions``.
    parts: codes, offsets and which images may be found; images are numbered through all parts.
    k: number of images to return; fewer are returned if fewer may be found.
    threads: number of threads; None uses as many processors as the amount of work justifies.

    A code of K or more raises InputError with its row in its part.
    """
    check_lookup(lookup)
    return nearest_images_batch(lookup[None], parts, k, threads=threads)[0]


def nearest_images_batch(
    lookups: NDArray[np.float32], parts: Sequence[Part], k: int, *, threads: int | None = None
) -> list[NearestImages]:
    """Find the k nearest images of each of Q queries in one pass over the codes.

    lookups: float32 (Q, M, K), finite; the tables of each query.
    The other arguments, the results and the errors are those of ``nearest_images``.
    """
    expect_array("lookups", lookups, np.float32, (None, None, None))
    expect(k >= 0, "k of at least 0", k)
    for lookup in lookups:
        check_lookup(lookup)
    for part in parts:
        expect_fitting(lookups.shape[1:], part.codes)
    kinds = {part.codes.itemsize for part in parts}
    expect(len(kinds) < 2, "codes of one dtype in all parts", sorted(kinds))
    threads = threads_for(threads, len(lookups) * sum(len(part.codes) for part in parts), BOUNDED_PER_THREAD)
    k = min(k, sum(part.kept for part in parts))
    using = kernel()
    if k == 0 or using == "numba":
        return [_nearest_of_all(lookup, parts, k, threads) for lookup in lookups]

    queries, subspaces, codewords = lookups.shape
    numbers: list[int] = np.cumsum([0, *map(len, parts)]).tolist()
    starts: list[int] = np.cumsum([0, *(len(part.codes) for part in parts)]).tolist()
    cuts = [_cuts(part.offsets, start, starts[-1], threads) for part, start in zip(parts, starts, strict=False)]
    tables = plain(lookups)

    def scan(share: int) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Return the nearest images of one thread, unordered; the k-th distance so far prunes the next part."""
        found, counts = np.empty((queries, k), MATCH), np.empty(queries, np.int64)
        shares = [
            (plain(part.codes), part.offsets, part.keep, cut[share], cut[share + 1], number)
            for part, number, cut in zip(parts, numbers, cuts, strict=False)
        ]
        unsound = extension.nearest(using, tables, queries, subspaces, min(kinds), shares, found, counts)
        if unsound >= 0:
            refuse_codes_from(codewords, parts[unsound].codes)
        return found, counts

    shares = in_threads(scan, zip(range(threads)))
    return [
        in_order(np.concatenate([found[query][: counts[query]] for found, counts in shares]), k)
        for query in range(queries)
    ]


def in_order(matches: NDArray[np.void], k: int) -> NearestImages:
    """Return the k nearest of unordered matches, as the extension writes them."""
    matches = matches[np.lexsort((matches["image"], matches["distance"]))[:k]]
    image, distance, region = (np.ascontiguousarray(matches[name]) for name in ("image", "distance", "region"))
    return NearestImages(image, distance, region)


def _nearest_of_all(lookup: NDArray[np.float32], parts: Sequence[Part], k: int, threads: int) -> NearestImages:
    """Return ``nearest_images`` by ranking all images, without the extension."""
    every = [best_regions(lookup, part.codes, part.offsets, threads=threads) for part in parts]
    kept = [np.arange(len(part)) if part.keep is None else np.flatnonzero(part.keep) for part in parts]
    numbers = np.cumsum([0, *map(len, parts)])
    best = BestRegions(
        np.concatenate([np.empty(0, np.float32), *(b.distance[rows] for b, rows in zip(every, kept, strict=True))]),
        np.concatenate([np.empty(0, np.int64), *(b.region[rows] for b, rows in zip(every, kept, strict=True))]),
    )
    image = np.concatenate(
        [np.empty(0, np.int64), *(rows + number for rows, number in zip(kept, numbers, strict=False))]
    )
    order = image_order(best, k)
    return NearestImages(image[order], best.distance[order], best.region[order])


def distances(lookup: NDArray[np.float32], codes: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the squared distance of the query to every region, float32 (G,), bit for bit as in ``best_regions``.

    lookup, codes: as in ``best_regions``. Meant for the regions of a few photos: not compiled, one thread.
    """
    check(lookup, codes, np.array([0, len(codes)], np.int64))
    refuse_codes_from(lookup.shape[1], codes)
    distance: NDArray[np.float32] = lookup[0, codes[:, 0]]
    for m in range(1, len(lookup)):
        distance = distance + lookup[m, codes[:, m]]
    return distance


def image_order(best: BestRegions, k: int | None = None) -> NDArray[np.int64]:
    """Return the images in the order of (distance, image), nearest first: the ranking of sec. 3.5.

    k: number of images to return; all N if None or above N.
    Returns int64 (min(k, N),), indices of images. Images without regions come last.
    """
    images = len(best)
    expect(k is None or k >= 0, "k of at least 0", k)
    expect(images <= 1 << 32, "at most 2**32 images", images)
    k = images if k is None else min(k, images)
    # One integer that sorts as (distance, image): the bits of float32 sort as integers once those of negative numbers
    # are inverted, and + 0 makes -0 and 0 equal. Keys are unique, so a partition is exact.
    bits = (best.distance + np.float32(0)).view(np.int32)
    bits ^= (bits >> np.int32(31)) & np.int32(0x7FFFFFFF)
    keys = (bits.view(np.uint32) ^ np.uint32(1 << 31)).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(images, dtype=np.uint64)
    if images > IMAGES_TO_SELECT and k <= images // 16:
        keys = np.sort(np.partition(keys, k)[:k])
    else:
        keys = _sort_by_high_half(keys)[:k]
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _sort_by_high_half(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sort keys whose low halves are already in order: linear time, several times faster than np.sort."""
    if kernel() == "numba":
        from udq.search.scan import numba_kernels

        sorted_keys: NDArray[np.uint64] = numba_kernels.sort_by_high_half(keys)
        return sorted_keys
    extension.sort_by_high_half(keys)
    return keys


def _cuts(offsets: NDArray[np.int64], start: int, regions: int, threads: int) -> list[int]:
    """Return where each thread begins among the images of a part, and the end.

    The first row of the part is row ``start`` of ``regions`` in all parts. Threads take whole images and about equal
    numbers of regions.
    """
    rows = np.linspace(0, regions, threads + 1)[1:-1] - start
    return [0, *np.searchsorted(offsets[:-1], rows).tolist(), len(offsets) - 1]
