"""Routes of the API, ``/api/v1``."""

from __future__ import annotations

import asyncio
import datetime
import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from udq._version import __version__
from udq.common.text import shown
from udq.errors import InputError
from udq.photos import boxes
from udq.store.segments import Image
from udq.types import Box, Example, SearchResult
from udq.web import uploads
from udq.web.api import export, photo_responses, schema
from udq.web.api.dependencies import AppService, BoxText, PhotoId, UploadId, Width
from udq.web.api.forms import PHOTO_FORM, receive_photo
from udq.web.live_collection import CollectionView
from udq.web.problems import documented
from udq.web.renditions import PhotoFile, file_of
from udq.web.service import Service

PREFIX = "/api/v1"
UPLOADS = f"{PREFIX}/uploads"
PHOTOS = f"{PREFIX}/photos"

_Responses = dict[int | str, dict[str, Any]]
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_JPEG: _Responses = {200: {"content": {"image/jpeg": _BYTES}}}
_PHOTO: _Responses = {200: {"content": {f"image/{kind}": _BYTES for kind in ("jpeg", "png", "gif", "webp", "avif")}}}
_EXPORT: _Responses = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}}}
}
_PHOTO_PROBLEMS = documented("not-found", "photo-gone", "outside-folder", "invalid", "unreadable-photo", "busy")

router = APIRouter(prefix=PREFIX)


@router.get("/collection", response_model=schema.CollectionOut)
async def collection(service: AppService) -> Response:
    """Return the contents and settings of the collection, and the limits of the server."""
    facts = service.facts(await service.view())
    limits = facts["limits"] | {
        "upload_bytes": uploads.MAX_BYTES,
        "upload_pixels": service.decoder.limit * 10**6,
        "matches": schema.MAX_MATCHES,
        "examples": schema.MAX_EXAMPLES,
    }
    return _json({**facts, "version": __version__, "limits": limits})


@router.get("/photos", response_model=schema.PhotosOut, responses=documented("invalid"))
async def photos(
    service: AppService,
    q: Annotated[str, Query(max_length=200, description="words that the name contains, in any case")] = "",
    folder: Annotated[str, Query(max_length=4096, description="a folder, including its subfolders")] = "",
    after: Annotated[
        int, Query(ge=-1, lt=2**63, description="only photos with higher ids: 'next' of the previous page")
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=5000)] = 200,
) -> Response:
    """List photos in the order of their ids."""
    return _json(await asyncio.to_thread(_page, await service.view(), q, folder, after, limit))


@router.get("/folders", response_model=schema.FoldersOut)
async def folders(service: AppService) -> Response:
    """List the folders with the number of photos in each, including its subfolders."""
    counts = await asyncio.to_thread(lambda: service.live.current().folders)
    return _json({"folders": [{"path": path, "photos": count} for path, count in counts]})


@router.get(
    "/photos/{number}",
    response_model=schema.PhotoFacts,
    responses=documented("not-found", "photo-gone", "outside-folder", "invalid"),
)
async def photo(service: AppService, number: PhotoId) -> Response:
    """Return name, folder, pixel size, bytes and modification time of a photo."""
    image, file = await service.find(number)
    modified = datetime.datetime.fromtimestamp(file.stat.st_mtime, datetime.UTC)
    folder = str(PurePosixPath(shown(image.name)).parent)
    return _json(
        _photo(image)
        | {
            "folder": "" if folder == "." else folder,
            "bytes": file.stat.st_size,
            "modified": modified.isoformat(timespec="seconds"),
        }
    )


@router.get("/photos/{number}/file", response_class=Response, responses=_PHOTO | _PHOTO_PROBLEMS)
async def photo_file(service: AppService, request: Request, number: PhotoId, width: Width = None) -> Response:
    """Return a photo in a format that browsers can show: its file, or a JPEG of it."""
    _, file = await service.find(number)
    return await photo_responses.file(service, request, file, width)


@router.get("/photos/{number}/thumbnail", response_class=Response, responses=_JPEG | _PHOTO_PROBLEMS)
async def photo_thumbnail(service: AppService, request: Request, number: PhotoId, box: BoxText = None) -> Response:
    """Return a small JPEG of a photo, or of the contents of a box in it."""
    _, file = await service.find(number)
    return await photo_responses.thumbnail(service, request, file, _box(box, file))


@router.post(
    "/photos",
    status_code=201,
    response_model=schema.ChangeOut,
    responses=documented("read-only", "conflict", "invalid", "busy", "no-room"),
    openapi_extra=PHOTO_FORM,
)
async def add_photo(service: AppService, request: Request) -> Response:
    """Add a photo to the collection; requires a server started with --allow-write FOLDER, which stores the file."""
    service.changes.check_allowed()
    upload = await receive_photo(service, request)
    image = await asyncio.to_thread(service.changes.add, upload)
    view = await service.view()
    headers = {"location": f"{PHOTOS}/{image.id}"}
    return _json({"photo": _photo(image), "photos": len(view.collection)}, 201, headers)


@router.delete(
    "/photos/{number}",
    response_model=schema.ChangeOut,
    responses=documented("read-only", "not-found", "conflict", "invalid"),
)
async def remove_photo(service: AppService, number: PhotoId) -> Response:
    """Remove a photo from the collection; its file is kept."""
    service.changes.check_allowed()
    image = (await service.view()).photo(number)
    await asyncio.to_thread(service.changes.remove, image)
    return _json({"photo": _photo(image), "photos": len((await service.view()).collection)})


