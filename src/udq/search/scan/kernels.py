"""Choosing a kernel and its threads: the compiled extension, or numba."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.search.scan.checks import expect

try:
    from udq.search.scan import _scan
except ImportError:  # built without a compiler
    _scan = None  # type: ignore[assignment]
extension = _scan
"""The compiled kernels; None if udq was built without a compiler."""

Result = TypeVar("Result")

REGIONS_PER_THREAD = 1 << 17
"""Fewer regions than this (about 0.2 ms of work) are not worth starting one more thread (up to 0.1 ms)."""


MATCH = np.dtype([("distance", np.float32), ("image", np.int64), ("region", np.int64)], align=True)
"""An image of the extension's heap."""


# --- kernels ---


def kernels() -> tuple[str, ...]:
    """Return the kernels that this machine has, fastest first; results of all are the same.

    ``avx512-vbmi``, ``avx2`` and ``portable`` are of the extension; ``numba`` is what there is without it.
    """
    return (*(extension.kernels() if extension else ()), "numba")


def kernel() -> str:
    """Return the kernel in use: the fastest, or the one that the environment variable UDQ_SCAN_KERNEL names."""
    wanted = os.environ.get("UDQ_SCAN_KERNEL")
    found = kernels()
    expect(not wanted or wanted in found, f"UDQ_SCAN_KERNEL to be one of {', '.join(found)}", wanted)
    return wanted or found[0]


def threads_for(wanted: int | None, regions: int, worth_one: int) -> int:
    """Return how many threads to use: as many as wanted, or as there are processors and ``worth_one`` regions for."""
    threads = min(_processors(), 1 + regions // worth_one) if wanted is None else wanted
    expect(threads >= 1, "at least 1 thread", threads)
    return threads


def in_threads(work: Callable[..., Result], calls: Iterable[tuple[int, ...]]) -> list[Result]:
    """Make all calls at the same time, the first in this thread."""
    first, *others = calls
    if not others:
        return [work(*first)]
    with ThreadPoolExecutor(len(others)) as pool:
        waiting = [pool.submit(work, *call) for call in others]
        return [work(*first), *(each.result() for each in waiting)]


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array as the extension reads it: C-contiguous and aligned, a copy only where it is not."""
    return np.require(array, requirements=["C", "A"])


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view; memory maps and arrays in memory are then one type and compile once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
