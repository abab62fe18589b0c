"""What this machine could do at best: bytes read, numbers multiplied, bytes checked, a second.

    python benchmarks/speed/limits.py [--mib 512] [--side 2048] [--turns 7] [--json OUT]

Every figure of docs/performance.md stands beside one of these: a scan cannot be faster than its bytes are read, a
network not faster than its numbers are multiplied. Each is the fastest of the turns, by one thread and by one a core.

``read``      bytes of an array larger than any cache: NumPy's maximum of it, as 64-bit integers
``multiply``  arithmetic operations of a product of square matrices by torch, in float32, bfloat16 and int8
``checksum``  bytes of SHA-256, which opening a collection takes of every file
``disk``      bytes of a file that is not in memory, read from start to end
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from udq.common.provenance import provenance

MIB = 2**20


def fastest(work: Callable[[], object], turns: int) -> float:
    """Seconds of the fastest turn."""
    took = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def memory(mib: int, turns: int, threads: int) -> dict[str, float]:
    """Bytes a second that one thread and all of them read from memory, and take the SHA-256 of."""
    numbers = np.random.default_rng(0).integers(0, 2**63, mib * MIB // 8, np.uint64)
    figures = {}
    for count in sorted({1, threads}):
        parts = np.array_split(numbers, count)
        with ThreadPoolExecutor(count) as pool:
            for name, work in (("read", np.max), ("checksum", lambda part: hashlib.sha256(part).digest())):
                took = fastest(lambda work=work, parts=parts, pool=pool: list(pool.map(work, parts)), turns)
                figures[f"{name}, {count} threads" if count > 1 else name] = numbers.nbytes / took
    return figures


def arithmetic(side: int, turns: int, threads: int) -> dict[str, float]:
    """Operations a second, two for each number multiplied and added, of a product of matrices."""
    numbers = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    low, small = numbers.bfloat16(), (16 * numbers).to(torch.int8)
    products: dict[str, Callable[[], object]] = {
        "float32": lambda: numbers @ numbers,
        "bfloat16": lambda: low @ low,
        # torch has no public name for it.
        "int8": lambda: torch._int_mm(small, small),
    }
    figures = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        for name, product in products.items():
            product()  # packs and compiles
            name = f"multiply {name}, {count} threads" if count > 1 else f"multiply {name}"
            figures[name] = 2 * side**3 / fastest(product, turns)
    return figures


def disk(mib: int, turns: int, scratch: Path) -> dict[str, float]:
    """Bytes a second of a file that the system was told to forget; nothing where it cannot be told."""
    if not hasattr(os, "posix_fadvise"):
        return {}
    file = scratch / "bytes"
    file.write_bytes(np.random.default_rng(0).bytes(mib * MIB))
    buffer = bytearray(MIB)
    took = []
    for _ in range(turns):
        with file.open("rb", buffering=0) as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while opened.readinto(buffer):
                pass
            took.append(time.perf_counter() - started)
    return {"disk": mib * MIB / min(took)}


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="of the array and the file (%(default)s)")
    parser.add_argument("--side", type=int, default=2048, help="of the matrices (%(default)s)")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to read from (default: where temporary files lie)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        figures = {
            **memory(given.mib, given.turns, threads),
            **arithmetic(given.side, given.turns, threads),
            **disk(given.mib, given.turns, Path(scratch)),
        }
    for name, rate in figures.items():
        print(f"{name:30} {rate / 1e9:9.1f} {'10^9 operations' if 'multiply' in name else 'GB'} a second")
    if given.json:
        facts = {
            "benchmark": "limits",
            **provenance(seed=0),
            "setting": {"mib": given.mib, "side": given.side, "turns": given.turns, "threads": threads},
            "per_second": {name: float(f"{rate:.4g}") for name, rate in figures.items()},
        }
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
