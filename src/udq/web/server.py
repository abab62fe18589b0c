"""``udq serve``: run the web server until Ctrl-C or SIGTERM."""

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

# Seconds that responses in progress have to finish when the server stops.
_GRACE = 10
# Concurrent connections; a browser opens six.
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
    """Serve a collection; returns after Ctrl-C or SIGTERM.

    Args:
        collection: what to serve.
        host: address to listen on; any other than loopback requires a token.
        port: 0 selects a free one.
        token: the secret that clients must send; None allows every client on this machine.
        write_to: folder for photos added over HTTP; None serves the collection read-only.
        open_browser: whether to open the page once the server is ready.
        say: called with the server's address once it is ready.

    Raises:
        InputError: an address that cannot be listened on, a missing or short token, or a folder that is not writable.
    """
    _check_options(host, token, write_to)
    with listen(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        # Its warnings are about malformed forms, which the client receives as a problem.
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
                access_log=False,  # it would contain tokens and names of photos
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
            raise UdqError("the server did not start; the error is printed above")


def _check_options(host: str, token: str | None, write_to: Path | None) -> None:
    """Raise InputError if a token is missing or weak, or the folder for added photos is not writable."""
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host {host}: other machines can reach this address; set a token with --token or UDQ_TOKEN, for example "
            "one from: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is not None:
        check_token(token)
    if write_to is not None and not (write_to.is_dir() and os.access(write_to, os.W_OK)):
        raise InputError(f"--allow-write {write_to}: expected an existing, writable folder for added photos")


def check_token(token: str) -> None:
    """Raise InputError if a token is too short, or not printable ASCII."""
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(
            f"--token: expected {_SHORTEST_TOKEN} or more letters and digits, found {len(token)}; use one from: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


class _Server(uvicorn.Server):
    """Calls a function once the server is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; opened before the model is loaded, so that a port in use is reported at once."""
    try:
        # asyncio sets TCP_NODELAY only on sockets with an explicit protocol; without it small responses take 40 ms.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: no address to listen on ({error}); use another one") from error
    try:
        if os.name == "posix":  # on Windows it would share the port with another server
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use, perhaps by another udq serve; use another one with --port, or 0 for a free one"
            ) from error
        raise InputError(f"--host {host} --port {port}: {error.strerror}; use another address or port") from error
    return listener
