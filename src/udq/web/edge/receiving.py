"""Limits of requests that arrive and of requests in work: bytes, seconds, memory and number."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udq.web.problems import Problem

# Bytes of a request without a photo.
MAX_BYTES = 2**20
# Seconds within which a request must arrive completely.
RECEIVE_TIMEOUT = 60.0
# Seconds after which its bytes must have arrived at this rate per second.
SLOW_START = 10.0
MIN_RATE = 2**13
# Requests in work. There is room for more connections, so that /healthz is answered however much there is to do.
MAX_REQUESTS = 500
# Bytes of bodies in memory beyond the first bytes of each, for all requests together; photos are written to disk.
MEMORY = 64 * 2**20
_FREE = 2**16
# Paths for health probes, which have no token and no limit on their number.
PROBES = ("/healthz", "/readyz")


class LimitRequests:
    """ASGI middleware that bounds what admitted requests take until they are answered."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, upload_paths: tuple[str, ...]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            upload_bytes: limit for the bytes of an uploaded photo.
            upload_paths: paths that accept uploads.
        """
        self._app = app
        # 64 KiB for the rest of the form.
        self._max_bytes = dict.fromkeys(upload_paths, upload_bytes + 2**16)
        self._shared = _Shared()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or respond with a problem."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        max_bytes = self._max_bytes.get(scope["path"])
        request = _Request(self._shared, headers, max_bytes or MAX_BYTES, receive, send, on_disk=max_bytes is not None)
        try:
            if "content-length" not in headers and "transfer-encoding" not in headers:
                request.begin()
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            request.end()


@dataclass
class _Shared:
    """What all requests take together.

    Attributes:
        in_work: requests that have arrived completely and whose response has not begun.
        memory: bytes of bodies in memory beyond the first ones of each.
    """

    in_work: int = 0
    memory: int = 0


class _Request:
    """A request: arrives, is in work, and is answered."""

    def __init__(
        self, shared: _Shared, headers: Headers, max_bytes: int, receive: Receive, send: Send, *, on_disk: bool
    ) -> None:
        self._shared = shared
        self._max_bytes = max_bytes
        self._receive, self._send = receive, send
        self._on_disk = on_disk
        length = headers.get("content-length", "")
        self._announced = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
        self._received = self._memory = 0
        self._started = time.monotonic()
        self._complete = self._begun = self._in_work = False

    async def receive(self) -> Message:
        """Return the next message; raises Problem if the body is too long or too slow, or the server is busy."""
        if self._announced > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._complete:  # the next message is the client's disconnection, for which there is no deadline
            return await self._receive()
        allowed = min(RECEIVE_TIMEOUT, SLOW_START + self._received / MIN_RATE)
        try:
            async with asyncio.timeout(max(0.001, self._started + allowed - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                "too-slow",
                f"the request: expected it within {RECEIVE_TIMEOUT:g} s and, after the first {SLOW_START:g} s, at "
                f"{MIN_RATE // 2**10} KiB/s or more; {self._received} bytes arrived in {allowed:.3g} s; send it again",
            ) from None
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        if self._complete and not self._begun:
            self.begin()
        return message

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > self._max_bytes:
            raise _too_large(self._max_bytes)
        if not self._on_disk and self._received > _FREE:
            self._shared.memory += self._received - _FREE - self._memory
            self._memory = self._received - _FREE
            if self._shared.memory > MEMORY:
                raise _busy("the requests that are arriving fill their memory")

    def begin(self) -> None:
        """Count the request as one in work; raises Problem if there are too many."""
        if self._shared.in_work >= MAX_REQUESTS:
            raise _busy(f"{MAX_REQUESTS} requests are in work")
        self._shared.in_work += 1
        self._begun = self._in_work = True

    async def send(self, message: Message) -> None:
        """Send a part of the response; with the first one, the request is no longer in work."""
        self.end()
        await self._send(message)

    def end(self) -> None:
        """Return what the request took; can be called twice."""
        self._shared.in_work -= self._in_work
        self._shared.memory -= self._memory
        self._in_work, self._memory = False, 0


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        "too-large", f"the request: expected at most {max_bytes / 2**20:.3g} MiB, found more; send a smaller photo"
    )


def _busy(reason: str) -> Problem:
    return Problem("busy", f"{reason}; try again in 1 s", headers={"retry-after": "1"})
