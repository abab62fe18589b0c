"""Requests and responses of the API as Pydantic models, for validation and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Matches of one page of results, and examples of one search.
MAX_MATCHES = 1000
MAX_EXAMPLES = 64
# Boxes of one export.
MAX_BOXES = 10_000

Number = Annotated[float, Field(allow_inf_nan=False)]
PhotoId = Annotated[int, Field(ge=0, lt=2**63)]
Box = Annotated[
    list[Number],
    Field(min_length=4, max_length=4, description="x1, y1, x2, y2 (left, top, right, bottom) in pixels of the photo"),
]


class _StrictModel(BaseModel):
    """A request: unknown fields and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ExampleIn(_StrictModel):
    """A box of the object in a photo of the collection or an upload; with ``wrong``, a negative example."""

    photo: PhotoId | None = None
    upload: Annotated[str, Field(max_length=64)] | None = None
    box: Box | None = None
    wrong: bool = False

    @model_validator(mode="after")
    def _one_photo(self) -> ExampleIn:
        if (self.photo is None) == (self.upload is None):
            raise ValueError(
                "expected either 'photo' or 'upload' (the id from POST /api/v1/uploads), found both or none"
            )
        return self


Stage = Literal["average-qe", "alpha-qe", "diffusion", "verify", "verify-mirrored", "verified-qe"]


class SearchIn(_StrictModel):
    """A search for the object that the examples show."""

    examples: Annotated[list[ExampleIn], Field(min_length=1, max_length=MAX_EXAMPLES)]
    k: Annotated[int, Field(ge=1, le=MAX_MATCHES)] = 20
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    min_score: Number | None = None
    rerank: Annotated[list[Stage], Field(max_length=5)] | None = None


class BoxIn(_StrictModel):
    """An accepted box."""

    photo: PhotoId
    box: Box
    score: Number | None = None


class ExportIn(_StrictModel):
    """Boxes to export."""

    format: Literal["csv", "json", "coco"]
    label: Annotated[str, Field(min_length=1, max_length=200)] = "object"
    boxes: Annotated[list[BoxIn], Field(max_length=MAX_BOXES)]


class PhotoOut(BaseModel):
    """A photo of the collection."""

    id: int
    name: str
    width: int
    height: int


class PhotosOut(BaseModel):
    """A page of photos, in the order of their ids; ``next`` is the ``after`` of the following page."""

    total: int
    photos: list[PhotoOut]
    next: int | None


class PhotoFacts(PhotoOut):
    """A photo of the collection, and its file."""

    folder: str
    bytes: int
    modified: str


class FolderOut(BaseModel):
    """A folder, and the number of photos in it and its subfolders."""

    path: str
    photos: int


class FoldersOut(BaseModel):
    """All folders; the first, with an empty path, is the whole collection."""

    folders: list[FolderOut]


class UploadOut(BaseModel):
    """An uploaded photo."""

    id: str
    name: str
    width: int
    height: int


class CollectionOut(BaseModel):
    """Contents and settings of the collection, and limits of the server."""

    model_config = ConfigDict(extra="allow")
    name: str
    version: str
    photos: int
    regions: int
    bytes_per_region: float
    bytes_on_disk: int
    model: str
    network: str
    scan: str
    device: str
    writable: bool
    limits: dict[str, int]


class ExampleOut(BaseModel):
    """An example with its box: the whole photo if the request had none."""

    photo: int | None
    upload: str | None
    image: str
    box: list[float]
    wrong: bool


class QueryOut(BaseModel):
    """The examples of a search; ``image`` and ``box`` are those of the first one."""

    image: str
    box: list[float]
    examples: list[ExampleOut]


class CopyOut(BaseModel):
    """A photo of the same content as a match; ``exact`` if its file has the same bytes."""

    id: int
    image: str
    exact: bool


class MatchOut(BaseModel):
    """A photo that shows the object, the box of the object, and other photos of the same content."""

    rank: int
    id: int
    image: str
    width: int
    height: int
    distance: float
    score: float
    box: list[float]
    confidence: float | None
    inliers: int | None
    polygon: list[list[float]] | None
    copies: list[CopyOut]


class SearchOut(BaseModel):
    """The matches, best first, in the JSON of ``udq search --json``."""

    query: QueryOut
    k: int
    found: int
    missing: int
    rerank: list[str]
    elapsed_ms: dict[str, float]
    matches: list[MatchOut]


class ChangeOut(BaseModel):
    """The photo that was added or removed, and the number of photos afterwards."""

    photo: PhotoOut
    photos: int


def components(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schemas of models by name, for OpenAPI's components."""
    return {model.__name__: model.model_json_schema() for model in models}
