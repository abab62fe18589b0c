"""Request guard: Host, token, origin and size are checked before the application; security headers on every response.

A page of another site in the same browser can send requests to this machine. It cannot read the responses, because none
allows another origin. It cannot change or search anything, because browsers mark its requests with Sec-Fetch-Site and
Origin. A host name of its own that resolves to this machine (DNS rebinding) is not a Host that this server accepts.
"""

from __future__ import annotations

import asyncio
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
from udq.web.problems import Problem, internal_error

# Bytes of a request without a photo.
MAX_BYTES = 2**20
# Seconds within which a request must arrive completely.
RECEIVE_TIMEOUT = 60.0

_SECURITY_HEADERS = {
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
# Paths for health probes, which have no token; they reveal only whether the server runs.
_PUBLIC = ("/healthz", "/readyz")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_METHODS = frozenset(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Which requests are allowed.

    Attributes:
        host: the address that the server listens on.
        token: the secret that clients must send; None allows every client that can reach the server.
        cookie: name of the cookie that replaces the token in browsers; it contains the port, because browsers share
            cookies between the ports of a host.
    """

    host: str
    token: str | None
    cookie: str

    def answers_to(self, host: str | None) -> bool:
        """Whether a Host header names this server.

        The loopback names always do. If the server listens on another address, so do its own names and all numeric
        addresses: DNS rebinding needs a name.
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
        """Whether a request has the token, or the cookie that replaces it."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self.cookie_value(self.token))

    @staticmethod
    def cookie_value(token: str) -> str:
        """Return the value of the cookie for a token, from which the token cannot be computed."""
        return hmac.new(token.encode(), b"udq serve", hashlib.sha256).hexdigest()


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


class Guard:
    """ASGI middleware that refuses requests before they reach the application."""

    def __init__(self, app: ASGIApp, access: Access, *, upload_bytes: int, upload_paths: tuple[str, ...]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            access: which requests are allowed.
            upload_bytes: limit for the bytes of an uploaded photo.
            upload_paths: paths that accept uploads.
        """
        self._app = app
        self._access = access
        # 64 KiB for the rest of the form.
        self._max_bytes = dict.fromkeys(upload_paths, upload_bytes + 2**16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with a problem, or pass the request to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(scope, headers)
            if self._is_login(scope):
                await self._login_response()(scope, receive, send)
                return
            self._check(scope, headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, _limited(receive, self._max_bytes.get(scope["path"], MAX_BYTES), headers), send)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] not in _PUBLIC and not self._access.answers_to(headers.get("host")):
            raise Problem(
                "misdirected",
                "the Host header names another server; use the address that udq serve printed, and configure any proxy "
                "in front of it to send that address as Host",
            )

    def _check(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in _PUBLIC:
            return
        if not self._access.allows(headers):
            raise Problem(
                "unauthorized",
                "this server requires a token: open /?token=TOKEN once in the browser, or send the header "
                "'Authorization: Bearer TOKEN'",
                headers={"www-authenticate": 'Bearer realm="udq"'},
            )
        if scope["method"] not in _SAFE_METHODS and not _is_same_origin(headers):
            raise Problem(
                "cross-origin", "the request comes from a page of another site, which may not use this server"
            )

    def _is_login(self, scope: Scope) -> bool:
        """Whether a request for the page has the token in its address."""
        token = self._access.token
        if token is None or scope["path"] != "/":
            return False
        return _equal(parse_qs(scope["query_string"].decode("ascii", "replace")).get("token", [""])[0], token)

    def _login_response(self) -> HTMLResponse:
        """Return a response that sets the cookie and opens the page again without the token in its address."""
        assert self._access.token is not None
        # Not a redirect: after a link from another site, browsers follow it without SameSite=strict cookies.
        response = HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>udq</title>')
        response.headers["cache-control"] = "no-store"
        response.set_cookie(
            self._access.cookie,
            self._access.cookie_value(self._access.token),
            max_age=30 * 24 * 3600,
            httponly=True,
            samesite="strict",
        )
        return response


def _is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from the server's own page or from a program, by headers that pages cannot set."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _limited(receive: Receive, max_bytes: int, headers: Mapping[str, str]) -> Receive:
    """Return ``receive`` with limits of bytes and time; it raises Problem beyond them."""
    received = 0
    deadline = time.monotonic() + RECEIVE_TIMEOUT
    length = headers.get("content-length", "")
    complete = False

    async def limited() -> Message:
        nonlocal received, complete
        if length.isascii() and length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        if complete:  # the next message is the client's disconnection, for which there is no deadline
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
        except TimeoutError:
            raise Problem(
                "too-slow", f"the request did not arrive within {RECEIVE_TIMEOUT:g} s; send it again"
            ) from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        complete = not message.get("more_body", False)
        return message

    return limited


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        "too-large",
        f"the request: expected at most {max_bytes / 2**20:.3g} MiB, found more; send a smaller photo",
        headers={"connection": "close"},
    )


class ObserveRequests:
    """ASGI middleware that counts and times requests, reports crashes as problems, and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application and its guard."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        started = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, observed_send)
            except Exception as error:
                problem = internal_error(error, scope["method"], scope["path"])
                if not status:
                    await problem.response()(scope, receive, observed_send)
            finally:
                route = getattr(scope.get("route"), "path", "(none)")
                method = scope["method"] if scope["method"] in _METHODS else "(other)"
                self._metrics.requests.labels(method, route, status or 499).inc()
                self._metrics.latency.labels(route).observe(time.perf_counter() - started)
