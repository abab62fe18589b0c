"""What every benchmark comes down to: boxed queries and the photos that show their object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from udq.types import Box

# Where a query's own photo is, a property of the protocol: in the database but left out of its own ranking (``boxes``),
# in the database and in its ranking (Oxford5K, Paris6K), or not in the database at all (revisited, INSTRE).
OwnPhoto = Literal["left out", "kept", "outside"]


@dataclass(frozen=True)
class Answers:
    """Which photos count for a query at one difficulty.

    Attributes:
        positives: photos that show the object; where there are none, the query is dropped at that difficulty.
        junk: photos that count neither way.
    """

    positives: frozenset[str]
    junk: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Query:
    """One boxed query and its answers; photos are named as the ground truth or the collection names them.

    Attributes:
        image: the query photo.
        box: the object in it; the whole photo where None.
        positives: photos that show the object.
        junk: photos that count neither way.
        boxes: where the object is in some positives, x1, y1, x2, y2 in pixels.
        label: a name of the object, for people; may be empty.
        difficulties: the answers of protocols that have several, by name; ``positives`` and ``junk`` are one of them.
    """

    image: str
    box: Box | None
    positives: frozenset[str]
    junk: frozenset[str] = frozenset()
    boxes: Mapping[str, Box] = field(default_factory=dict)
    label: str = ""
    difficulties: Mapping[str, Answers] = field(default_factory=dict)


@dataclass(frozen=True)
class GroundTruth:
    """The queries of one benchmark, and what its protocol says of the database.

    Attributes:
        dataset: name in the registry.
        queries: boxed queries.
        own_photo: where a query's own photo is.
        exact_names: whether photos are named just as the collection names them, or by the end of their path
            (see ``matching``).
        official: (queries, photos of the database) of the whole data set, where it has an official size.
        database: names of all its photos, where a list of them is known.
        folder: where the ground truth was read, beside which query photos may lie.
    """

    dataset: str
    queries: tuple[Query, ...]
    own_photo: OwnPhoto = "left out"
    exact_names: bool = True
    official: tuple[int, int] | None = None
    database: tuple[str, ...] = ()
    folder: Path | None = None
