"""Dependencies of the routes: the service of the application, and types of path and query parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi import Path as PathParameter

from udq.web.renditions import MAX_SIDE
from udq.web.service import Service


async def service_of(request: Request) -> Service:
    """Return the service that ``app.create`` put into the application."""
    service: Service = request.app.state.service
    return service


AppService = Annotated[Service, Depends(service_of)]
PhotoId = Annotated[int, PathParameter(ge=0, lt=2**63, description="id of a photo of the collection")]
UploadId = Annotated[str, PathParameter(max_length=64, description="id that POST /api/v1/uploads returned")]
Width = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_SIDE,
        description="return a JPEG of at most this many pixels in width instead of the file; never enlarged",
    ),
]
BoxText = Annotated[str | None, Query(max_length=200, description="x1,y1,x2,y2 (left, top, right, bottom)")]
