"""The photos of a query's examples are recognised in a collection by path and by bytes, and come first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from udq import Collection
from udq.photos import source
from udq.search import rerank
from udq.search.rerank.shown_photos import ShownPhotos
from udq.types import Example

COFFEE = (81, 20, 478, 386)


@pytest.fixture(scope="module")
def stored(base):
    """What a collection of four photos stores of each, by name."""
    opened = Collection.open(base / "x.udq", device="cpu")
    return {photo.image.name: photo for photo in opened.database.photos(range(4))}


def names(stored, *examples):
    shown = ShownPhotos(examples)
    return [name for name, photo in stored.items() if photo in shown]


def test_a_photo_is_recognised_by_its_path_a_link_to_it_and_its_bytes(base, stored, tmp_path):
    photo = base / "photos" / "coins.png"
    shutil.copy(photo, tmp_path / "upload.bin")
    (tmp_path / "coins.png").symlink_to(photo)

    for path in (photo, tmp_path / "upload.bin", tmp_path / "coins.png"):
        assert names(stored, Example(path)) == ["coins.png"]
    assert names(stored, Example(photo, wrong=True)) == []


def test_other_bytes_of_the_same_size_and_name_are_another_photo(base, stored, tmp_path):
    (tmp_path / "coins.png").write_bytes((base / "photos" / "coins.png").read_bytes()[:-1] + b"?")

    assert names(stored, Example(tmp_path / "coins.png")) == []


def test_a_file_is_read_only_if_a_photo_has_its_size(base, stored, tmp_path, monkeypatch):
    read = []
    content = source.content
    monkeypatch.setattr(source, "content", lambda path: read.append(path) or content(path))
    other, copy = tmp_path / "other.png", tmp_path / "copy.png"
    other.write_bytes(b"another size")
    shutil.copy(base / "photos" / "rocket.png", copy)

    assert names(stored, Example(other), Example(tmp_path / "removed.png")) == []
    assert read == []
    assert names(stored, Example(copy)) == ["rocket.png"]
    assert read == [copy]


@pytest.mark.parametrize("stages", [None, *([name] for name in rerank.STAGES)])
def test_an_uploaded_copy_of_a_photo_finds_that_photo_first(demo, tmp_path, stages):
    collection = Collection.open(demo["written"]["collection"], device="cpu")
    photo = next(image.path for image in collection.images if image.name == "coffee.jpg")
    shutil.copy(photo, upload := tmp_path / "my cup.jpg")
    found = collection.search(upload, COFFEE, rerank=stages).matches
    by_path = collection.search(Path(photo), COFFEE, rerank=stages).matches

    assert (found[0].image, found[0].confidence) == ("coffee.jpg", 1.0)
    assert [(match.image, match.score) for match in found] == [(match.image, match.score) for match in by_path]
