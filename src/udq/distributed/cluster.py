"""A connection to a Ray cluster, or to workers of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from udq.common.text import one_line
from udq.errors import DependencyError, InputError, UdqError

_EXPECTED = "expected local, auto (where 'ray start' has begun one), or HOST:PORT of its head node"

GO_ON = "; what is done is kept: run the same command again to go on"
"""What to do where a build fails on a worker."""

# Not all of UDQ_*: there is a secret among them.
_TOLD = ("UDQ_NETWORK", "UDQ_SCAN_KERNEL")

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
        "runtime_env": {"env_vars": {name: os.environ[name] for name in _TOLD if name in os.environ}},
    }
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options |= {"address": address}
    try:
        engine.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"ray {address}: no cluster ({one_line(error)[:200]}); {_EXPECTED}") from error


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


def free(kind: str) -> int:
    """Return how many of a kind, ``CPU`` or ``GPU``, the cluster has that nobody uses."""
    return int(ray().available_resources().get(kind, 0))


def reason(error: BaseException, remedy: str = "") -> UdqError:
    """Return what failed on a worker, as an error of one line, and what to do about it."""
    # Ray's errors are of the classes of those they wrap, and may go round in circles.
    wrapper, cause, seen = ray().exceptions.RayError, error, set[int]()
    while isinstance(cause, wrapper) or not isinstance(cause, UdqError):
        seen.add(id(cause))
        inner = getattr(cause, "cause", None) or cause.__cause__
        if not isinstance(inner, BaseException) or id(inner) in seen:
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            return UdqError(f"a worker failed: {lines[-1].strip()}{remedy}")
        cause = inner
    # Ray adds advice of its own in further lines.
    return type(cause)(str(cause).splitlines()[0])
