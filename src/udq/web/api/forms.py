"""Uploads as ``multipart/form-data``."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from udq.common.text import shown
from udq.web import uploads
from udq.web.problems import Problem
from udq.web.queue import never_disconnected
from udq.web.service import Service
from udq.web.uploads import Upload

# The form in OpenAPI, as ``openapi_extra`` of a route: the routes parse it themselves to limit its parts.
PHOTO_FORM: dict[str, Any] = {
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
_EXPECTED = "expected a form (multipart/form-data) with one photo in the field 'file'"


async def receive_photo(service: Service, request: Request) -> Upload:
    """Store the photo of a form among the uploads.

    Raises:
        Problem: the body is not such a form, the photo is too large, or too many uploads are in progress.
        ImageError: the file is not a readable photo.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem("invalid", f"{_EXPECTED}, found another content type")
    try:
        with service.receiving():
            async with request.form(max_files=1, max_fields=1) as form:
                file = form.get("file")
                if not isinstance(file, UploadFile) or not file.filename:
                    raise Problem("invalid", f"{_EXPECTED}, found no such field")
                if (file.size or 0) > uploads.MAX_BYTES:
                    limit = uploads.MAX_BYTES // 2**20
                    raise Problem("too-large", f"expected a photo of at most {limit} MiB; send a smaller one")
                add = partial(service.uploads.add, file.file, file.filename)
                return await service.upload_queue.run(never_disconnected, add)
    except Problem:
        raise
    except HTTPException as error:  # Starlette could not parse the form
        raise Problem("bad-request", f"{_EXPECTED}, found: {shown(error.detail)}") from None
