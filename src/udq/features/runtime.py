"""Choice of the library that computes the network's convolutions: OpenVINO on a CPU if it is installed, else torch.

Both give the same features but for rounding (docs/performance.md); OpenVINO is faster. Training, and everything on a
GPU, uses torch. Nothing here imports either library.
"""

from __future__ import annotations

import importlib.metadata
import os
from importlib.util import find_spec

from udq.errors import InputError

_FASTEST_FIRST = "openvino", "torch"


def engines() -> tuple[str, ...]:
    """Return the libraries that are installed, fastest first."""
    return tuple(name for name in _FASTEST_FIRST if find_spec(name))


def engine(preferred: str | None = None) -> str:
    """Return the library that computes convolutions on a CPU.

    Args:
        preferred: the library to use unless the environment variable UDQ_NETWORK names another; the fastest installed
            one if None.
    """
    wanted, installed = os.environ.get("UDQ_NETWORK") or preferred, engines()
    if wanted and wanted not in installed:
        install = "; run: pip install 'udq[openvino]'" if wanted == "openvino" else ""
        raise InputError(f"expected UDQ_NETWORK to be one of {', '.join(installed)}, found {wanted}{install}")
    return wanted or installed[0]


def version(name: str) -> str:
    """Return a library's name and version, as in ``openvino 2026.4.1``."""
    return f"{name} {importlib.metadata.version(name)}"
