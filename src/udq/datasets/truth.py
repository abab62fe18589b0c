"""What every benchmark comes down to: boxed queries and the photos that show their object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from udq.types import Box


@dataclass(frozen=True)
class Query:
    """One boxed query and its answers; photos are named as the collection names them.

    Attributes:
        image: the query photo.
        box: the object in it; the whole photo where None.
        positives: photos that show the object.
        junk: photos that count neither way.
        boxes: where the object is in some positives, x1, y1, x2, y2 in pixels.
        label: a name of the object, for people; may be empty.
    """

    image: str
    box: Box | None
    positives: frozenset[str]
    junk: frozenset[str] = frozenset()
    boxes: Mapping[str, Box] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class GroundTruth:
    """The queries of one benchmark."""

    dataset: str
    queries: tuple[Query, ...]
