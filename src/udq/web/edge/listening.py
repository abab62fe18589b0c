"""Listening sockets: one for every address of a host."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

from udq.errors import InputError
from udq.web.edge.addresses import is_loopback

# Attempts to find a port that is free on every address of a host.
_ATTEMPTS = 20
# The machine has no such address, or no IPv6 at all.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_Address = tuple[socket.AddressFamily, Any]


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Listen on every address of a host, with the same port; closed afterwards.

    Opened before the model is loaded, so that a port in use is reported at once.

    Args:
        host: a name or an address, an IPv6 address without brackets.
        port: 0 for one that is free.

    Raises:
        InputError: there is no such address, or the port is in use.
    """
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(listener) for listener in _listeners(host, port)]


def _listeners(host: str, port: int) -> list[socket.socket]:
    addresses = _addresses(host, port)
    for attempt in range(_ATTEMPTS):
        listeners: list[socket.socket] = []
        try:
            for family, address in addresses:
                chosen = listeners[0].getsockname()[1] if listeners else port
                with _absent_tolerated(last=not listeners and (family, address) == addresses[-1]):
                    listeners.append(_listener(family, (address[0], chosen, *address[2:]), len(addresses) > 1))
            return listeners
        except OSError as error:
            for listener in listeners:
                listener.close()
            if error.errno == errno.EADDRINUSE and port == 0 and attempt < _ATTEMPTS - 1:
                continue  # the port that was free on the first address is in use on another one
            raise _refusal(host, port, error) from error
    raise AssertionError  # the last attempt returned or raised


def _addresses(host: str, port: int) -> list[_Address]:
    """Return the addresses of a host, each once."""
    # Browsers and RFC 6761 resolve localhost to both loopback addresses, whatever the machine's table of hosts says.
    names = ("127.0.0.1", "::1", host) if host == "localhost" else (host,)
    found: dict[_Address, None] = {}
    for name in names:
        try:
            for family, _, _, _, address in socket.getaddrinfo(
                name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            ):
                if host != "localhost" or is_loopback(str(address[0])):  # a table of hosts can hold anything
                    found[family, address] = None
        except (OSError, OverflowError, UnicodeError) as error:
            if name == host and not found:
                raise InputError(
                    f"--host {host} --port {port}: no address to listen on ({error}); use another one"
                ) from error
    return list(found)


@contextlib.contextmanager
def _absent_tolerated(*, last: bool) -> Iterator[None]:
    """Ignore that an address does not exist on this machine, unless it is the last one of its host."""
    try:
        yield
    except OSError as error:
        if last or error.errno not in _ABSENT:
            raise


def _listener(family: socket.AddressFamily, address: Any, one_of_several: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets with an explicit protocol; without it small responses take 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows it would share the port with another server
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and one_of_several:  # the IPv4 address has a socket of its own
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except BaseException:
        listener.close()
        raise
    return listener


def _refusal(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"port {port} is in use, perhaps by another udq serve; use another one with --port, or 0 for a free one"
        )
    return InputError(f"--host {host} --port {port}: {error.strerror}; use another address or port")