@router.post("/search", response_model=schema.SearchOut, responses=_PHOTO_PROBLEMS)
async def search(service: AppService, request: Request, body: schema.SearchIn) -> Response:
    """Rank the photos of the collection by the object that the examples show, with its box in each."""
    view, examples = await asyncio.to_thread(_examples, service, body.examples)
    result = await service.searches.search(
        request.is_disconnected,
        view,
        examples,
        k=body.k,
        offset=body.offset,
        min_score=body.min_score,
        stages=body.rerank,
    )
    return _json(_result(result, body.examples))


@router.post(
    "/uploads",
    status_code=201,
    response_model=schema.UploadOut,
    responses=documented("unreadable-photo", "invalid", "busy", "no-room"),
    openapi_extra=PHOTO_FORM,
)
async def upload(service: AppService, request: Request) -> Response:
    """Upload a photo as an example for searches; it is listed nowhere and deleted an hour after its last use."""
    stored = await receive_photo(service, request)
    service.metrics.uploads.inc()
    facts = {"id": stored.id, "name": shown(stored.name), "width": stored.width, "height": stored.height}
    return _json(facts, 201, {"location": f"{UPLOADS}/{stored.id}/file"})


@router.get("/uploads/{number}/file", response_class=Response, responses=_PHOTO | _PHOTO_PROBLEMS)
async def upload_file(service: AppService, request: Request, number: UploadId, width: Width = None) -> Response:
    """Return an uploaded photo in a format that browsers can show."""
    return await photo_responses.file(service, request, service.uploads.file(number), width)


@router.get("/uploads/{number}/thumbnail", response_class=Response, responses=_JPEG | _PHOTO_PROBLEMS)
async def upload_thumbnail(service: AppService, request: Request, number: UploadId, box: BoxText = None) -> Response:
    """Return a small JPEG of an uploaded photo, or of the contents of a box in it."""
    file = service.uploads.file(number)
    return await photo_responses.thumbnail(service, request, file, _box(box, file))


@router.post("/export", response_class=Response, responses=_EXPORT | documented("not-found", "invalid"))
async def write_down(service: AppService, body: schema.ExportIn) -> Response:
    """Return accepted boxes as a file: CSV, which ``udq train-rpn`` reads, JSON or COCO annotations."""
    view = await service.view()
    accepted = []
    for each in body.boxes:
        image = view.photo(each.photo)
        accepted.append(export.Accepted(image, boxes.check_box(each.box, image.width, image.height), each.score))
    data, media_type, name = export.write(accepted, body.format, label=body.label)
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(data, headers=headers, media_type=media_type)


def _json(facts: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/json")


def _photo(image: Image) -> dict[str, Any]:
    """Return ``schema.PhotoOut``."""
    return {"id": image.id, "name": shown(image.name), "width": image.width, "height": image.height}


def _page(view: CollectionView, words: str, folder: str, after: int, limit: int) -> dict[str, Any]:
    """Return ``schema.PhotosOut``: up to ``limit`` of the photos found, from the first id above ``after``."""
    images, indices = view.collection.images, view.find(words, folder)
    start = bisect_right(indices, after, key=lambda index: images[index].id)
    page = indices[start : start + limit]
    last = images[page[-1]].id if page and start + limit < len(indices) else None
    return {"total": len(indices), "photos": [_photo(images[index]) for index in page], "next": last}


def _examples(service: Service, requested: Sequence[schema.ExampleIn]) -> tuple[CollectionView, list[Example]]:
    """Return the current view of the collection, and the examples of a search, whose photos are ``PhotoFile``."""
    view = service.live.current()
    examples = []
    for each in requested:
        if each.upload is not None:
            file = service.uploads.file(each.upload)
        else:
            assert each.photo is not None  # ExampleIn has one of the two
            file = file_of(view.photo(each.photo))
        box = None if each.box is None else boxes.check_box(each.box, file.width, file.height)
        examples.append(Example(file, box, each.wrong))
    return view, examples


def _result(result: SearchResult, requested: Sequence[schema.ExampleIn]) -> dict[str, Any]:
    """Return ``schema.SearchOut``: the JSON of ``udq search --json``, with ids and names of photos instead of paths."""
    facts: dict[str, Any] = result.to_json()
    examples = [
        {
            "photo": each.photo,
            "upload": each.upload,
            "image": shown(str(example.photo)),
            "box": list(example.box or ()),
            "wrong": example.wrong,
        }
        for each, example in zip(requested, result.examples, strict=True)
    ]
    facts["query"] = {"image": examples[0]["image"], "box": examples[0]["box"], "examples": examples}
    for each in (named for match in facts["matches"] for named in (match, *match["copies"])):
        each["image"] = shown(each["image"])
    return facts


def _box(text: str | None, photo: PhotoFile) -> Box | None:
    """Return the box of a query parameter, checked against the size of the photo."""
    if text is None:
        return None
    try:
        sides = [float(side) for side in text.split(",")]
    except ValueError:
        raise InputError(f"box {shown(text)}: expected four numbers x1,y1,x2,y2, such as 120,80,340,300") from None
    return boxes.check_box(sides, photo.width, photo.height)
