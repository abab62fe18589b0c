"""Templates: every value is escaped and printable, and a missing one is an error."""

from __future__ import annotations

import pytest
from html_page import Page
from jinja2 import UndefinedError

from udq.errors import InputError
from udq.reports import html
from udq.reports.html import Card, Photo

HOSTILE = "\"><script>alert('x')</script>\u202egnp.\x1b\udce9"
PRINTED = "\"><script>alert('x')</script>\\u202egnp.\\x1b\\xe9"


def section(card):
    """The HTML of a section of the error report that holds one card."""
    values = {"anchor": "q1", "name": "n", "precision": "p", "positives": "r", "query": (card,), "groups": ()}
    return "".join(html.render("error_section.html", section=values))


def test_values_are_escaped_in_text_and_attributes():
    photo = Photo(HOSTILE, (4, 3), (), HOSTILE, link=HOSTILE)
    page = Page(section(Card(photo, HOSTILE, verdict="right", remark=HOSTILE, notes=(HOSTILE,), name=HOSTILE)))

    assert not page.all("script")
    assert page.text.count(PRINTED) == 4
    (image,) = page.all("img")
    assert (image["src"], image["alt"], page.all("a")[0]["href"]) == (PRINTED,) * 3


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        list(html.render("demo.html", alone=False, headline=[], sections=[]))


@pytest.mark.parametrize("alone", [True, False])
def test_only_a_page_with_embedded_photos_forbids_loading(alone):
    page = Page("".join(html.render("demo.html", title="t", alone=alone, headline=[], sections=[])))
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]

    assert policies == (["default-src 'none'; img-src data:; style-src 'unsafe-inline'"] if alone else [])


@pytest.mark.parametrize(("size", "width"), [((400, 300), "100.00%"), ((800, 300), "100.00%"), ((300, 800), "28.12%")])
def test_a_photo_fits_a_frame_of_4_to_3(size, width):
    page = Page(section(Card(Photo("x.jpg", size, (), "a"))))

    assert [span["style"] for span in page.all("span")] == [f"width:{width}"]


def test_an_inverted_box_has_no_negative_size():
    page = Page(section(Card(Photo("x.jpg", (4, 3), (((3.0, 2.0, 1.0, 1.0), "true"),), "a"))))
    under, box = page.all("rect")

    assert (under["class"], box["class"]) == ("under", "box true")
    assert [box[key] for key in ("x", "y", "width", "height")] == ["3", "2", "0", "0"]


def test_a_photo_without_extent_is_refused():
    with pytest.raises(InputError, match=r"^a: expected a positive width and height, found 4 x 0$"):
        Photo(None, (4, 0), (), "a")
