"""The API, ``/api/v1``: what each address takes and answers."""

from __future__ import annotations

import asyncio
import datetime
import json
from bisect import bisect_right
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from udq._version import __version__
from udq.common.text import shown
from udq.errors import InputError
from udq.photos import boxes, source
from udq.store.segments import Image
from udq.types import Box, SearchResult
from udq.web import uploads
from udq.web.api import export, photo_responses, schema
from udq.web.live_collection import CollectionView
from udq.web.problems import Problem, documented
from udq.web.queue import QueryPhoto
from udq.web.renditions import LARGEST, Shown
from udq.web.service import Service, shown_of

PREFIX = "/api/v1"
UPLOADS = f"{PREFIX}/uploads"
PHOTOS = f"{PREFIX}/photos"

PhotoId = Annotated[int, InPath(ge=0, lt=2**63, description="id of a photo of the collection")]
UploadId = Annotated[str, InPath(max_length=64, description="what POST /api/v1/uploads answered")]
Width = Annotated[
    int | None,
    Query(ge=1, le=LARGEST, description="a JPEG of at most so many pixels in width, not the file; never enlarged"),
]
BoxText = Annotated[str | None, Query(max_length=200, description="x1,y1,x2,y2: only what is inside this box")]

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": _BYTES}}}
_PHOTO: dict[int | str, dict[str, Any]] = {
    200: {"content": {f"image/{kind}": _BYTES for kind in ("jpeg", "png", "gif", "webp", "avif")}}
}
_WRITTEN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}}}
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def router(service: Service) -> APIRouter:
    """Return the API of a server."""
    api = APIRouter(prefix=PREFIX)

    @api.get("/collection", response_model=schema.CollectionOut)
    async def collection() -> Response:
        """Return what the collection holds and what it was built with."""
        facts = service.facts(await service.now())
        limits = facts["limits"] | {
            "upload_bytes": uploads.MOST_BYTES,
            "upload_pixels": source.MAX_PIXELS,
            "matches": schema.MOST_MATCHES,
            "examples": schema.MOST_EXAMPLES,
        }
        return _json({**facts, "version": __version__, "limits": limits})

    @api.get("/photos", response_model=schema.PhotosOut, responses=documented("invalid"))
    async def photos(
        q: Annotated[str, Query(max_length=200, description="words that the name holds, in any case")] = "",
        folder: Annotated[str, Query(max_length=4096, description="a folder, with all below it")] = "",
        after: Annotated[int, Query(ge=-1, lt=2**63, description="only photos of higher ids: 'next' of a page")] = -1,
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
    ) -> Response:
        """List photos in the order of their ids."""
        return _json(await asyncio.to_thread(_page, await service.now(), q, folder, after, limit))

    @api.get("/folders", response_model=schema.FoldersOut)
    async def folders() -> Response:
        """List folders with the number of photos in them and below."""
        listed = await asyncio.to_thread(lambda: service.living.now().folders)
        return _json({"folders": [{"path": path, "photos": count} for path, count in listed]})

    @api.get(
        "/photos/{number}",
        response_model=schema.PhotoFacts,
        responses=documented("not-found", "photo-gone", "outside-folder", "invalid"),
    )
    async def photo(number: PhotoId) -> Response:
        """Return facts about a photo."""
        image, found = await service.find(number)
        modified = datetime.datetime.fromtimestamp(found.stat.st_mtime, datetime.UTC)
        folder = str(PurePosixPath(shown(image.name)).parent)
        return _json(
            _listed(image)
            | {
                "folder": "" if folder == "." else folder,
                "bytes": found.stat.st_size,
                "modified": modified.isoformat(timespec="seconds"),
            }
        )

    gone_or_bad = documented("not-found", "photo-gone", "outside-folder", "invalid", "unreadable-photo", "busy")

    @api.get("/photos/{number}/file", response_class=Response, responses=_PHOTO | gone_or_bad)
    async def photo_file(request: Request, number: PhotoId, width: Width = None) -> Response:
        """Return a photo as a browser can show it: its file, or where browsers do not know its format, a JPEG."""
        return await photo_responses.file(service, request, (await service.find(number))[1], width)

    @api.get("/photos/{number}/thumbnail", response_class=Response, responses=_JPEG | gone_or_bad)
    async def photo_thumbnail(request: Request, number: PhotoId, box: BoxText = None) -> Response:
        """Return a small JPEG of a photo, or of what is inside a box of it."""
        photo = (await service.find(number))[1]
        return await photo_responses.thumbnail(service, request, photo, _box(box, photo))

    @api.post(
        "/photos",
        status_code=201,
        response_model=schema.ChangeOut,
        responses=documented("read-only", "conflict", "invalid", "busy", "no-room"),
        openapi_extra=_FORM,
    )
    async def add_photo(request: Request) -> Response:
        """Add a photo; the server must have been started with --allow-write FOLDER, which its file is put into."""
        service.writer.check()
        upload = await _received(service, request)
        image = await asyncio.to_thread(service.writer.add, upload)
        state = await service.now()
        headers = {"location": f"{PHOTOS}/{image.id}"}
        return _json({"photo": _listed(image), "photos": len(state.collection)}, 201, headers)

    @api.delete(
        "/photos/{number}",
        response_model=schema.ChangeOut,
        responses=documented("read-only", "not-found", "conflict", "invalid"),
    )
    async def remove_photo(number: PhotoId) -> Response:
        """Remove a photo from the collection; its file is left alone."""
        service.writer.check()
        image = (await service.now()).photo(number)
        await asyncio.to_thread(service.writer.remove, image)
        return _json({"photo": _listed(image), "photos": len((await service.now()).collection)})

    @api.post(
        "/search",
        response_model=schema.SearchOut,
        responses=documented("not-found", "photo-gone", "outside-folder", "invalid", "unreadable-photo", "busy"),
    )
    async def search(request: Request, wanted: schema.SearchIn) -> Response:
        """Rank the photos of the collection by the object that the examples show, with its place in each."""
        state, asked, named = await asyncio.to_thread(_resolved, service, wanted)
        result = await service.searches.search(
            request.is_disconnected,
            state,
            asked,
            k=wanted.k,
            offset=wanted.offset,
            min_score=wanted.min_score,
            stages=wanted.rerank,
        )
        return _json(_result(result, named))

    @api.post(
        "/uploads",
        status_code=201,
        response_model=schema.UploadOut,
        responses=documented("unreadable-photo", "invalid", "busy", "no-room"),
        openapi_extra=_FORM,
    )
    async def upload(request: Request) -> Response:
        """Bring a photo to search for what it shows; it is kept for an hour, and nobody else is told of it."""
        taken = await _received(service, request)
        service.metrics.uploads.inc()
        facts = {"id": taken.id, "name": shown(taken.name), "width": taken.width, "height": taken.height}
        return _json(facts, 201, {"location": f"{UPLOADS}/{taken.id}/file"})

    @api.get("/uploads/{number}/file", response_class=Response, responses=_PHOTO | gone_or_bad)
    async def upload_file(request: Request, number: UploadId, width: Width = None) -> Response:
        """Return a photo that was brought, as a browser can show it."""
        return await photo_responses.file(service, request, service.uploads.shown(number), width)

    @api.get("/uploads/{number}/thumbnail", response_class=Response, responses=_JPEG | gone_or_bad)
    async def upload_thumbnail(request: Request, number: UploadId, box: BoxText = None) -> Response:
        """Return a small JPEG of a photo that was brought, or of what is inside a box of it."""
        photo = service.uploads.shown(number)
        return await photo_responses.thumbnail(service, request, photo, _box(box, photo))

    @api.post(
        "/export",
        response_class=Response,
        responses=_WRITTEN | documented("not-found", "invalid"),
    )
    async def write_down(wanted: schema.ExportIn) -> Response:
        """Write down boxes that were accepted: CSV, which ``udq train-rpn`` reads, JSON or COCO's annotations."""
        state = await service.now()
        accepted = []
        for each in wanted.boxes:
            image = state.photo(each.photo)
            accepted.append(export.Accepted(image, boxes.check_box(each.box, image.width, image.height), each.score))
        data, media_type, name = export.write(accepted, wanted.format, label=wanted.label)
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return Response(data, headers=headers, media_type=media_type)

    return api


