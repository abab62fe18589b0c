"""The page of the demonstration's results: one HTML file beside its photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from udq.errors import InputError
from udq.reports import html
from udq.types import Box


class MatchView(NamedTuple):
    """One photo of a query's results.

    Attributes:
        photo: path relative to the page's folder, parts separated by ``/``.
        size: width and height of the photo in pixels.
        box: where the object was found, x1, y1, x2, y2 in pixels of the photo.
        score: higher is better.
        is_right: the photo shows the object.
        iou: overlap of ``box`` with the true box, 0..1; None where that is not known.
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
        matches: best first; plain tuples in the order of ``MatchView`` do as well.
    """

    name: str
    photo: str
    box: Box
    photo_size: tuple[int, int]
    average_precision: float
    matches: Sequence[MatchView]


_LEAD = """<p class="lead">Each section starts with a photo in which a box was drawn round one object.
Beside it are the photos of the collection that were found for it, best first; the box in each is where the
search says the object is.</p>
<p class="lead"><span class="right">✓ right</span>, in blue: the photo does show that very object.
<span class="wrong">✗ wrong</span>, in orange: it does not. A higher score is a closer match. Overlap (IoU)
says how well the found box covers the true one, from 0 to 1. Average precision is 1 when every photo of the
object comes before all others.</p>"""


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
    body = [
        f"<h1>{escape(title)}</h1>\n{_LEAD}",
        html.facts(facts),
        *(_section(query) for query in queries),
    ]
    html.write(file, html.document(title, body))
    return file


def _section(query: QueryView) -> str:
    matches = [MatchView(*match) for match in query.matches]
    right = sum(match.is_right for match in matches)
    drawn = _photo(query.photo, query.photo_size, query.box, "drawn", f"Query: {query.name}, in the drawn box")
    summary = f"average precision {query.average_precision:.2f} · {right} of {len(matches)} shown are right"
    return "\n".join(
        [
            f"<section>\n<header><h2>{escape(query.name)}</h2>",
            f"<p>{summary}</p></header>",
            f'<div class="row">\n<div class="query">{html.card(drawn, "The drawn box", html.name(query.photo))}</div>',
            "<ol>",
            *(_match(rank, match) for rank, match in enumerate(matches, start=1)),
            "</ol>\n</div>\n</section>",
        ]
    )


def _match(rank: int, match: MatchView) -> str:
    kind: html.Kind = "right" if match.is_right else "wrong"
    mark = "✓ right" if match.is_right else "✗ wrong"
    overlap = "" if match.iou is None else f" · IoU {match.iou:.2f}"
    shown = _photo(match.photo, match.size, match.box, kind, f"Match {rank}, {kind}: {match.photo}")
    verdict = f'{rank}. <span class="{kind}">{mark}</span>'
    return f"<li>{html.card(shown, verdict, f'score {match.score:.3g}{overlap}', html.name(match.photo))}</li>"


def _photo(photo: str, size: tuple[int, int], box: Box, kind: html.Kind, alt: str) -> str:
    link = _link(photo)
    return html.photo(link, size, [(box, kind)], alt, link=link)


def _link(photo: str) -> str:
    parts = photo.split("/")
    if photo.startswith("/") or ".." in parts or not photo:
        raise InputError(f"{photo!r}: expected the path of a photo inside the page's folder, relative to it")
    return escape(quote(photo, safe="/"))  # ":" is quoted, so that no name is read as an address
