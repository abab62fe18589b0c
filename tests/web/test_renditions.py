"""Files of photos: access checks, names in errors, and content types."""

from __future__ import annotations

import os

import pytest
from clients import bytes_of
from html_page import Page

from udq.errors import ImageError
from udq.photos.source import SUFFIXES
from udq.web import renditions
from udq.web.app import PAGE
from udq.web.problems import Problem
from udq.web.renditions import resolve


@pytest.fixture
def photo(tmp_path):
    """The path of a photo in a folder, beside which there is a file outside of it."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.png").write_bytes(bytes_of("x.png"))
    path = tmp_path / "photos" / "a.png"
    path.write_bytes(bytes_of("x.png"))
    return path


def test_a_photo_file_has_a_path_for_programs_and_a_name_for_people(photo):
    file = resolve(photo, photo.parent, name="holiday.png", width=60, height=40)

    assert (os.fspath(file), str(file)) == (str(photo.resolve()), "holiday.png")
    with pytest.raises(ImageError) as caught, file.name_in_errors():
        raise ImageError(f"{photo.resolve()}: damaged")
    assert str(caught.value) == "holiday.png: damaged"


def test_another_version_of_a_file_is_another_version_of_the_photo(photo):
    before = resolve(photo, photo.parent, name="a.png", width=60, height=40)
    photo.write_bytes(bytes_of("x.png", (61, 40)))
    after = resolve(photo, photo.parent, name="a.png", width=61, height=40)

    assert before.version != after.version
    assert renditions.etag(before, "file") != renditions.etag(after, "file")


def test_missing_files_and_links_out_of_the_folder_are_refused(photo):
    photo.unlink()
    with pytest.raises(Problem, match="its file no longer exists; if its folder moved, run udq relocate") as gone:
        resolve(photo, photo.parent, name="a.png", width=60, height=40)
    photo.symlink_to(photo.parent.parent / "secret.png")
    with pytest.raises(Problem, match="found a link to a file outside") as outside:
        resolve(photo, photo.parent, name="a.png", width=60, height=40)
    assert (gone.value.kind, outside.value.kind) == ("photo-gone", "outside-folder")


def test_media_type_is_determined_by_the_first_bytes():
    assert renditions.media_type(b"<html>") is None
    assert renditions.media_type(b"") is None
    assert renditions.media_type(b"RIFF\0\0\0\0WAVE") is None
    assert renditions.media_type(b"\0\0\0\x20ftypheic") is None
    assert renditions.media_type(bytes_of("x.png")[:25]) == "image/png"


def test_the_page_offers_the_files_that_are_read():
    (chosen,) = [tag for tag in Page((PAGE / "index.html").read_text(encoding="utf-8")).all("input") if "accept" in tag]

    assert chosen["accept"] == ",".join(sorted(SUFFIXES))
