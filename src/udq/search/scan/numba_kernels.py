"""The scan compiled by numba: the fallback of ``udq.search.scan.exhaustive`` without the compiled extension."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def best_regions(
    lookup: NDArray[np.float32],
    codes: NDArray[Any],
    offsets: NDArray[np.int64],
    distance: NDArray[np.float32],
    region: NDArray[np.int64],
    columns: int,
) -> Callable[[int, int], bool]:
    """Return a function that fills ``distance`` and ``region`` of images first:last.

    It returns whether all codes are below K, as far as their sums can tell.

    columns: number of codewords that a code can name: a power of two.
    """
    subspaces, codewords = lookup.shape
    # A column for each number that the kernel can read: codes of K and more read inf, which gives them away.
    tables = np.full((subspaces, columns), np.inf, np.float32)
    tables[:, :codewords] = lookup
    lanes = 4 // codes.itemsize  # codes in a word: four bytes are read at once if M allows it
    if subspaces % lanes or sys.byteorder == "big":
        lanes = 1
    words = codes.view(np.uint32) if lanes > 1 else codes
    kernel = _scan_kernel(subspaces, lanes, 8 * codes.itemsize, columns)
    return partial(kernel, words, tables.ravel(), offsets, distance, region)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba, without fast-math; cache the result on disk if a cache folder is writable."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package folder nor the user's cache is writable
        return numba.njit(nogil=True)(function)


@cache
def _scan_kernel(subspaces: int, lanes: int, bits: int, columns: int) -> Any:
    """Compile the scan for M codes of 8 or 16 bits, `lanes` in a word; they are constants, so that the sum unrolls."""
    mask = np.uint32(columns - 1)

    def scan(words, tables, offsets, distance, region, first, last):  # type: ignore[no-untyped-def]
        """Fill images first:last and return whether all codes are below K, as far as their sums can tell."""
        # Indices are unsigned: numba tests whether a signed one counts from the end.
        worst = np.float32(-np.inf)
        seen = np.uint32(0)
        for i in range(first, last):
            begin, end = np.uint64(offsets[i]), np.uint64(offsets[i + 1])
            best = np.float32(np.inf)
            best_row = begin
            for row in range(begin, end):
                d = np.float32(0)
                for m in range(subspaces):
                    word = np.uint32(words[row, np.uint64(m // lanes)])
                    if bits == 16 and m % lanes == 0:
                        seen |= word
                    code = (word >> np.uint32(bits * (m % lanes))) & mask
                    term = tables[np.uint64(code) + np.uint64(columns * m)]
                    d = term if m == 0 else d + term
                worst = max(worst, d)
                if d < best:  # strictly: the lowest row wins a tie
                    best = d
                    best_row = row  # type: ignore[assignment]
            distance[i] = best
            region[i] = np.int64(best_row) if begin < end else -1
        masked_away = seen & ~(mask | (mask << np.uint32(16))) if bits == 16 else np.uint32(0)
        return masked_away == 0 and worst < np.inf

    return compiled(scan)


@compiled
def sort_by_high_half(keys):  # type: ignore[no-untyped-def]
    """Sort uint64 keys whose low halves are already in order: stable radix sort of the high halves, 11 bits per pass.

    Linear time: 5 times as fast as np.sort for 10,000 keys, 3 times for 1,000,000.
    """
    digit = np.uint64(2047)
    starts = np.zeros((3, 2048), np.int64)
    for key in keys:
        for p in range(3):
            starts[p, (key >> np.uint64(32 + 11 * p)) & digit] += 1
    for p in range(3):
        total = 0
        for j in range(2048):
            starts[p, j], total = total, total + starts[p, j]
    source, target, spare = keys, np.empty_like(keys), np.empty_like(keys)
    for p in range(3):
        for key in source:
            j = (key >> np.uint64(32 + 11 * p)) & digit
            target[starts[p, j]] = key
            starts[p, j] += 1
        source, target, spare = target, spare, target
    return source


@compiled
def vote(  # type: ignore[no-untyped-def]
    cells, visited, limits, tables, rows, keys, starts, photo_of, stored, farthest, total
):
    """Add the votes of each feature of a query to ``total`` (N,), as ``votes.h`` does."""
    photos = len(total)
    best = np.zeros(photos, np.float32)
    touched = np.empty(photos, np.int64)
    for i in range(len(cells)):
        count = 0
        for j in range(visited[i]):
            cell = cells[i, j]
            for place in range(starts[cell], starts[cell + 1]):
                distance = np.float32(0)
                for m in range(keys.shape[1]):
                    distance += tables[i, m, keys[place, m]]
                if distance > limits[i]:
                    continue
                row = rows[place]
                for m in range(keys.shape[1], 16):
                    distance += tables[i, m, stored[row, stored.shape[1] - 16 + m]]
                if distance < farthest:
                    vote = (np.float32(1) - distance / farthest) ** 2
                    photo = photo_of[row]
                    if best[photo] == 0:
                        touched[count] = photo
                        count += 1
                    best[photo] = max(best[photo], vote)
        for place in range(count):
            photo = touched[place]
            total[photo] += best[photo]
            best[photo] = 0
