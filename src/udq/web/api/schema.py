"""What goes in and out of the API, for its checks and its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Most of a page of results, and of what one search may be made of.
MOST_MATCHES = 1000
MOST_EXAMPLES = 64
# Boxes of one export.
MOST_BOXES = 10_000

Number = Annotated[float, Field(allow_inf_nan=False)]
PhotoId = Annotated[int, Field(ge=0, lt=2**63)]
Box = Annotated[list[Number], Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels of the photo")]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExampleIn(_StrictModel):
    """A box of the object, or of something else, in a photo of the collection or an upload."""

    photo: PhotoId | None = None
    upload: Annotated[str, Field(max_length=64)] | None = None
    box: Box | None = None
    wrong: bool = False

    @model_validator(mode="after")
    def _one_photo(self) -> ExampleIn:
        if (self.photo is None) == (self.upload is None):
            raise ValueError("expected either 'photo', an id, or 'upload', what POST /api/v1/uploads answered")
        return self


class SearchIn(_StrictModel):
    """A search."""

    examples: Annotated[list[ExampleIn], Field(min_length=1, max_length=MOST_EXAMPLES)]
    k: Annotated[int, Field(ge=1, le=MOST_MATCHES)] = 20
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    min_score: Number | None = None
    rerank: Annotated[list[Literal["average-qe", "alpha-qe", "diffusion", "verify"]], Field(max_length=4)] = []


class BoxIn(_StrictModel):
    """A box that was accepted."""

    photo: PhotoId
    box: Box
    score: Number | None = None


class ExportIn(_StrictModel):
    """Boxes to write down."""

    format: Literal["csv", "json", "coco"]
    label: Annotated[str, Field(min_length=1, max_length=200)] = "object"
    boxes: Annotated[list[BoxIn], Field(max_length=MOST_BOXES)]


class PhotoOut(BaseModel):
    """A photo of the collection."""

    id: int
    name: str
    width: int
    height: int


class PhotosOut(BaseModel):
    """Some photos, in the order of their ids."""

    total: int
    photos: list[PhotoOut]
    next: int | None


class PhotoFacts(PhotoOut):
    """A photo, its file looked at."""

    folder: str
    bytes: int
    modified: str


class FolderOut(BaseModel):
    """A folder, and the number of photos in it and below."""

    path: str
    photos: int


class FoldersOut(BaseModel):
    """All folders; the first one, without a name, holds all photos."""

    folders: list[FolderOut]


class UploadOut(BaseModel):
    """A photo that was brought, and is kept for a while."""

    id: str
    name: str
    width: int
    height: int


class CollectionOut(BaseModel):
    """What the collection holds and what it was built with."""

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
    """An example with its box; where none was drawn, the whole photo."""

    photo: int | None
    upload: str | None
    image: str
    box: list[float]
    wrong: bool


class QueryOut(BaseModel):
    """What was searched for; image and box are those of the first example."""

    image: str
    box: list[float]
    examples: list[ExampleOut]


class MatchOut(BaseModel):
    """A photo that shows the object, and where."""

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


class SearchOut(BaseModel):
    """The photos found, best first: what ``udq search --json`` prints."""

    query: QueryOut
    k: int
    found: int
    missing: int
    rerank: list[str]
    elapsed_ms: dict[str, float]
    matches: list[MatchOut]


class ChangeOut(BaseModel):
    """What a change did."""

    photo: PhotoOut
    photos: int


def components(*models: type[BaseModel]) -> dict[str, Any]:
    """Return schemas that routes refer to by name alone."""
    return {model.__name__: model.model_json_schema() for model in models}
