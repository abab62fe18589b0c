"""Errors as ``application/problem+json`` (RFC 9457): ``type`` links to docs/serve.md, ``detail`` is one line."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from udq.common.text import shown
from udq.errors import CollectionError, DependencyError, DiskError, ImageError, InputError, UdqError

MANUAL = "https://github.com/udq/udq/blob/main/docs/serve.md"

# Kinds of problems, which are anchors in the manual, and their HTTP statuses.
KINDS = {
    "bad-request": 400,
    "unauthorized": 401,
    "cross-origin": 403,
    "outside-folder": 403,
    "read-only": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "too-slow": 408,
    "conflict": 409,
    "photo-gone": 410,
    "too-large": 413,
    "misdirected": 421,
    "invalid": 422,
    "unreadable-photo": 422,
    "headers-too-large": 431,
    "internal": 500,
    "busy": 503,
    "unavailable": 503,
    "no-room": 507,
}
_KIND_BY_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}
_KIND_BY_ERROR: tuple[tuple[type[UdqError], str], ...] = (
    (InputError, "invalid"),
    (DependencyError, "invalid"),
    (ImageError, "unreadable-photo"),
    (CollectionError, "unavailable"),
    (DiskError, "no-room"),
    (UdqError, "internal"),
)
# What clients read of errors whose own words name paths of the server.
_GENERIC = {
    "unavailable": "the collection cannot be read; see the server's log",
    "no-room": "the server cannot write to its disk, which may be full; see the server's log",
    "internal": "internal error; see the server's log",
}

log = logging.getLogger("udq.web")


class Problem(HTTPException):
    """An error response."""

    def __init__(self, kind: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        """Describe the error.

        Args:
            kind: one of ``KINDS``.
            detail: one line: what was expected, what was found and what to do.
            headers: of the response, besides its content type.
        """
        super().__init__(KINDS[kind], detail, headers)
        self.kind = kind

    def response(self) -> Response:
        """Return the HTTP response."""
        body = {
            "type": f"{MANUAL}#{self.kind}",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": shown(self.detail),
        }
        return Response(json.dumps(body), self.status_code, self.headers, media_type="application/problem+json")


class Described(BaseModel):
    """The JSON of a problem, in OpenAPI."""

    type: str
    title: str
    status: int
    detail: str


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of a route for kinds of problems."""
    described = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Described"}}}
    statuses = sorted({KINDS[kind] for kind in kinds})
    return {status: {"description": HTTPStatus(status).phrase, "content": described} for status in statuses}


def from_error(error: UdqError) -> Problem:
    """Return the problem for an error of the library; errors about the server itself go to its log alone."""
    kind = next(kind for family, kind in _KIND_BY_ERROR if isinstance(error, family))
    if kind in _GENERIC:
        log.error("%s", shown(str(error)))
    return Problem(kind, _GENERIC.get(kind, str(error)))


def internal_error(error: Exception, method: str, path: str) -> Problem:
    """Log an unexpected exception, which is a bug in the server, and return the problem for it."""
    log.error("%s %s: %s", method, shown(path), type(error).__name__, exc_info=error)
    return Problem("internal", "internal error; see the server's log")


def route_of(request: Request) -> str:
    """Return the path of a request's route, for the log: the path of an upload contains its id, which is a secret."""
    return str(getattr(request.scope.get("route"), "path", "(none)"))


def install(app: FastAPI) -> None:
    """Make an application return every error as a problem."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UdqError)
        return from_error(error).response()

    async def on_disconnect(request: Request, error: Exception) -> Response:
        log.warning("%s %s: the client disconnected before its request was complete", request.method, route_of(request))
        return Problem("bad-request", "the client disconnected").response()

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return Problem("invalid", _validation_detail(error)).response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = _KIND_BY_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
        detail = {
            "not-found": f"{request.url.path}: no such path; docs/serve.md lists the paths of the API",
            "method-not-allowed": f"{request.url.path}: the path does not support {request.method}",
            "bad-request": "the body: expected JSON in UTF-8, found something else",
        }.get(kind, str(error.detail))
        return Problem(kind, detail, headers=dict(error.headers or {})).response()

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(UdqError, on_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _validation_detail(error: RequestValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body: expected JSON, found a syntax error at character {first['loc'][-1]}"
    location = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{location}: {message}" if location else message
