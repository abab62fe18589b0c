"""Provenance of a measurement: command, commit, versions, machine, date and seed, stored with every result."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from udq.common.files import checksum

# Suffixes of the files that results depend on.
_CODE = (".py", ".npz", ".toml")
_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("udq", "numpy", "faiss-cpu", "numba", "torch", "torchvision", "openvino", "pillow", "pillow-heif")


def provenance(*, seed: int) -> dict[str, object]:
    """Return what is needed to repeat a measurement; JSON-serialisable."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *(shlex.quote(_portable(word)) for word in sys.argv[1:])]),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": versions(),
    }


def _portable(word: str) -> str:
    """Return an argument without folders of this machine: an absolute path keeps its last two names."""
    path = Path(word)
    return "/".join(path.parts[-2:]) if path.is_absolute() and len(path.parts) > 2 else word


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code(*packages: str) -> str:
    """Return a checksum of the code of some packages and modules of udq, and of the data shipped with them."""
    places = [_ROOT / package for package in packages]
    within = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    files = [file for file in within if file.suffix in _CODE]
    names = [[file.relative_to(_ROOT).as_posix(), checksum(file.read_bytes())] for file in sorted(files)]
    return checksum(json.dumps(names).encode())


def _commit() -> str | None:
    """Return the commit of the checkout that this module is in, with ``-dirty`` if tracked files differ; else None."""
    here = Path(__file__).resolve().parent
    try:
        # --untracked-files=no: a result file that was just written is not a change of the code.
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no", "--", str(here)],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-dirty" if changed else "")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
