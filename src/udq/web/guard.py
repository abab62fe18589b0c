"""Request guard: Host, token and origin are checked before the application; security headers on every response.

A page of another site in the same browser can send requests to this machine. It cannot read the responses, because none
allows another origin. It cannot change or search anything, because browsers mark its requests with Sec-Fetch-Site and
Origin. A host name of its own that resolves to this machine (DNS rebinding) is not a Host that this server accepts.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import time
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udq.web.edge.addresses import is_loopback, name_in
from udq.web.edge.headers import SECURITY_HEADERS
from udq.web.edge.receiving import PROBES
from udq.web.metrics import Metrics
from udq.web.problems import Problem, internal_error

# Bytes of the query string with the token.
_MAX_QUERY = 2**12
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_METHODS = frozenset(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])


@dataclass(frozen=True)
class Access:
    """Which requests are allowed.

    Attributes:
        host: the address that the server listens on.
        token: the secret that clients must send; None allows every client that can reach the server.
        cookie: name of the cookie that replaces the token in browsers; it contains the port, because browsers share
            cookies between the ports of a host.
        origins: trusted origins under which browsers reach this server through a proxy, as ``origin_of`` returns them.
        root_path: path below which they do, as ``root_path_of`` returns it.
    """

    host: str
    token: str | None
    cookie: str
    origins: tuple[str, ...] = ()
    root_path: str = ""

    def answers_to(self, host: str | None) -> bool:
        """Whether a Host header names this server.

        The loopback names and those of the trusted origins always do. If the server listens on another address, so do
        its own names and all numeric addresses: DNS rebinding needs a name.
        """
        name = name_in(host)
        if name is None:
            return False
        if is_loopback(name) or name in {name_in(origin.partition("://")[2]) for origin in self.origins}:
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == self.host.lower() or name in _machine_names()
        return True

    def is_own_page(self, headers: Headers) -> bool:
        """Whether a request comes from the server's own page or a program, by headers that pages cannot set."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        # Browsers send no Sec-Fetch-Site to http:// addresses other than loopback.
        origin, host = headers.get("origin"), headers.get("host")
        return origin is None or origin in (f"http://{host}", f"https://{host}", *self.origins)

    def allows(self, headers: Headers) -> bool:
        """Whether a request has the token, or the cookie that replaces it."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self.token):
            return True
        # http.cookies.SimpleCookie of Python 3.11.9 and before takes 18 s for 64 KiB of backslashes (CVE-2024-7592).
        cookies = (cookie.strip().partition("=") for cookie in headers.get("cookie", "").split(";"))
        expected = self.cookie_value(self.token)
        return any(name == self.cookie and _equal(value, expected) for name, _, value in cookies)

    @staticmethod
    def cookie_value(token: str) -> str:
        """Return the value of the cookie for a token, from which the token cannot be computed."""
        return hmac.new(token.encode(), b"udq serve", hashlib.sha256).hexdigest()


@cache
def _machine_names() -> frozenset[str]:
    """Return the names of this machine; asks the name server, which can take seconds."""
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


class Guard:
    """ASGI middleware that refuses requests before they reach the application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Wrap an application; ``access`` says which requests are allowed."""
        self._app = app
        self._access = access
        if not is_loopback(access.host):
            _machine_names()  # now rather than during a request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with a problem, or pass the request to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(scope, headers)
            if self._is_login(scope):
                await self._login_response(scope)(scope, receive, send)
                return
            self._check(scope, headers)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        # The application uses no cookies, and FastAPI would parse them all.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] not in PROBES and not self._access.answers_to(headers.get("host")):
            raise Problem(
                "misdirected",
                "the Host header names another server; use the address that udq serve printed; behind a proxy, start "
                "udq serve with --origin and the address that browsers show",
            )

    def _check(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in PROBES:
            return
        if not self._access.allows(headers):
            raise Problem(
                "unauthorized",
                "this server requires a token: open /?token=TOKEN once in the browser, or send the header "
                "'Authorization: Bearer TOKEN'",
                headers={"www-authenticate": 'Bearer realm="udq"'},
            )
        if scope["method"] not in _SAFE_METHODS and not self._access.is_own_page(headers):
            raise Problem(
                "cross-origin",
                "the request comes from a page of another site, which may not use this server; behind a proxy, start "
                "udq serve with --origin and the address that browsers show",
            )

    def _is_login(self, scope: Scope) -> bool:
        """Whether a request for the page has the token in its address."""
        token = self._access.token
        if token is None or scope["path"] != "/" or len(scope["query_string"]) > _MAX_QUERY:
            return False
        return _equal(parse_qs(scope["query_string"].decode("ascii", "replace")).get("token", [""])[0], token)

    def _login_response(self, scope: Scope) -> HTMLResponse:
        """Return a response that sets the cookie and opens the page again without the token in its address."""
        assert self._access.token is not None
        page = f"{self._access.root_path}/"
        # Not a redirect: after a link from another site, browsers follow it without SameSite=strict cookies.
        response = HTMLResponse(f'<!doctype html><meta http-equiv="refresh" content="0;url={page}"><title>udq</title>')
        response.headers["cache-control"] = "no-store"
        response.set_cookie(
            self._access.cookie,
            self._access.cookie_value(self._access.token),
            max_age=30 * 24 * 3600,
            path=page,
            secure=scope["scheme"] == "https",  # from the header X-Forwarded-Proto of a proxy on this machine
            httponly=True,
            samesite="strict",
        )
        return response


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
                for name, value in SECURITY_HEADERS.items():
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
