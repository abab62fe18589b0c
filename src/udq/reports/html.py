"""Pages of results: one HTML document each, which needs no script, no font and no network.

What the demonstration's page and the report of a benchmark share: the document and its looks, a list of facts, and
photos with boxes drawn over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Literal

from udq.common.files import write_with
from udq.common.text import shown
from udq.errors import InputError
from udq.types import Box

# What a box says: the query's, where a right or a wrong photo is said to show the object, where it truly is.
Kind = Literal["drawn", "right", "wrong", "true"]

_STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfc; --card: #fff; --ink: #1b1f24; --quiet: #59636e;
  --line: #d9dee3; --right: #0a66c2; --wrong: #a84a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --card: #1d2125; --ink: #e8ebee;
  --quiet: #a3adb8; --line: #353b42; --right: #79bbff; --wrong: #ffb066; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 92rem; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 4rem; color: var(--ink);
  background: var(--ground); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 1.2rem; overflow-wrap: anywhere; }
main > h2 { margin: 2rem 0 .5rem; }
h3 { margin: 1.25rem 0 .5rem; font-size: 1rem; } h3:first-child { margin-top: 0; }
h3 small { color: var(--quiet); font-weight: 400; }
a { color: var(--right); } p, li { overflow-wrap: anywhere; }
.lead { max-width: 46rem; margin: 0 0 .75rem; } .quiet { color: var(--quiet); }
.right { color: var(--right); font-weight: 600; } .wrong { color: var(--wrong); font-weight: 600; }
dl { display: flex; flex-wrap: wrap; gap: 1px; overflow: hidden;
  margin: 1.5rem 0 2rem; background: var(--line); border: 1px solid var(--line); border-radius: .5rem; }
dl > div { flex: 1 1 10rem; padding: .6rem .9rem; background: var(--card); }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
section { padding: 1.5rem 0; border-top: 1px solid var(--line); }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; margin-bottom: .75rem; }
header p { margin: 0; color: var(--quiet); }
.row { display: grid; grid-template-columns: minmax(14rem, 19rem) minmax(0, 1fr); gap: 1.5rem; align-items: start; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem .75rem;
  margin: 0; padding: 0; list-style: none; }
ol.small { grid-template-columns: repeat(auto-fill, minmax(8.25rem, 1fr)); }
@media (max-width: 44rem) { .row { grid-template-columns: minmax(0, 1fr); }
  ol, ol.small { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; } figure + figure { margin-top: 1rem; }
.photo { display: grid; place-items: center; aspect-ratio: 4 / 3; overflow: hidden; border-radius: .35rem;
  background: var(--line); }
.query .photo { outline: 3px solid var(--ink); outline-offset: 2px; }
.photo span { position: relative; display: block; }
.photo img { display: block; width: 100%; height: auto; }
.photo .gone { display: grid; place-items: center; padding: .5rem; text-align: center; color: var(--quiet);
  font-size: .85rem; }
.photo svg { position: absolute; inset: 0; width: 100%; height: 100%; }
rect { fill: none; vector-effect: non-scaling-stroke; }
.under { stroke: #10141a; stroke-width: 5px; } .box { stroke-width: 3px; }
.box.right { stroke: #3d9cff; } .box.wrong { stroke: #ff9626; } .box.drawn { stroke: #ffe14d; }
.box.true { stroke: #fff; stroke-dasharray: 7 5; }
figcaption { margin-top: .35rem; font-size: .85rem; line-height: 1.35; }
figcaption small { display: block; color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; } td:not(.number) { min-width: 6.5rem; } th { color: var(--quiet); font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { margin: 1rem 0; cursor: pointer; }
.chart { display: block; width: 100%; max-width: 32rem; margin: .5rem 0 1.5rem; }
.chart rect { fill: var(--right); } .chart line { stroke: var(--line); }
.chart text { fill: var(--ink); font-size: 10px; } .chart .unit { fill: var(--quiet); }
"""

# Nothing but what the file itself holds may be loaded, whatever a name in it says.
_ALONE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, body: Iterable[str], *, alone: bool = False) -> Iterator[str]:
    """Return the parts of a whole document, one after the other, so that a long one is never in memory.

    Args:
        title: of the window; the heading is part of the body.
        body: HTML.
        alone: whether the page has all its photos in itself; the browser is then told to load nothing else.
    """
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    if alone:
        yield f'<meta http-equiv="Content-Security-Policy" content="{_ALONE}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{words(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
    for part in body:
        yield f"{part}\n"
    yield "</main>\n</body>\n</html>\n"


def write(path: Path, parts: Iterable[str]) -> None:
    """Write a page whole or not at all; an older file of that name stays until the new one is complete.

    Raises:
        UdqError: the file cannot be written.
    """

    def write_parts(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(parts)

    write_with(path, write_parts, what="page")


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return a list of names and values; nothing where there are none."""
    if not rows:
        return ""
    lines = (f"<div><dt>{words(name)}</dt><dd>{words(value)}</dd></div>" for name, value in rows)
    return "<dl>\n" + "\n".join(lines) + "\n</dl>"


def words(text: str) -> str:
    """Return text that may hold a file's name as HTML: what cannot be shown in it becomes an escape."""
    return escape(shown(text))


def name(text: str) -> str:
    """Return a photo's name as HTML, kept from turning the text around it where it is written from the right."""
    return f"<bdi>{words(text)}</bdi>"


def photo(
    source: str | None, size: tuple[float, float], boxes: Sequence[tuple[Box, Kind]], alt: str, *, link: str = ""
) -> str:
    """Return a photo, fitted into a 4:3 place, with boxes drawn over it.

    Args:
        source: address of the picture, escaped where it needs it; None for one that cannot be read.
        size: width and height of the photo in the pixels of its boxes.
        boxes: x1, y1, x2, y2 and what each says; later ones lie above.
        alt: what the photo shows, in words.
        link: where a click leads, escaped.
    """
    width, height = size
    if width <= 0 or height <= 0:
        raise InputError(f"{alt}: expected a positive width and height, found {width:g} x {height:g}")
    share = min(1.0, width / height * 3 / 4)  # of the place's width, so that a tall photo fits its height
    sides = f'width="{width:g}" height="{height:g}"'
    said = words(alt)
    inside = (
        f'<span class="gone" role="img" aria-label="{said}" style="aspect-ratio:{width:g}/{height:g}">'
        "photo cannot be read now</span>"
        if source is None
        else f'<img src="{source}" {sides} alt="{said}" loading="lazy">'
    )
    drawn = "".join(_rectangle(box, kind) for box, kind in boxes)
    if boxes:
        drawn = f'<svg viewBox="0 0 {width:g} {height:g}" aria-hidden="true">{drawn}</svg>'
    inside = f'<span style="width:{100 * share:.2f}%">{inside}{drawn}</span>'
    return f'<a class="photo" href="{link}">{inside}</a>' if link else f'<div class="photo">{inside}</div>'


def card(photo: str, *lines: str) -> str:
    """Return a photo with what is said of it: lines of HTML, the first one large."""
    first, *others = lines
    small = "".join(f"<small>{line}</small>" for line in others)
    return f"<figure>{photo}<figcaption>{first}{small}</figcaption></figure>"


def _rectangle(box: Box, kind: Kind) -> str:
    x1, y1, x2, y2 = box
    place = f'x="{x1:g}" y="{y1:g}" width="{max(x2 - x1, 0):g}" height="{max(y2 - y1, 0):g}"'
    return f'<rect class="under" {place}/><rect class="box {kind}" {place}/>'
