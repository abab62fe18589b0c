"""Serve a collection until Ctrl-C or a signal to end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from udq.collection import Collection
from udq.errors import InputError, UdqError
from udq.web import app
from udq.web.guard import Access, is_loopback
from udq.web.service import Service

# Seconds that answers under way have to be finished when the server ends.
_GRACE = 10
# Connections at a time; a browser has six.
_CONNECTIONS = 1000
_SHORTEST_TOKEN = 16


def serve(
    collection: Collection,
    *,
    host: str,
    port: int,
    token: str | None,
    write_to: Path | None,
    open_browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serve a collection; returns when the server was told to end.

    Args:
        collection: what is served.
        host: the address to listen at; another one than loopback's needs a token.
        port: 0 for a free one.
        token: what everybody who asks must know; None where all on this machine may ask.
        write_to: the folder for photos that are added; None where nothing may be changed.
        open_browser: whether to show the page when it is ready.
        say: is told that the server is ready, and where.

    Raises:
        InputError: an address that cannot be listened at, no token where one is needed, or no such folder.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host {host}: others could reach it; give a secret with --token TOKEN or in UDQ_TOKEN, such as one of: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is not None:
        check_token(token)
    if write_to is not None and not (write_to.is_dir() and os.access(write_to, os.W_OK)):
        raise InputError(f"--allow-write {write_to}: expected a folder that new photos can be put into")
    with _listening(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        # What it warns of is answered to whoever sent it.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        access = Access(host, token, f"udq-{listener.getsockname()[1]}")
        service = Service.start(collection, write_to=write_to)

        def ready() -> None:
            say(address)
            if open_browser:
                webbrowser.open(address if token is None else f"{address}?token={token}")

        server = _Server(
            uvicorn.Config(
                app.create(service, access),
                log_level="warning",
                access_log=False,  # it would hold the token, and what visitors look for
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
                limit_concurrency=_CONNECTIONS,
                lifespan="on",
            ),
            ready,
        )
        try:
            server.run(sockets=[listener])
        finally:
            service.close()
        if not server.started:
            raise UdqError("the server did not start; what went wrong is said above")


def check_token(token: str) -> None:
    """Raise InputError where a token is none that keeps others out."""
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(
            f"--token: expected {_SHORTEST_TOKEN} or more letters and digits, found {len(token)}; such as one of: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port in use is known before anything is loaded."""
    try:
        # The protocol is said, as asyncio sends what is small at once only where it sees that it is TCP.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: no address to listen at ({error})") from error
    try:
        if os.name == "posix":  # elsewhere it would share the port with another server
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use, perhaps by another udq serve; give another one with --port, 0 for a free one"
            ) from error
        raise InputError(f"--host {host} --port {port}: {error.strerror}; give another one") from error
    return listener
