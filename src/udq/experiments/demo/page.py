"""The page of the demonstration's results: one HTML file beside its photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from udq.errors import InputError
from udq.reports import html
from udq.reports.html import Card, Kind, Photo
from udq.types import Box


class MatchView(NamedTuple):
    """One photo of a query's results.

    Attributes:
        photo: path relative to the page's folder, parts separated by ``/``.
        size: width and height of the photo in pixels.
        box: where the object was found, x1, y1, x2, y2 in pixels of the photo.
        score: higher is better.
        is_right: the photo shows the object.
        iou: overlap of ``box`` with the true box, 0..1; None if that is not known.
    """

    photo: str
    size: tuple[int, int]
    box: Box
    score: float
    is_right: bool
    iou: float | None


@dataclass(frozen=True)
class QueryView:
    """One query and its results.

    Attributes:
        name: heading of its section.
        photo: path relative to the page's folder, parts separated by ``/``.
        box: the drawn box, x1, y1, x2, y2 in pixels of the photo.
        photo_size: width and height of the photo in pixels.
        average_precision: 0..1.
        matches: best first; plain tuples in the order of ``MatchView`` are accepted too.
    """

    name: str
    photo: str
    box: Box
    photo_size: tuple[int, int]
    average_precision: float
    matches: Sequence[MatchView]


@dataclass(frozen=True)
class Section:
    """A query as ``demo.html`` shows it: heading, summary, and a card for the query and for each match."""

    name: str
    summary: str
    query: Card
    matches: tuple[Card, ...]


def write_page(folder: Path, *, title: str, facts: Sequence[tuple[str, str]], queries: Sequence[QueryView]) -> Path:
    """Write ``index.html`` into the folder that holds the photos.

    Args:
        folder: the photos' paths are relative to it.
        title: heading of the page.
        facts: name and value of each summary fact, shown in this order.
        queries: one section each.

    Returns:
        The path of ``index.html``; an older one stays until the new one is complete.

    Raises:
        InputError: a photo's path is absolute or leaves the folder, or a photo's size is not positive.
        UdqError: the page cannot be written.
    """
    file = folder / "index.html"
    sections = [_section(query) for query in queries]
    html.write(file, html.render("demo.html", title=title, alone=False, headline=facts, sections=sections))
    return file


def _section(query: QueryView) -> Section:
    matches = [MatchView(*match) for match in query.matches]
    right = sum(match.is_right for match in matches)
    alt = f"Query: {query.name}, in the drawn box"
    photo = _photo(query.photo, query.photo_size, query.box, "drawn", alt)
    return Section(
        query.name,
        f"average precision {query.average_precision:.2f} · {right} of {len(matches)} shown are right",
        Card(photo, "The drawn box", name=query.photo),
        tuple(_match(rank, match) for rank, match in enumerate(matches, start=1)),
    )


def _match(rank: int, match: MatchView) -> Card:
    kind: Literal["right", "wrong"] = "right" if match.is_right else "wrong"
    overlap = "" if match.iou is None else f" · IoU {match.iou:.2f}"
    photo = _photo(match.photo, match.size, match.box, kind, f"Match {rank}, {kind}: {match.photo}")
    return Card(photo, rank=rank, verdict=kind, notes=(f"score {match.score:.3g}{overlap}",), name=match.photo)


def _photo(path: str, size: tuple[int, int], box: Box, kind: Kind, alt: str) -> Photo:
    link = _link(path)
    return Photo(link, size, ((box, kind),), alt, link)


def _link(path: str) -> str:
    """Return a photo's path as a relative URL."""
    if path.startswith("/") or ".." in path.split("/") or not path:
        raise InputError(f"{path!r}: expected the path of a photo inside the page's folder, relative to it")
    return quote(path, safe="/")  # quotes ":", so a name is never read as a URL's scheme
