"""``udq serve``: run the web server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import gc
import logging
import os
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from udq.collection import Collection
from udq.errors import InputError, UdqError
from udq.web import app
from udq.web.edge import addresses, room
from udq.web.edge.listening import listening
from udq.web.edge.protocol import KEEP_ALIVE, LimitedProtocol, State
from udq.web.guard import Access
from udq.web.service import Service

# Seconds that responses in progress have to finish when the server stops.
_GRACE = 10
# Connections accepted in one turn of the event loop.
_ACCEPTED_AT_ONCE = 64
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
    origins: Sequence[str] = (),
    root_path: str = "",
) -> None:
    """Serve a collection; returns after Ctrl-C or SIGTERM.

    Args:
        collection: what to serve.
        host: name or address to listen on, on all addresses of a name; any other than loopback requires a token.
        port: 0 selects a free one.
        token: the secret that clients must send; None allows every client on this machine.
        write_to: folder for photos added over HTTP; None serves the collection read-only.
        open_browser: whether to open the page once the server is ready.
        say: called with the server's address once it is ready.
        origins: addresses under which browsers reach the server through a proxy, such as https://photos.example.org.
        root_path: path below which they do, such as /udq.

    Raises:
        InputError: an address that cannot be listened on, a missing or short token, a folder that is not writable, or
            an invalid origin or path.
    """
    host = addresses.unbracketed(host)
    _check_options(host, token, write_to)
    trusted, root = tuple(map(addresses.origin_of, origins)), addresses.root_path_of(root_path)
    with listening(host, port) as listeners:
        chosen = listeners[0].getsockname()[1]
        address = addresses.url_of(host, chosen, root)
        # Its warnings are about malformed forms, which the client receives as a problem.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        access = Access(host, token, f"udq-{chosen}", trusted, root)
        service = Service.start(collection, write_to=write_to)

        def ready() -> None:
            say(address)
            if open_browser:
                webbrowser.open(address if token is None else f"{address}?token={token}")

        server = LimitedServer(app.create(service, access), ready)
        # A full garbage collection would stop all requests for half a second: torch alone has 300,000 objects.
        gc.collect()
        gc.freeze()
        try:
            server.run(sockets=listeners)
        finally:
            service.close()
        if not server.started:
            raise UdqError("the server did not start; the error is printed above")


def _check_options(host: str, token: str | None, write_to: Path | None) -> None:
    """Raise InputError if a token is missing or weak, or the folder for added photos is not writable."""
    if token is None and not addresses.is_loopback(host):
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


class LimitedServer(uvicorn.Server):
    """A server with the limits of ``edge``, which calls a function once it is ready."""

    def __init__(self, application: ASGIApp, ready: Callable[[], None] = lambda: None) -> None:
        """Set up a server of an application; ``run(sockets)`` runs it."""
        super().__init__(
            uvicorn.Config(
                application,
                http=LimitedProtocol,
                loop="asyncio",  # uvloop, if it is installed, would not read into the protocol's small buffer
                ws="none",
                log_level="error",  # of clients' mistakes, clients are informed
                access_log=False,  # it would contain tokens and names of photos
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE,
                backlog=_ACCEPTED_AT_ONCE,
                lifespan="on",
            )
        )
        self.server_state = State(room.Room(room.available()))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio uses one number for what it accepts in a turn and for what the system holds until then.
            listener.listen(socket.SOMAXCONN)
        if self.started:
            self._ready()
