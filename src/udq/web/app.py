"""The app: page, API, health and metrics, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response as AnyResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from udq._version import __version__
from udq.web import problems, uploads
from udq.web.api import routes, schema
from udq.web.guard import Access, Guard, ObserveRequests
from udq.web.problems import Problem, documented
from udq.web.service import Service

PAGE = Path(__file__).parent / "static"
# What every request may be refused for, and what every one with a body.
_ACCESS = ("unauthorized", "misdirected")
_BODY = ("bad-request", "cross-origin", "too-large", "too-slow")
# By suffix, whatever the system's own tables say.
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain",
}


def create(service: Service, access: Access) -> FastAPI:
    """Return the app of a service.

    Args:
        service: what it serves; started and ended with it.
        access: who may ask.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="udq",
        version=__version__,
        description="Object instance search: draw a box round an object, get every photo that shows that very object.",
        lifespan=lifespan,
        openapi_url=f"{routes.PREFIX}/openapi.json",
        docs_url=None,  # pages of FastAPI's load scripts of third parties
        redoc_url=None,
    )
    problems.handle(app)
    app.include_router(routes.router(service))
    app.include_router(_operating(service))
    app.mount("/", _Page(directory=PAGE, html=True, check_dir=False), "page")
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    # The last one is the first that sees a request.
    app.add_middleware(
        Guard, access=access, upload_bytes=uploads.MOST_BYTES, upload_paths=(routes.UPLOADS, routes.PHOTOS)
    )
    app.add_middleware(ObserveRequests, metrics=service.metrics)
    return app


def _operating(service: Service) -> Any:
    from fastapi import APIRouter

    router = APIRouter()

    @router.get("/healthz", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def healthz() -> Response:
        """Answer while the server runs."""
        return Response("ok\n", media_type="text/plain")

    @router.get(
        "/readyz",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **documented("unavailable")},
    )
    async def readyz() -> Response:
        """Answer whether searches are answered, of the collection as it is now."""
        await service.now()
        if not service.ready:
            raise Problem("unavailable", "the server is starting or stopping")
        if service.living.trouble is not None:
            raise Problem(
                "unavailable", "the collection cannot be read; answers are of its last good state; see the log"
            )
        return Response("ready\n", media_type="text/plain")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counts and times in Prometheus's text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


class _Page(StaticFiles):
    """The page's files, which come with the package."""

    async def get_response(self, path: str, scope: Scope) -> AnyResponse:
        answer = await super().get_response(path, scope)
        if path.startswith("api/"):
            raise HTTPException(404)
        return answer

    def file_response(self, full_path: Any, *rest: Any, **more: Any) -> AnyResponse:
        answer = super().file_response(full_path, *rest, **more)
        suffix = Path(full_path).suffix
        if answer.status_code == 200:
            kind = _TYPES.get(suffix, "application/octet-stream")
            answer.headers["content-type"] = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        # Another version of udq brings another page: a browser asks whether it has changed.
        answer.headers["cache-control"] = "no-cache"
        return answer


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the description of the API, in which every error is a problem and every route may be refused."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        found["components"]["schemas"] |= schema.components(problems.Described)
        for path, methods in found["paths"].items():
            for route in methods.values():
                answers = route["responses"]
                if "requestBody" in route:
                    answers |= {str(status): told for status, told in documented(*_BODY).items()}
                if "422" in answers:
                    answers |= {str(status): told for status, told in documented("invalid").items()}
                if path not in ("/healthz", "/readyz"):
                    answers |= {str(status): told for status, told in documented(*_ACCESS).items()}
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{}, {"token": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(unused, None)
        app.openapi_schema = found
    return app.openapi_schema
