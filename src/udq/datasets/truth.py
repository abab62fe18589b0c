"""The types of a ground truth: boxed queries and the photos that show their object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from udq.types import Box

# Where the protocol has a query's own photo: in the database but left out of its own ranking (``boxes``), in the
# database and in its ranking (Oxford5K, Paris6K), or not in the database at all (revisited, INSTRE).
OwnPhoto = Literal["left out", "kept", "outside"]


@dataclass(frozen=True)
class Answers:
    """The positives and junk photos of a query at one difficulty.

    Attributes:
        positives: photos that show the object; if empty, the query is dropped at that difficulty.
        junk: photos that count neither way.
    """

    positives: frozenset[str]
    junk: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Query:
    """A boxed query and its answers; photos are named as in the ground truth or in the collection (see ``matching``).

    Attributes:
        image: the query photo.
        box: the object in it, x1, y1, x2, y2 in pixels; None for the whole photo.
        positives: photos that show the object.
        junk: photos that count neither way.
        boxes: the object's boxes in some of the positives, x1, y1, x2, y2 in pixels.
        label: a name of the object for display; may be empty.
        difficulties: the answers at each difficulty by name, if the protocol has several; ``positives`` and ``junk``
            are those of one of them.
        place: file and row of the query, for messages; empty if it is not from a file.
    """

    image: str
    box: Box | None
    positives: frozenset[str]
    junk: frozenset[str] = frozenset()
    boxes: Mapping[str, Box] = field(default_factory=dict)
    label: str = ""
    difficulties: Mapping[str, Answers] = field(default_factory=dict)
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class GroundTruth:
    """The queries of a benchmark and its protocol for the database.

    Attributes:
        dataset: name in the registry.
        queries: boxed queries.
        own_photo: where a query's own photo is.
        exact_names: whether photos are named exactly as in the collection, or by the end of their path (see
            ``matching``).
        official: number of queries and of database photos in the whole data set; None without an official size.
        database: names of all database photos; empty if no list is known.
        folder: the folder of the ground truth, which may hold query photos too.
    """

    dataset: str
    queries: tuple[Query, ...]
    own_photo: OwnPhoto = "left out"
    exact_names: bool = True
    official: tuple[int, int] | None = None
    database: tuple[str, ...] = ()
    folder: Path | None = None
