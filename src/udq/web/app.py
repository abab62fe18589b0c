"""The FastAPI application: page, HTTP API, health checks and metrics, behind the request guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from udq._version import __version__
from udq.web import problems, uploads
from udq.web.api import operations, routes, schema
from udq.web.edge.head import HeadAsGet
from udq.web.edge.receiving import LimitRequests
from udq.web.edge.subpath import SubPath
from udq.web.guard import Access, Guard, ObserveRequests
from udq.web.problems import documented
from udq.web.service import Service

PAGE = Path(__file__).parent / "static"
# Problems that any request can run into, and those that only requests with a body can.
_ACCESS = ("unauthorized", "misdirected", "headers-too-large", "busy")
_BODY = ("bad-request", "cross-origin", "too-large", "too-slow")
# Content types by suffix, independent of the MIME tables of the operating system.
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
    """Return the application of a service.

    Args:
        service: what the routes use (``app.state.service``); started and closed with the application.
        access: which requests are allowed.
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
        docs_url=None,  # FastAPI's documentation pages load scripts from third parties
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    app.include_router(routes.router)
    app.include_router(operations.router)
    app.mount("/", _Page(directory=PAGE, html=True, check_dir=False), "page")
    app.openapi = lambda: _openapi(app, access.root_path)  # type: ignore[method-assign]
    # Middleware that is added last receives each request first.
    app.add_middleware(LimitRequests, upload_bytes=uploads.MAX_BYTES, upload_paths=(routes.UPLOADS, routes.PHOTOS))
    app.add_middleware(Guard, access=access)
    app.add_middleware(ObserveRequests, metrics=service.metrics)
    app.add_middleware(SubPath, root_path=access.root_path)
    app.add_middleware(HeadAsGet)
    return app


class _Page(StaticFiles):
    """The static files of the page, which are part of the package."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if path.startswith("api/"):
            raise HTTPException(404)
        return response

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        suffix = Path(full_path).suffix
        if response.status_code == 200:
            kind = _TYPES.get(suffix, "application/octet-stream")
            response.headers["content-type"] = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        # Browsers revalidate on every visit: another version of udq has another page.
        response.headers["cache-control"] = "no-cache"
        return response


def _openapi(app: FastAPI, root_path: str) -> dict[str, Any]:
    """Return the OpenAPI document, with errors as problems and those of the guard on every route; computed once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["components"]["schemas"] |= schema.components(problems.Described)
        for path, methods in document["paths"].items():
            for operation in methods.values():
                responses = operation["responses"]
                kinds = _BODY if "requestBody" in operation else ()
                if "422" in responses:  # FastAPI's own validation error is a problem, too
                    kinds = (*kinds, "invalid")
                if path not in ("/healthz", "/readyz"):
                    kinds = (*kinds, *_ACCESS)
                responses |= {str(status): response for status, response in documented(*kinds).items()}
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["servers"] = [{"url": root_path or "/"}]
        document["security"] = [{}, {"token": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema
