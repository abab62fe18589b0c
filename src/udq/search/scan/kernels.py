"""The choice of a kernel and its threads: the compiled extension, or numba."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.common.cores import cores
from udq.search.scan.checks import expect

try:
    from udq.search.scan import _scan
except ImportError:  # built without a compiler
    _scan = None  # type: ignore[assignment]
extension = _scan
"""The compiled kernels; None if udq was built without a compiler."""

Result = TypeVar("Result")

REGIONS_PER_THREAD = 1 << 17
"""One more thread, which takes up to 0.1 ms to start, is worth it for this many regions (about 0.2 ms of work)."""

MATCH = np.dtype([("distance", np.float32), ("image", np.int64), ("region", np.int64)], align=True)
"""Layout of a match as the extension writes it; ``Match`` in src/native/tables.h."""


def kernels() -> tuple[str, ...]:
    """Return the kernels that this machine can run, fastest first; all give the same results.

    ``avx512-vbmi``, ``avx2`` and ``portable`` belong to the extension; ``numba`` is the fallback without it.
    """
    return (*(extension.kernels() if extension else ()), "numba")


def kernel() -> str:
    """Return the kernel to use: the fastest, or the one named by the environment variable UDQ_SCAN_KERNEL."""
    named = os.environ.get("UDQ_SCAN_KERNEL")
    available = kernels()
    expect(not named or named in available, f"UDQ_SCAN_KERNEL to be one of {', '.join(available)}", named)
    return named or available[0]


def threads_for(wanted: int | None, regions: int, worth_one: int) -> int:
    """Return the number of threads: ``wanted``, or one per ``worth_one`` regions and at most one per core."""
    threads = min(cores(), 1 + regions // worth_one) if wanted is None else wanted
    expect(threads >= 1, "at least 1 thread", threads)
    return threads


def in_threads(work: Callable[..., Result], calls: Iterable[tuple[int, ...]]) -> list[Result]:
    """Return the results of calls that run in parallel, the first of them in this thread."""
    first, *others = calls
    if not others:
        return [work(*first)]
    with ThreadPoolExecutor(len(others)) as pool:
        futures = [pool.submit(work, *call) for call in others]
        return [work(*first), *(future.result() for future in futures)]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array C-contiguous and aligned, as the extension reads it; a copy only if it is not so already."""
    return np.require(array, requirements=["C", "A"])


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view; to numba, memory maps and arrays in memory are then one type, which compiles once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
