"""An inverted multi-index over the codes (Babenko and Lempitsky 2012): a search scans a small part of them.

A cell (a, b) contains the regions that have these codewords in the first two subspaces. For a query q, none of them is
nearer than

    lookup[0, a] + lookup[1, b] + sum_{m >= 2} min_k lookup[m, k],

so once the nearest cells have been scanned, every cell whose bound is above the k-th distance can be skipped, and
results are exact. Scanning only the nearest cells, up to a small share of the codes, gives approximate results that are
nearly the same. The best region of an image counts (eq. 1), whichever cells its regions are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.errors import DependencyError, InputError
from udq.search.scan import checks, exhaustive, kernels
from udq.search.scan.exhaustive import BOUNDED_PER_THREAD, NearestImages, Part
from udq.search.scan.kernels import MATCH

CODES_PER_SCANNED = 16
"""A search is expected to scan about 1/16 of the codes; used to choose the number of threads."""


@dataclass(frozen=True)
class InvertedIndex:
    """A copy of the codes of some parts, sorted by cell: M + 4 bytes per region, K**2 cells (K if M is 1).

    parts: the indexed codes.
    starts: int64 (cells + 1,), the first row of each cell.
    codes: uint8 or uint16 (G, M), the rows of a cell next to each other.
    regions: uint32 (G,), the region of each row, numbered through all parts.
    offsets: int64 (N + 1,); image i owns the regions offsets[i]:offsets[i + 1].
    keep: bool (N,), images that may be found.
    """

    parts: tuple[Part, ...]
    starts: NDArray[np.int64]
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    regions: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    keep: NDArray[np.bool_]

    @staticmethod
    def build(parts: Sequence[Part], codewords: int) -> InvertedIndex:
        """Sort the codes of parts by cell.

        parts: codes of one dtype and M; at most 2**32 regions.
        codewords: K.

        A code of K or more raises InputError with its row in its part. Raises DependencyError if udq was built without
        a C++ compiler.
        """
        if kernels.kernels() == ("numba",):
            raise DependencyError("an inverted index needs udq's extension: install a C++ compiler, then reinstall udq")
        from udq.search.scan import _scan

        regions = sum(len(part.codes) for part in parts)
        kinds = {(part.codes.dtype, part.codes.shape[1]) for part in parts}
        if len(kinds) != 1 or regions > 1 << 32:
            raise InputError(f"expected at most 2**32 codes of one dtype and M, found {regions} of {len(kinds)} kinds")
        ((dtype, subspaces),) = kinds
        counts = np.zeros(codewords ** min(subspaces, 2), np.int64)
        for part in parts:
            checks.refuse_codes_from(codewords, part.codes)
            cell = part.codes[:, 0].astype(np.int64)
            if subspaces > 1:
                cell = cell * codewords + part.codes[:, 1]
            counts += np.bincount(cell, minlength=len(counts))
        starts = np.concatenate([[0], np.cumsum(counts)])
        codes, of_region, first = np.empty((regions, subspaces), dtype), np.empty(regions, np.uint32), 0
        following = starts[:-1].copy()
        for part in parts:
            unsorted = kernels.plain(part.codes)
            _scan.sort_by_cell(unsorted, dtype.itemsize, subspaces, codewords, first, following, codes, of_region)
            first += len(unsorted)
        offsets = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)]).cumsum()
        keep = np.concatenate([np.ones(len(part), bool) if part.keep is None else part.keep for part in parts])
        return InvertedIndex(tuple(parts), starts, codes, of_region, offsets, keep)

    def nearest_images(
        self, lookup: NDArray[np.float32], k: int, *, looked_at: float = 1.0, threads: int | None = None
    ) -> NearestImages:
        """Return what ``exhaustive.nearest_images`` returns for the same parts: bit for bit if ``looked_at`` is 1.

        lookup: float32 (M, K), finite.
        k: number of images to return; fewer are returned if fewer may be found.
        looked_at: share of the codes to scan, above 0 and at most 1; regions in other cells are not found.
        threads: number of threads; None uses as many processors as the amount of work justifies.
        """
        checks.check(lookup, self.codes, np.array([0, len(self.codes)]))
        if not 0 < looked_at <= 1:
            raise InputError(f"looked_at: expected a share of the codes above 0 and at most 1, found {looked_at}")
        wanted = min(k, sum(part.kept for part in self.parts))
        shares = kernels.threads_for(threads, len(self.codes) // CODES_PER_SCANNED, BOUNDED_PER_THREAD)
        kernel = kernels.kernel()
        matches = np.empty(0, MATCH)
        if wanted > 0 and kernel != "numba":
            each = kernels.in_threads(
                lambda share: self._share(kernel, lookup, wanted, share, shares, looked_at), zip(range(shares))
            )
            matches = np.concatenate(each)
            # Threads may have scanned different regions of one image: keep the best, and the first of equals.
            matches = matches[np.lexsort((matches["region"], matches["distance"], matches["image"]))]
            matches = matches[np.diff(matches["image"], prepend=-1) > 0]
        if len(matches) < wanted:  # the tables have no valid bound, or these cells have fewer than k images
            return exhaustive.nearest_images(lookup, self.parts, k, threads=threads)
        return exhaustive.in_order(self._of_parts(matches), wanted)

    def _of_parts(self, matches: NDArray[np.void]) -> NDArray[np.void]:
        """Renumber regions, in place: from their index in all parts to the row in their own part."""
        starts = np.cumsum([0, *(len(part.codes) for part in self.parts)])
        matches["region"] -= starts[np.searchsorted(starts, matches["region"], side="right") - 1]
        return matches

    def _share(
        self, kernel: str, lookup: NDArray[np.float32], k: int, share: int, shares: int, looked_at: float
    ) -> NDArray[np.void]:
        """Return the nearest images in the cells of one thread, unordered; none if the tables have no valid bound."""
        from udq.search.scan import _scan

        matches = np.empty(k, MATCH)
        tables = kernels.plain(lookup)
        index = self.codes, self.codes.itemsize, self.starts, self.regions, self.offsets, self.keep
        count = _scan.nearest_by_cell(kernel, tables, len(tables), *index, share, shares, looked_at, matches)
        return matches[: max(count, 0)]
