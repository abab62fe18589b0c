"""Routes for operating a server: health, readiness and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from udq.web.api.dependencies import AppService
from udq.web.problems import Problem, documented

_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

router = APIRouter()


@router.get("/healthz", response_class=Response, responses=_TEXT)
async def healthz() -> Response:
    """Succeed while the server runs."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz", response_class=Response, responses=_TEXT | documented("unavailable"))
async def readyz(service: AppService) -> Response:
    """Succeed while the server answers searches of the current state of the collection."""
    await service.view()
    if not service.ready:
        raise Problem("unavailable", "the server is starting or stopping")
    if service.live.error is not None:
        raise Problem(
            "unavailable", "the collection on disk cannot be read; its last good state is served; see the server's log"
        )
    return Response("ready\n", media_type="text/plain")


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics(service: AppService) -> Response:
    """Return counts and latencies in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
