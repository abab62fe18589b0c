"""Answers that are photos: with a range, where one is asked for, and without a body where the browser has it still."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from udq.types import Box
from udq.web.renditions import Shown, tag
from udq.web.service import Service

# A photo may change under its address; a browser asks again after ten minutes, and learns by the ETag that it has not.
_CACHED = "private, max-age=600"
# Whatever a file is, shown alone in a tab it may do nothing.
_INERT = {"content-security-policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; sandbox"}


async def file(service: Service, request: Request, photo: Shown, width: int | None) -> Response:
    """Answer with a photo's file where browsers know its format and no width is asked for, else with a JPEG."""
    media_type = None if width is not None else await service.draw(never, partial(service.pictures.as_is, photo))
    if media_type is None:
        return await _drawn(service, request, photo, ("scaled", width), lambda: service.pictures.scaled(photo, width))
    etag = tag(photo, "file")
    if _has(request, etag):
        return _unchanged(etag)
    headers = {"etag": etag, "cache-control": _CACHED, **_INERT}
    return FileResponse(photo.path, headers=headers, media_type=media_type, stat_result=photo.stat)


async def thumbnail(service: Service, request: Request, photo: Shown, box: Box | None) -> Response:
    """Answer with a small JPEG of a photo, or of what is inside a box of it."""
    work = partial(service.pictures.thumbnail, photo, box)
    return await _drawn(service, request, photo, ("thumbnail", box), work)


async def _drawn(service: Service, request: Request, photo: Shown, what: object, work: Callable[[], bytes]) -> Response:
    etag = tag(photo, what)
    if _has(request, etag):
        return _unchanged(etag)
    data = await service.draw(request.is_disconnected, work)
    return Response(data, headers={"etag": etag, "cache-control": _CACHED, **_INERT}, media_type="image/jpeg")


def _has(request: Request, etag: str) -> bool:
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in known.split(","))


def _unchanged(etag: str) -> Response:
    return Response(status_code=304, headers={"etag": etag, "cache-control": _CACHED})


async def never() -> bool:
    """Tell of work that is done whether or not somebody waits for it."""
    return False
