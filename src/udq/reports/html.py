"""HTML pages of results: each is one document that needs no script, no font and no network.

Python prepares the data and the templates in ``templates/`` hold the markup. Every value is escaped, and control
characters or undecodable bytes in a file name are shown as escapes (``common.text.shown``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from udq.common.files import write_with
from udq.common.text import shown
from udq.errors import InputError
from udq.types import Box

# A box on a photo: the query's, one found in a right or a wrong photo, the true one.
Kind = Literal["drawn", "right", "wrong", "true"]


@dataclass(frozen=True)
class Photo:
    """A photo of a page, fitted into a 4:3 frame, with boxes drawn over it.

    Attributes:
        source: URL of the picture; None if the photo cannot be read.
        size: width and height of the photo in the pixels of its boxes, both positive.
        boxes: x1, y1, x2, y2 and its kind; later ones lie above.
        alt: what the photo shows, in words.
        link: URL that a click opens; empty for no link.
    """

    source: str | None
    size: tuple[float, float]
    boxes: tuple[tuple[Box, Kind], ...]
    alt: str
    link: str = ""

    def __post_init__(self) -> None:
        width, height = self.size
        if width <= 0 or height <= 0:
            raise InputError(f"{self.alt}: expected a positive width and height, found {width:g} x {height:g}")

    @property
    def share(self) -> float:
        """The photo's share of the frame's width, 0..1: below 1 if the photo is taller than 4:3."""
        width, height = self.size
        return min(1.0, width / height * 3 / 4)


@dataclass(frozen=True)
class Card:
    """A photo with its caption.

    Attributes:
        photo: the photo.
        title: first line of a query's caption.
        rank: place of a match, from 1; None if it has none.
        verdict: whether a match is right, shown as a coloured mark.
        remark: text behind the verdict, such as ``, IoU 0.123``.
        notes: further lines, in small type.
        name: the photo's name, below the notes.
    """

    photo: Photo
    title: str = ""
    rank: int | None = None
    verdict: Literal["right", "wrong"] | None = None
    remark: str = ""
    notes: tuple[str, ...] = ()
    name: str = ""


def render(template: str, **data: object) -> Iterator[str]:
    """Render a template piece by piece; iterables in ``data`` are consumed as the output is, so a page can stream.

    Args:
        template: file name in ``templates/``.
        data: the template's variables; a missing one raises ``jinja2.UndefinedError``.
    """
    return _environment().get_template(template).generate(**data)


def write(path: Path, parts: Iterable[str]) -> None:
    """Write a page atomically: an older file of that name stays until the new one is complete.

    Raises:
        UdqError: the file cannot be written.
    """

    def write_parts(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(parts)

    write_with(path, write_parts, what="page")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("udq.reports"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: f"{value:g}"
    environment.filters["thousands"] = lambda value: f"{value:,}"
    return environment


def _shown(value: object) -> object:
    """Make text printable; ``Markup``, the output of a macro, already is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
