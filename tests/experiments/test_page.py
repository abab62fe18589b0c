"""The page of the demonstration: text, links and boxes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from html_page import Page

from udq.errors import InputError, UdqError
from udq.experiments.demo.page import MatchView, QueryView, write_page

NASTY = 'photos/a & <b> "c" 50% #1 é: d?.jpg'


@pytest.fixture
def query() -> QueryView:
    return QueryView(
        name="cat & <script>alert(1)</script>",
        photo="photos/q.jpg",
        box=(10.0, 20.0, 110.0, 220.5),
        photo_size=(640, 480),
        average_precision=0.75,
        matches=[
            MatchView(NASTY, (480, 640), (5.0, 6.0, 50.0, 60.0), 0.25, True, 0.8125),
            MatchView("photos/m.jpg", (640, 480), (0.0, 0.0, 64.0, 48.0), 0.125, False, None),
        ],
    )


def _write(folder: Path, *queries: QueryView) -> Page:
    page = write_page(folder, title="A <title> & more", facts=[("mAP <x>", "0.9 & up")], queries=queries)
    assert page == folder / "index.html"
    return Page(page.read_text(encoding="utf-8"))


def test_text_is_escaped(tmp_path: Path, query: QueryView) -> None:
    page = _write(tmp_path, query)
    raw = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    assert not page.all("script")
    for text in ("A <title> & more", "mAP <x>", "0.9 & up", query.name, NASTY):
        assert text in page.text
    assert NASTY in str(page.all("img")[1]["alt"])


def test_every_link_resolves_beside_the_page(tmp_path: Path, query: QueryView) -> None:
    (tmp_path / "photos").mkdir()
    for name in (query.photo, *(match.photo for match in query.matches)):
        (tmp_path / name).write_bytes(b"")
    page = _write(tmp_path, query)
    links = [tag["href"] for tag in page.all("a")] + [tag["src"] for tag in page.all("img")]
    assert len(links) == 2 * 3
    for link in links:
        parts = urlsplit(str(link))
        assert parts == ("", "", parts.path, "", "")
        assert (tmp_path / unquote(parts.path)).is_file(), link


def test_loads_nothing_from_other_hosts(tmp_path: Path, query: QueryView) -> None:
    _write(tmp_path, query)
    raw = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "http" not in raw
    assert "url(" not in raw
    assert "@import" not in raw


def test_boxes_are_drawn_in_pixels_of_their_photo(tmp_path: Path, query: QueryView) -> None:
    page = _write(tmp_path, query)
    assert [svg["viewbox"] for svg in page.all("svg")] == ["0 0 640 480", "0 0 480 640", "0 0 640 480"]
    boxes = [rect for rect in page.all("rect") if str(rect["class"]).startswith("box")]
    assert [rect["class"] for rect in boxes] == ["box drawn", "box right", "box wrong"]
    assert [boxes[0][key] for key in ("x", "y", "width", "height")] == ["10", "20", "100", "200.5"]


def test_says_right_and_wrong_in_words(tmp_path: Path, query: QueryView) -> None:
    page = _write(tmp_path, query)
    assert "1. ✓ rightscore 0.25 · IoU 0.81" in page.text
    assert "2. ✗ wrongscore 0.125photos/m.jpg" in page.text
    assert "average precision 0.75 · 1 of 2 shown are right" in page.text


def test_is_accessible_and_fits_small_and_dark_screens(tmp_path: Path, query: QueryView) -> None:
    page = _write(tmp_path, query)
    raw = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert raw.startswith("<!doctype html>")
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in raw


def test_matches_may_be_plain_tuples(tmp_path: Path, query: QueryView) -> None:
    _write(tmp_path, query)
    named = (tmp_path / "index.html").read_bytes()
    _write(tmp_path, replace(query, matches=[tuple(match) for match in query.matches]))  # type: ignore[misc]
    assert (tmp_path / "index.html").read_bytes() == named


def test_no_queries_and_no_facts_make_a_page(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path, title="t", facts=[], queries=[]).read_text(encoding="utf-8"))
    assert not page.all("dl")
    assert not page.all("section")


@pytest.mark.parametrize("photo", ["/etc/passwd", "../x.jpg", "photos/../../x.jpg", ""])
def test_photos_outside_the_folder_are_refused(tmp_path: Path, query: QueryView, photo: str) -> None:
    with pytest.raises(InputError, match="inside the page's folder"):
        _write(tmp_path, replace(query, photo=photo))
    assert not list(tmp_path.iterdir())


def test_a_name_like_an_address_stays_a_file(tmp_path: Path, query: QueryView) -> None:
    page = _write(tmp_path, replace(query, photo="javascript:alert(1)"))
    assert page.all("a")[0]["href"] == "javascript%3Aalert%281%29"


def test_an_empty_photo_is_refused(tmp_path: Path, query: QueryView) -> None:
    with pytest.raises(InputError, match="0 x 480"):
        _write(tmp_path, replace(query, photo_size=(0, 480)))


def test_a_missing_folder_is_one_line(tmp_path: Path, query: QueryView) -> None:
    with pytest.raises(UdqError, match=r"cannot be written: No such file or directory$"):
        write_page(tmp_path / "missing", title="t", facts=[], queries=[query])


def test_an_older_page_is_replaced_and_nothing_else_left(tmp_path: Path, query: QueryView) -> None:
    (tmp_path / "index.html").write_text("older")
    _write(tmp_path, query)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
