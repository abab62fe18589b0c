"""An inverted multi-index over the codes (Babenko and Lempitsky 2012), of which a search looks at a small part.

Regions are kept by cells, those with the same codewords in the first two subspaces. For a query q, no region of the
cell (a, b) is nearer than

    lookup[0, a] + lookup[1, b] + sum_{m >= 2} min_k lookup[m, k],

so that once the nearest cells have been looked at, all cells whose bound lies above the k-th distance can be left out,
and answers are exact. They are nearly that where only cells of a small part of the codes are looked at, nearest first.
An image keeps the best of its regions (eq. 1), whatever cells they lie in.
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

LOOKED_AT = 16
"""Of so many codes one is looked at, more or less: how much work a search is taken to be."""


@dataclass(frozen=True)
class InvertedIndex:
    """The codes of some parts once more, by cells: M + 4 bytes a region, of K**2 cells (K where M is 1).

    parts: what is indexed.
    starts: int64 (cells + 1,), the first row of each cell.
    codes: uint8 or uint16 (G, M), rows of a cell side by side.
    regions: uint32 (G,), which region each row is, numbered through all parts.
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
        """Sort the codes of parts into cells.

        parts: codes of one dtype and M, 2**32 at most.
        codewords: K.

        A code of K or more is an InputError that names its row in its part; DependencyError where udq was built
        without a C++ compiler.
        """
        if kernels.kernels() == ("numba",):
            raise DependencyError("an inverted index needs udq's extension: install a C++ compiler, then udq once more")
        from udq.search.scan import _scan

        regions = sum(len(part.codes) for part in parts)
        kinds = {(part.codes.dtype, part.codes.shape[1]) for part in parts}
        if len(kinds) != 1 or regions > 1 << 32:
            raise InputError(f"expected at most 2**32 codes of one kind, found {regions} of {len(kinds)}")
        ((dtype, subspaces),) = kinds
        held = np.zeros(codewords ** min(subspaces, 2), np.int64)
        for part in parts:
            checks.refuse_codes_from(codewords, part.codes)
            cell = part.codes[:, 0].astype(np.int64)
            if subspaces > 1:
                cell = cell * codewords + part.codes[:, 1]
            held += np.bincount(cell, minlength=len(held))
        starts = np.concatenate([[0], np.cumsum(held)])
        codes, of_region, first = np.empty((regions, subspaces), dtype), np.empty(regions, np.uint32), 0
        following = starts[:-1].copy()
        for part in parts:
            its = kernels.plain(part.codes)
            _scan.sort_by_cell(its, dtype.itemsize, subspaces, codewords, first, following, codes, of_region)
            first += len(its)
        offsets = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)]).cumsum()
        keep = np.concatenate([np.ones(len(part), bool) if part.keep is None else part.keep for part in parts])
        return InvertedIndex(tuple(parts), starts, codes, of_region, offsets, keep)

    def nearest_images(
        self, lookup: NDArray[np.float32], k: int, *, looked_at: float = 1.0, threads: int | None = None
    ) -> NearestImages:
        """Return what ``scan.nearest_images`` returns of the same parts, bit for bit where ``looked_at`` is 1.

        lookup: float32 (M, K), finite.
        k: how many images to return; fewer where fewer are kept.
        looked_at: part of the codes, above 0 and at most 1, that are looked at; regions elsewhere are not found.
        threads: how many to use; None takes the processors of this process as far as the work is worth them.
        """
        checks.check(lookup, self.codes, np.array([0, len(self.codes)]))
        if not 0 < looked_at <= 1:
            raise InputError(f"expected a part of the codes above 0 and at most 1, found {looked_at}")
        wanted = min(k, sum(part.kept for part in self.parts))
        shares = kernels.threads_for(threads, len(self.codes) // LOOKED_AT, BOUNDED_PER_THREAD)
        kernel = kernels.kernel()
        found = np.empty(0, MATCH)
        if wanted > 0 and kernel != "numba":
            each = kernels.in_threads(
                lambda share: self._share(kernel, lookup, wanted, share, shares, looked_at), zip(range(shares))
            )
            found = np.concatenate(each)
            # Threads may have seen different regions of one image: the best stays, the first of several.
            found = found[np.lexsort((found["region"], found["distance"], found["image"]))]
            found = found[np.diff(found["image"], prepend=-1) > 0]
        if len(found) < wanted:  # no bound holds for these tables, or more images are wanted than these cells have
            return exhaustive.nearest_images(lookup, self.parts, k, threads=threads)
        return exhaustive.in_order(self._of_parts(found), wanted)

    def _of_parts(self, found: NDArray[np.void]) -> NDArray[np.void]:
        """Number regions within their parts."""
        starts = np.cumsum([0, *(len(part.codes) for part in self.parts)])
        found["region"] -= starts[np.searchsorted(starts, found["region"], side="right") - 1]
        return found

    def _share(
        self, kernel: str, lookup: NDArray[np.float32], k: int, share: int, shares: int, looked_at: float
    ) -> NDArray[np.void]:
        """Return the nearest images of one thread's cells, in no order; none where no bound holds."""
        from udq.search.scan import _scan

        found = np.empty(k, MATCH)
        tables = kernels.plain(lookup)
        index = self.codes, self.codes.itemsize, self.starts, self.regions, self.offsets, self.keep
        count = _scan.nearest_by_cell(kernel, tables, len(tables), *index, share, shares, looked_at, found)
        return found[: max(count, 0)]
