"""The page of the demonstration's results: one HTML file beside the photos, complete in itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from udq.errors import InputError, UdqError
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


_STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfc; --card: #fff; --ink: #1b1f24; --quiet: #59636e;
  --line: #d9dee3; --right: #0a66c2; --wrong: #a84a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e8ebee;
  --quiet: #a3adb8; --line: #353b42; --right: #79bbff; --wrong: #ffb066; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 92rem; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; color: var(--ink);
  background: var(--ground); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; }
h2 { margin: 0; font-size: 1.2rem; overflow-wrap: anywhere; }
.lead { max-width: 46rem; margin: 0 0 .75rem; }
.right { color: var(--right); font-weight: 600; } .wrong { color: var(--wrong); font-weight: 600; }
dl { display: flex; flex-wrap: wrap; gap: 1px; overflow: hidden;
  margin: 1.5rem 0 2rem; background: var(--line); border: 1px solid var(--line); border-radius: .5rem; }
dl > div { flex: 1 1 10rem; padding: .6rem .9rem; background: var(--card); }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
section { padding: 1.5rem 0; border-top: 1px solid var(--line); }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; margin-bottom: .75rem; }
header p { margin: 0; color: var(--quiet); }
.row { display: grid; grid-template-columns: minmax(14rem, 19rem) 1fr; gap: 1.5rem; align-items: start; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem .75rem;
  margin: 0; padding: 0; list-style: none; }
@media (max-width: 44rem) { .row, ol { grid-template-columns: 1fr; } ol { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; }
.photo { display: grid; place-items: center; aspect-ratio: 4 / 3; overflow: hidden; border-radius: .35rem;
  background: var(--line); }
.query .photo { outline: 3px solid var(--ink); outline-offset: 2px; }
.photo span { position: relative; display: block; }
.photo img { display: block; width: 100%; height: auto; }
.photo svg { position: absolute; inset: 0; width: 100%; height: 100%; }
rect { fill: none; vector-effect: non-scaling-stroke; }
.under { stroke: #10141a; stroke-width: 5px; } .box { stroke-width: 3px; }
.box.right { stroke: #3d9cff; } .box.wrong { stroke: #ff9626; } .box.drawn { stroke: #ffe14d; }
figcaption { margin-top: .35rem; font-size: .85rem; line-height: 1.35; }
figcaption small { display: block; color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere; }
"""

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
    page = folder / "index.html"
    text = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            f"<h1>{escape(title)}</h1>\n{_LEAD}",
            _facts(facts),
            *(_section(query) for query in queries),
            "</main>\n</body>\n</html>\n",
        ]
    )
    partial = folder / f".index.html.{os.getpid()}.partial"
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(page)
    except OSError as error:
        raise UdqError(f"{page}: the page cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return page


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return "<dl>\n" + "\n".join(rows) + "\n</dl>"


def _section(query: QueryView) -> str:
    matches = [MatchView(*match) for match in query.matches]
    right = sum(match.is_right for match in matches)
    drawn = _photo(query.photo, query.photo_size, query.box, "drawn", f"Query: {query.name}, in the drawn box")
    caption = f"The drawn box<small>{escape(query.photo)}</small>"
    summary = f"average precision {query.average_precision:.2f} · {right} of {len(matches)} shown are right"
    return "\n".join(
        [
            f"<section>\n<header><h2>{escape(query.name)}</h2>",
            f"<p>{summary}</p></header>",
            f'<div class="row">\n<figure class="query">{drawn}',
            f"<figcaption>{caption}</figcaption></figure>\n<ol>",
            *(_match(rank, match) for rank, match in enumerate(matches, start=1)),
            "</ol>\n</div>\n</section>",
        ]
    )


def _match(rank: int, match: MatchView) -> str:
    kind, mark = ("right", "✓ right") if match.is_right else ("wrong", "✗ wrong")
    overlap = "" if match.iou is None else f" · IoU {match.iou:.2f}"
    shown = _photo(match.photo, match.size, match.box, kind, f"Match {rank}, {kind}: {match.photo}")
    return (
        f'<li><figure>{shown}<figcaption>{rank}. <span class="{kind}">{mark}</span>'
        f"<small>score {match.score:.3g}{overlap}</small>"
        f"<small>{escape(match.photo)}</small></figcaption></figure></li>"
    )


def _photo(photo: str, size: tuple[int, int], box: Box, kind: str, alt: str) -> str:
    """Return a linked photo, fitted into a 4:3 place, with its box drawn over it."""
    width, height = size
    if width <= 0 or height <= 0:
        raise InputError(f"{photo}: expected a positive width and height, found {width} x {height}")
    link = _link(photo)
    share = min(1.0, width / height * 3 / 4)  # of the place's width, so that a tall photo fits its height
    x1, y1, x2, y2 = box
    rect = f'x="{x1:g}" y="{y1:g}" width="{max(x2 - x1, 0):g}" height="{max(y2 - y1, 0):g}"'
    return (
        f'<a class="photo" href="{link}"><span style="width:{100 * share:.2f}%">'
        f'<img src="{link}" width="{width}" height="{height}" alt="{escape(alt)}" loading="lazy">'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true"><rect class="under" {rect}/>'
        f'<rect class="box {kind}" {rect}/></svg></span></a>'
    )


def _link(photo: str) -> str:
    parts = photo.split("/")
    if photo.startswith("/") or ".." in parts or not photo:
        raise InputError(f"{photo!r}: expected the path of a photo inside the page's folder, relative to it")
    return escape(quote(photo, safe="/"))  # ":" is quoted, so that no name is read as an address
