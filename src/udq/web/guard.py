"""Who may ask for what, before anything else sees a request: Host, token, Origin, size; and headers of every answer.

A page of a stranger in the same browser can send requests to this machine. It cannot read the answers, as none allows
another origin to; it may not change anything, which Sec-Fetch-Site and Origin tell; and a name of its own that it has
point to this machine (DNS rebinding) is not the Host that this server answers to.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udq.web.metrics import Metrics
from udq.web.problems import Problem, crashed

# What a request may carry besides photos.
MOST_BYTES = 2**20
# Seconds that it may take to come in.
SECONDS = 60.0

_ALWAYS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
# Asked for by probes, which have no token; they tell nothing but whether the server answers.
_OPEN = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = frozenset(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        host: the address that the server listens at.
        token: what they must know; None where everybody on this machine may ask.
        cookie: name of the cookie that stands for the token in a browser; each port has its own.
    """

    host: str
    token: str | None
    cookie: str

    def answers_to(self, host: str | None) -> bool:
        """Whether a Host header names this server: by loopback's names, or, where it listens elsewhere, its own.

        A name of someone else that points here is refused. An address in numbers cannot be one.
        """
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return True

    def allows(self, headers: Headers) -> bool:
        """Whether a request brings the token, or the cookie that stands for it."""
        if self.token is None:
            return True
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(said.strip(), self.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self.pass_of(self.token))

    @staticmethod
    def pass_of(token: str) -> str:
        """Return what the cookie says: the token cannot be told from it."""
        return hmac.new(token.encode(), b"udq serve", hashlib.sha256).hexdigest()


def _same(said: str, known: str) -> bool:
    return hmac.compare_digest(said.encode("utf-8", "surrogatepass"), known.encode())


class Guard:
    """Refuses what must not reach the app."""

    def __init__(self, app: ASGIApp, access: Access, *, upload_bytes: int, upload_paths: tuple[str, ...]) -> None:
        """Stand before an app.

        Args:
            app: what answers.
            access: who may ask.
            upload_bytes: that a request with a photo may have.
            upload_paths: where photos are sent to.
        """
        self._app = app
        self._access = access
        # What stands round a photo in a form, besides it.
        self._most = dict.fromkeys(upload_paths, upload_bytes + 2**16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(scope, headers)
            if self._enters(scope):
                await self._admitted()(scope, receive, send)
                return
            self._check(scope, headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, _limited(receive, self._most.get(scope["path"], MOST_BYTES), headers), send)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] not in _OPEN and not self._access.answers_to(headers.get("host")):
            raise Problem(
                "misdirected",
                "the Host header names another server than this one; use the address that udq serve printed, and see "
                "that a proxy in front passes that on as the Host",
            )

    def _check(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in _OPEN:
            return
        if not self._access.allows(headers):
            raise Problem(
                "unauthorized",
                "this server wants its token: open /?token=TOKEN in the browser once, or send the header "
                "'Authorization: Bearer TOKEN'",
                headers={"www-authenticate": 'Bearer realm="udq"'},
            )
        if scope["method"] not in _SAFE and not _from_here(headers):
            raise Problem("cross-origin", "the request comes from a page of another site, which may do nothing here")

    def _enters(self, scope: Scope) -> bool:
        """Whether a browser brings the token in the address of the page."""
        token = self._access.token
        if token is None or scope["path"] != "/":
            return False
        return _same(parse_qs(scope["query_string"].decode("ascii", "replace")).get("token", [""])[0], token)

    def _admitted(self) -> HTMLResponse:
        """Give the cookie for the token, and go on to the page without it in the address."""
        assert self._access.token is not None
        # Not a redirect: where another site's link led here, the browser would send no strict cookie along with it.
        answer = HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>udq</title>')
        answer.headers["cache-control"] = "no-store"
        answer.set_cookie(
            self._access.cookie,
            self._access.pass_of(self._access.token),
            max_age=30 * 24 * 3600,
            httponly=True,
            samesite="strict",
        )
        return answer


def _from_here(headers: Headers) -> bool:
    """Whether a request is of our own page or of a program, by what browsers say of it and pages cannot change."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _limited(receive: Receive, most: int, headers: Mapping[str, str]) -> Receive:
    """Give what is received until it is too much or takes too long."""
    import asyncio

    received = 0
    deadline = time.monotonic() + SECONDS
    said = headers.get("content-length", "")
    ended = False

    async def limited() -> Message:
        nonlocal received, ended
        if said.isascii() and said.isdigit() and int(said) > most:
            raise _too_large(most)
        if ended:  # what comes now is that the other side has gone, whenever it does
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise Problem("too-slow", f"the request did not come in within {SECONDS:g} s; send it again") from None
        received += len(message.get("body", b""))
        if received > most:
            raise _too_large(most)
        ended = not message.get("more_body", False)
        return message

    return limited


def _too_large(most: int) -> Problem:
    return Problem(
        "too-large",
        f"the request is larger than the {most / 2**20:.3g} MiB that it may be; send a smaller photo",
        headers={"connection": "close"},
    )


class ObserveRequests:
    """Counts requests, answers where the app fails, and gives every answer the headers that keep browsers strict."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before an app and its guard."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the app answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        started = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, noted)
            except Exception as error:
                problem = crashed(error, scope["method"], scope["path"])
                if not status:
                    await problem.response()(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", "(none)")
                method = scope["method"] if scope["method"] in _METHODS else "(other)"
                self._metrics.requests.labels(method, route, status or 499).inc()
                self._metrics.latency.labels(route).observe(time.perf_counter() - started)
