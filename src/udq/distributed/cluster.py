"""A connection to a Ray cluster, or to workers of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from udq.errors import DependencyError, InputError, UdqError

_EXPECTED = "expected local, auto (where 'ray start' has begun one), or HOST:PORT of its head node"

LOCAL = "local"
"""The address that stands for workers of this machine."""


def ray() -> Any:
    """Import Ray; DependencyError where it is not installed."""
    try:
        import ray as found
    except ImportError as error:
        raise DependencyError("Ray is not installed; install it with: pip install 'udq[ray]'") from error
    return found


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster meanwhile; a connection that is there already is used, and stays.

    Args and errors are those of ``connect``.
    """
    engine = ray()
    before = engine.is_initialized()
    connect(address)
    try:
        yield
    finally:
        if not before:
            engine.shutdown()


def connect(address: str) -> None:
    """Connect this process to a cluster, unless it is connected to one already.

    Args:
        address: ``local``, ``auto`` (the cluster that this machine is of) or ``HOST:PORT`` of its head node.

    Raises:
        DependencyError: Ray is not installed.
        InputError: no cluster answers there.
    """
    engine = ray()
    if engine.is_initialized():
        return
    if address not in (LOCAL, "auto"):
        _answering(address)
    # Its own warnings are of things that users can do nothing about.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        # What the user told this process about kernels and libraries holds for workers too.
        "runtime_env": {"env_vars": {name: value for name, value in os.environ.items() if name.startswith("UDQ_")}},
    }
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options |= {"address": address}
    try:
        engine.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"ray {address}: no cluster ({' '.join(str(error).split())[:200]}); {_EXPECTED}") from error


def _answering(address: str) -> None:
    """Raise InputError where nothing listens: Ray itself would go on asking for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"ray '{address}': {_EXPECTED}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray {address}: no cluster answers there ({error}); {_EXPECTED}") from error


def processors() -> int:
    """Return how many processors the cluster has."""
    return max(1, int(ray().cluster_resources().get("CPU", 1)))


def reason(error: BaseException) -> UdqError:
    """Return what failed on a worker, as an error of one line."""
    cause: BaseException = error
    while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None and inner is not cause:
        cause = inner
    if isinstance(cause, UdqError):
        return cause
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return UdqError(f"a worker failed: {lines[-1].strip()}; what is done is kept: run the same command again to go on")