def _json(facts: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/json")


def _listed(image: Image) -> dict[str, Any]:
    return {"id": image.id, "name": shown(image.name), "width": image.width, "height": image.height}


def _page(state: CollectionView, words: str, folder: str, after: int, limit: int) -> dict[str, Any]:
    listed, places = state.collection.images, state.find(words, folder)
    start = bisect_right(places, after, key=lambda place: listed[place].id)
    some = places[start : start + limit]
    last = listed[some[-1]].id if some and start + limit < len(places) else None
    return {"total": len(places), "photos": [_listed(listed[place]) for place in some], "next": last}


def _resolved(
    service: Service, wanted: schema.SearchIn
) -> tuple[CollectionView, list[QueryPhoto], list[dict[str, str | int | None]]]:
    """Find the photos of a search; return them and what they are called, for people."""
    state = service.living.now()
    asked: list[QueryPhoto] = []
    named: list[dict[str, str | int | None]] = []
    for example in wanted.examples:
        if example.upload is not None:
            photo = service.uploads.shown(example.upload)
        else:
            assert example.photo is not None
            photo = shown_of(state.photo(example.photo))
        box = None if example.box is None else boxes.check_box(example.box, photo.width, photo.height)
        asked.append(QueryPhoto(photo, box, example.wrong))
        named.append({"photo": example.photo, "upload": example.upload, "image": shown(photo.name)})
    return state, asked, named


def _result(result: SearchResult, named: list[dict[str, str | int | None]]) -> dict[str, Any]:
    """Return what ``udq search --json`` prints, where photos have ids instead of this machine's paths."""
    facts: dict[str, Any] = result.to_json()
    examples = [
        {**name, "box": list(example.box or ()), "wrong": example.wrong}
        for name, example in zip(named, result.examples, strict=True)
    ]
    facts["query"] = {"image": examples[0]["image"], "box": examples[0]["box"], "examples": examples}
    for match in facts["matches"]:
        match["image"] = shown(match["image"])
    return facts


def _box(text: str | None, photo: Shown) -> Box | None:
    if text is None:
        return None
    try:
        sides = [float(side) for side in text.split(",")]
    except ValueError:
        raise InputError(f"box {shown(text)}: expected four numbers x1,y1,x2,y2, such as 120,80,340,300") from None
    return boxes.check_box(sides, photo.width, photo.height)


async def _received(service: Service, request: Request) -> uploads.Upload:
    """Receive the one photo of a form."""
    expected = "expected a form (multipart/form-data) with one photo in the field 'file'"
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem("invalid", f"{expected}, found another content type")
    try:
        with service.coming():
            async with request.form(max_files=1, max_fields=1) as form:
                file = form.get("file")
                if not isinstance(file, UploadFile) or not file.filename:
                    raise Problem("invalid", f"{expected}, found none")
                if (file.size or 0) > uploads.MOST_BYTES:
                    raise Problem(
                        "too-large", f"a photo may have {uploads.MOST_BYTES // 2**20} MiB; send a smaller one"
                    )
                return await service.receiving.run(
                    photo_responses.never, partial(service.uploads.take, file.file, file.filename)
                )
    except Problem:
        raise
    except HTTPException as error:
        raise Problem("bad-request", f"{expected}, found: {shown(error.detail)}") from None
