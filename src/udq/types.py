"""The data that flow between the stages: small frozen dataclasses of NumPy arrays that validate themselves.

Row i is the same region in Regions, Features and Codes. Boxes are x1, y1, x2, y2 in pixels of the photo
as a viewer shows it (EXIF orientation applied).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError

Box: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2: left, top, right, bottom."""

Arrays: TypeAlias = dict[str, NDArray[np.float32]]
"""Weights by name."""


def _freeze(owner: Any, name: str, array: NDArray[Any]) -> None:
    """Store a read-only view of ``array`` in a frozen dataclass; the caller's own array stays writeable."""
    view = array.view()
    view.flags.writeable = False
    object.__setattr__(owner, name, view)


def _expect(name: str, array: NDArray[Any], dtypes: Sequence[Any], columns: int | None = None) -> None:
    if array.ndim != 2 or array.dtype not in dtypes or (columns is not None and array.shape[1] != columns):
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(
            f"{name}: expected {wanted} of shape (G, {columns or 'D'}), found {array.dtype} of shape {array.shape}"
        )


@dataclass(frozen=True)
class Regions:
    """Regions of one photo.

    Attributes:
        boxes: (R, 4) float32, x1, y1, x2, y2 in pixels of the photo, x1 < x2 and y1 < y2.
    """

    boxes: NDArray[np.float32]

    def __post_init__(self) -> None:
        _expect("boxes", self.boxes, [np.float32], columns=4)
        if not ((self.boxes[:, :2] < self.boxes[:, 2:]).all() and np.isfinite(self.boxes).all()):
            raise ValueError("boxes: expected finite x1 < x2 and y1 < y2, found a box that is empty or inverted")
        _freeze(self, "boxes", self.boxes)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Features:
    """Feature vectors of regions.

    Attributes:
        vectors: (R, D) float32, row i belongs to region i.
    """

    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        _expect("vectors", self.vectors, [np.float32])
        _freeze(self, "vectors", self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def unit(self) -> Features:
        """Return the features at unit length; zeros stay zeros."""
        length = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return Features(self.vectors / np.maximum(length, np.float32(1e-12)))


@dataclass(frozen=True)
class Codes:
    """Compact codes of regions (eq. 4).

    Attributes:
        values: (R, M) uint8 if K <= 256, else uint16: the index of the nearest codeword in each subspace.
        codewords: K, a power of two.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16]
    codewords: int

    def __post_init__(self) -> None:
        _expect("values", self.values, [np.uint8 if self.codewords <= 256 else np.uint16])
        if len(self.values) and int(self.values.max()) >= self.codewords:
            raise ValueError(f"values: expected indices below K = {self.codewords}, found {self.values.max()}")
        _freeze(self, "values", self.values)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Verification:
    """Geometric verification of a photo: how local features place the query object in it (``search.rerank.verifier``).

    Attributes:
        inliers: number of matching local features that the homography explains.
        homography: (3, 3) float64, from pixels of the query photo to pixels of the photo.
        polygon: (4, 2) float32, the corners of the query's box in the photo: upper left, upper right, lower right and
            lower left of the object, which may be rotated; corners may be outside the photo.
        box: upright box around the polygon (``geometry.upright``), clipped to the photo.
        query_points, photo_points: (inliers, 2) float32, matching points, in pixels of each photo.
        coverage: share of the query's box, 0..1, that has inliers: of its 6 x 6 cells.
        example: index of the query's example that matches.
    """

    inliers: int
    homography: NDArray[np.float64]
    polygon: NDArray[np.float32]
    box: Box
    query_points: NDArray[np.float32]
    photo_points: NDArray[np.float32]
    coverage: float = 0.0
    example: int = 0

    def __post_init__(self) -> None:
        shapes = {"homography": (3, 3), "polygon": (4, 2)}
        shapes |= dict.fromkeys(("query_points", "photo_points"), (self.inliers, 2))
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
            _freeze(self, name, array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Verification):
            return NotImplemented
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return all(np.array_equal(one, two) for one, two in pairs)

    __hash__ = None  # type: ignore[assignment]  # arrays have none


@dataclass(frozen=True)
class Copy:
    """A photo that a search result leaves out because a better match has the same content (``udq.search.copies``).

    Attributes:
        image: name of the photo, as indexed.
        id: the photo's id in its collection.
        exact: whether its file has the same bytes; else it is a near copy: resized, re-encoded or a shot of a burst.
    """

    image: str
    id: int
    exact: bool


@dataclass(frozen=True)
class Match:
    """One photo of a search result, which stands for its copies.

    Attributes:
        rank: 1 for the best.
        image: name of the photo, as indexed.
        distance: expected distance from the query to the best region, by its code (eq. 5 and its residual), >= 0.
        score: similarity of eq. 2, 1 / distance; higher is better.
        box: where the object is (``udq.search.localisation``); x1, y1, x2, y2 in pixels of the photo.
        id: the photo's id in its collection; None if the ranking is not of a collection on disk.
        width, height: size of the photo in pixels as a viewer shows it; None as for ``id``.
        confidence: expected share of true matches among the photos that are at least as near, 0..1, by
            ``udq.search.confidence``; 1 for the query's own photo. None if it cannot be estimated.
        verified: result of geometric verification, which then determines ``box`` and ``score``; None if the photo was
            not verified.
        copies: other photos of the same content, best first; all that is said above is of the match itself.
    """

    rank: int
    image: str
    distance: float
    score: float
    box: Box
    id: int | None = None
    width: int | None = None
    height: int | None = None
    confidence: float | None = None
    verified: Verification | None = None
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Example:
    """One box of a query: a view of the object, or of something it must not be confused with.

    Attributes:
        photo: a photo, in the collection or not.
        box: x1, y1, x2, y2 in its pixels; the whole photo if None.
        wrong: whether the box shows something else, which is then ranked lower.
    """

    photo: str | os.PathLike[str]
    box: Sequence[float] | None = None
    wrong: bool = False

    def __post_init__(self) -> None:
        """Raise InputError if the photo is not a path, such as a picture in memory."""
        if not isinstance(self.photo, str | os.PathLike):
            found = type(self.photo)
            raise InputError(
                f"query: expected the path of a photo (str or pathlib.Path), found {found.__module__}."
                f"{found.__qualname__}; save a picture in memory first, as in image.save('query.png')"
            )


@dataclass(frozen=True)
class SearchResult:
    """The ranked photos of one query.

    Attributes:
        examples: the query, each example with its box: the whole photo if none was drawn.
        matches: best first; ties are in the order of image ids.
        elapsed_ms: milliseconds of ``encode``, ``scan``, ``rerank`` (with post-processing) and ``total``, which also
            includes the localisation of the matches.
        rerank: stages of post-processing in the order they were applied; matches are then in their order, not that of
            ``score``.
        threshold: confidence from which a match counts as found.
        missing: number of photos that could not be searched because a shard on a cluster did not answer.
    """

    examples: tuple[Example, ...]
    matches: tuple[Match, ...]
    elapsed_ms: dict[str, float]
    rerank: tuple[str, ...] = ()
    threshold: float = 1.0
    missing: int = 0

    @property
    def found(self) -> int:
        """Number of matches with confidence of at least ``threshold``; 0 means that the object may not be there."""
        return sum(match.confidence is not None and match.confidence >= self.threshold for match in self.matches)

    @property
    def image(self) -> str:
        """The query photo; the first of several."""
        return str(self.examples[0].photo)

    @property
    def box(self) -> Box:
        """The box in pixels of the query photo; the whole photo if none was drawn."""
        x1, y1, x2, y2 = self.examples[0].box or ()
        return x1, y1, x2, y2

    def to_json(self) -> dict[str, object]:
        """Return the object that ``udq search --json`` prints."""
        return {
            "query": {
                "image": self.image,
                "box": list(self.box),
                "examples": [
                    {"image": str(example.photo), "box": list(example.box or ()), "wrong": example.wrong}
                    for example in self.examples
                ],
            },
            "k": len(self.matches),
            "found": self.found,
            "missing": self.missing,
            "rerank": list(self.rerank),
            "elapsed_ms": {name: round(value, 3) for name, value in self.elapsed_ms.items()},
            "matches": [
                {
                    "rank": match.rank,
                    "id": match.id,
                    "image": match.image,
                    "width": match.width,
                    "height": match.height,
                    "distance": match.distance,
                    "score": match.score,
                    "box": list(match.box),
                    "confidence": match.confidence,
                    "inliers": match.verified.inliers if match.verified else None,
                    "polygon": match.verified.polygon.tolist() if match.verified else None,
                    "copies": [{"id": copy.id, "image": copy.image, "exact": copy.exact} for copy in match.copies],
                }
                for match in self.matches
            ],
        }
