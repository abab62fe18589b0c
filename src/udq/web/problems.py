"""Errors as ``application/problem+json`` (RFC 9457): a type that the manual explains, and a detail in plain words."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from udq.common.text import shown
from udq.errors import CollectionError, DependencyError, DiskError, ImageError, InputError, UdqError

MANUAL = "https://github.com/udq/udq/blob/main/docs/serve.md"

# Each kind of problem, which is its heading in the manual, and its status.
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
    "internal": 500,
    "busy": 503,
    "unavailable": 503,
    "no-room": 507,
}
_OF_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}
_OF_ERROR: tuple[tuple[type[UdqError], str], ...] = (
    (InputError, "invalid"),
    (DependencyError, "invalid"),
    (ImageError, "unreadable-photo"),
    (CollectionError, "unavailable"),
    (DiskError, "no-room"),
    (UdqError, "internal"),
)

log = logging.getLogger("udq.web")


class Problem(HTTPException):
    """What went wrong, for whoever asked."""

    def __init__(self, kind: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        """Name it.

        Args:
            kind: one of ``KINDS``.
            detail: what was expected, what was found and what to do, in a line.
            headers: of the answer, besides its type.
        """
        super().__init__(KINDS[kind], detail, headers)
        self.kind = kind

    def response(self) -> Response:
        """Return the answer."""
        body = {
            "type": f"{MANUAL}#{self.kind}",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": shown(self.detail),
        }
        return Response(json.dumps(body), self.status_code, self.headers, media_type="application/problem+json")


class Described(BaseModel):
    """A problem, as it is described in OpenAPI."""

    type: str
    title: str
    status: int
    detail: str


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of the problems of a route."""
    described = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Described"}}}
    statuses = sorted({KINDS[kind] for kind in kinds})
    return {status: {"description": HTTPStatus(status).phrase, "content": described} for status in statuses}


def of(error: UdqError) -> Problem:
    """Return an error of the library as a problem."""
    return Problem(next(kind for family, kind in _OF_ERROR if isinstance(error, family)), str(error))


def crashed(error: Exception, method: str, path: str) -> Problem:
    """Return a mistake of ours as a problem, and log it."""
    log.error("%s %s: %s", method, shown(path), type(error).__name__, exc_info=error)
    return Problem("internal", "something went wrong in the server; its log says more")


def handle(app: FastAPI) -> None:
    """Have an app answer every error with a problem."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, UdqError)
        return of(error).response()

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return Problem("invalid", _in_words(error)).response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = _OF_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
        detail = {
            "not-found": f"{request.url.path}: nothing is here",
            "method-not-allowed": f"{request.url.path}: {request.method} is not among what it answers to",
            "bad-request": "the request: expected JSON in UTF-8, found something else",
        }.get(kind, str(error.detail))
        return Problem(kind, detail, headers=dict(error.headers or {})).response()

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(UdqError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _in_words(error: RequestValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body: expected JSON, found a mistake at character {first['loc'][-1]}"
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
