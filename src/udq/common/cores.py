"""The number of cores that this process may use: by its affinity, and by the CPU quota of its container.

A container of Docker or Kubernetes with ``--cpus 2`` on a machine of 64 cores sees all 64. Its quota is in the files of
its control group, which gets that much CPU time per period: threads beyond it only make the kernel pause all of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_MOST = 1 << 16  # bytes that are read of a file; real ones have some hundreds


def cores() -> int:
    """Return the number of cores that this process may use, >= 1: its affinity, limited by the quota of its container.

    A part of a core counts as one.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _own_quota()
    return affinity if limit is None else max(1, min(affinity, math.ceil(limit)))


def quota(groups: Path = _GROUPS, root: Path = _ROOT) -> float | None:
    """Return the CPU quota of this process in cores, > 0; None if there is none, or if it cannot be read.

    The lowest quota of the group and of the groups that contain it, by version 1 and 2 of control groups. A container
    that sees the paths of its host has no folder of its own group: its quota is in the root then.

    Args:
        groups: the groups of the process: lines ``ID:CONTROLLERS:/PATH``.
        root: the folder in which control groups are mounted.
    """
    found = [value for folder in _folders(groups, root) if (value := _quota_in(folder)) is not None]
    return min(found, default=None)


@cache
def _own_quota() -> float | None:
    return quota()


def _folders(groups: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that limit CPU time, and of the groups around them."""
    for line in (_text(groups) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2, and below ``unified`` beside version 1
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def _quota_in(folder: Path) -> float | None:
    """Return the quota that a group's own files set."""
    words = (_text(folder / "cpu.max") or "").split()  # version 2: "QUOTA PERIOD", or "max PERIOD"
    if not words:
        words = [_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]  # version 1: -1 if none
    try:
        time, period = map(int, words)
    except ValueError:
        return None
    return time / period if time > 0 and period > 0 else None


def _text(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST).decode("ascii", "replace")
    except OSError:
        return None
