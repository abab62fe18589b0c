"""Connect to a Ray cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from udq.common.text import one_line
from udq.errors import DependencyError, InputError, UdqError

_EXPECTED = "expected local, auto (a cluster that 'ray start' started), or HOST:PORT of its head node"

RESUME = "; completed work is kept: run the same command again to resume"
"""Advice for errors of a build that failed on a worker."""

# Environment variables that workers inherit; not all of UDQ_*, because one of those is a secret.
_FORWARDED = ("UDQ_NETWORK", "UDQ_SCAN_KERNEL")

LOCAL = "local"
"""The address that starts workers on this machine."""


def ray() -> Any:
    """Import Ray; raises DependencyError if it is not installed."""
    try:
        import ray as imported
    except ImportError as error:
        raise DependencyError("Ray is not installed; install it with: pip install 'udq[ray]'") from error
    return imported


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for the duration of the context; an existing connection is used, and stays open.

    Arguments and errors are those of ``connect``.
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
    """Connect this process to a cluster, unless it is connected already.

    Args:
        address: ``local``, ``auto`` (the cluster that this machine belongs to) or ``HOST:PORT`` of its head node.

    Raises:
        DependencyError: Ray is not installed.
        InputError: no cluster answers there.
    """
    engine = ray()
    if engine.is_initialized():
        return
    if address not in (LOCAL, "auto"):
        _check_address(address)
    # Its own warnings concern nothing that users can act on.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        # Workers use the kernels and libraries that the user chose for this process.
        "runtime_env": {"env_vars": {name: os.environ[name] for name in _FORWARDED if name in os.environ}},
    }
    if address == LOCAL:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options |= {"address": address}
    try:
        engine.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"ray {address}: no cluster ({one_line(error)[:200]}); {_EXPECTED}") from error


def _check_address(address: str) -> None:
    """Raise InputError if nothing listens at an address: Ray itself would retry for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"ray '{address}': {_EXPECTED}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"ray {address}: no cluster answers there ({error}); {_EXPECTED}") from error


def processors() -> int:
    """Return the number of processors of the cluster."""
    return max(1, int(ray().cluster_resources().get("CPU", 1)))


def free(kind: str) -> int:
    """Return the number of unused resources of a kind, ``CPU`` or ``GPU``, in the cluster."""
    return int(ray().available_resources().get(kind, 0))


def reason(error: BaseException, remedy: str = "") -> UdqError:
    """Return the error that made a worker fail, in one line, followed by what to do about it."""
    # Ray wraps errors in subclasses of their own classes, and chains of causes may be circular.
    wrapper, cause, visited = ray().exceptions.RayError, error, set[int]()
    while isinstance(cause, wrapper) or not isinstance(cause, UdqError):
        visited.add(id(cause))
        inner = getattr(cause, "cause", None) or cause.__cause__
        if not isinstance(inner, BaseException) or id(inner) in visited:
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            return UdqError(f"a worker failed: {lines[-1].strip()}{remedy}")
        cause = inner
    # Ray appends lines of its own.
    return type(cause)(str(cause).splitlines()[0])
