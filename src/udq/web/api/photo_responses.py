"""Responses that are photos: with byte ranges, and 304 Not Modified if the client's copy is current."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from udq.types import Box
from udq.web.problems import route_of
from udq.web.queue import never_disconnected
from udq.web.renditions import PhotoFile, etag
from udq.web.service import Service

log = logging.getLogger("udq.web")

# The photo at an address can change; after ten minutes a browser revalidates its copy by ETag.
_CACHED = "private, max-age=600"
# One byte range: first and last byte, or how many at the end.
_RANGE = re.compile(r"(?=-?[0-9])([0-9]{0,18})-([0-9]{0,18})")
# A photo opened in a tab of its own cannot run scripts, whatever the file contains.
_INERT = {"content-security-policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; sandbox"}


async def file(service: Service, request: Request, photo: PhotoFile, width: int | None) -> Response:
    """Return the file of a photo if browsers know its format and no width is given, otherwise a JPEG."""
    renditions = service.renditions
    media_type = None
    if width is None:
        media_type = await service.render(never_disconnected, partial(renditions.media_type, photo))
    if media_type is None:
        return await _rendition(service, request, photo, ("scaled", width), partial(renditions.scaled, photo, width))
    tag = etag(photo, "file")
    if _is_current(request, tag):
        return _not_modified(tag)
    headers = {"etag": tag, "cache-control": _CACHED, **_INERT}
    return _PhotoResponse(photo.path, headers=headers, media_type=media_type, stat_result=photo.stat)


class _PhotoResponse(FileResponse):
    """A file that may be deleted or change its length while it is sent.

    If bytes that were announced are missing, the connection is closed, and the log has one line; further ones are not
    sent. A malformed ``Range`` is ignored (RFC 9110, section 14.2): the whole file is sent.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        if _is_malformed(Headers(scope=scope).get("range", "")):
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
        missing, complete = 0, False

        async def counted_send(message: Message) -> None:
            nonlocal missing, complete
            if message["type"] == "http.response.start":
                missing = int(Headers(raw=message["headers"])["content-length"])
            elif message["type"] == "http.response.body":
                body = bytes(message["body"][:missing])
                missing -= len(body)
                if missing and not message.get("more_body"):
                    raise EOFError("it has become shorter")
                if complete:
                    return
                complete = not missing
                message = {"type": message["type"], "body": body, "more_body": not complete}
            await send(message)

        try:
            await super().__call__(scope, receive, counted_send)
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            log.warning("GET %s: the photo could not be sent to its end: %s", route_of(Request(scope)), reason)


def _is_malformed(header: str) -> bool:
    """Whether a ``Range`` header is not a list of byte ranges, or has one whose end is before its start."""
    unit, _, listed = header.partition("=")
    found = [_RANGE.fullmatch(each.strip()) for each in listed.split(",")]
    if unit.strip().lower() != "bytes" or not all(found):
        return True
    return any(each and each[1] and each[2] and int(each[1]) > int(each[2]) for each in found)


async def thumbnail(service: Service, request: Request, photo: PhotoFile, box: Box | None) -> Response:
    """Return a small JPEG of a photo, or of the contents of a box in it."""
    make = partial(service.renditions.thumbnail, photo, box)
    return await _rendition(service, request, photo, ("thumbnail", box), make)


async def _rendition(
    service: Service, request: Request, photo: PhotoFile, variant: object, make: Callable[[], bytes]
) -> Response:
    tag = etag(photo, variant)
    if _is_current(request, tag):
        return _not_modified(tag)
    data = await service.render(request.is_disconnected, make)
    return Response(data, headers={"etag": tag, "cache-control": _CACHED, **_INERT}, media_type="image/jpeg")


def _is_current(request: Request, tag: str) -> bool:
    """Whether the client's copy has this ETag, by ``If-None-Match``."""
    tags = request.headers.get("if-none-match", "")
    return tags.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in tags.split(","))


def _not_modified(tag: str) -> Response:
    return Response(status_code=304, headers={"etag": tag, "cache-control": _CACHED})
