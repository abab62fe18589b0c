"""Photos of a collection compared with files: unchanged, changed, moved, renamed, gone."""

from __future__ import annotations

import os
import shutil

import pytest

from udq.errors import InputError
from udq.indexing.sync import plan
from udq.photos.source import Source, content
from udq.store.segments import Image


@pytest.fixture
def folder(tmp_path):
    """A folder of three files, each with contents of its own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(name.encode() * 10)
    return folder


def sources(folder):
    return [Source(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def stored(folder):
    """The files as a collection has them, with ids from 0 on."""
    return [
        (Image(source.name, source.root, 100, 80, number), content(source.path))
        for number, source in enumerate(sources(folder))
    ]


@pytest.mark.parametrize("mirror", [False, True])
def test_unchanged_files_are_not_read(folder, mirror, monkeypatch):
    before = stored(folder)
    monkeypatch.setattr("udq.photos.source.content", lambda path: 1 // 0)
    found = plan(before, sources(folder), mirror=mirror)

    assert (found.new, found.changed, found.moved, found.gone, found.same) == ((), {}, {}, (), 3)


def test_each_kind_of_change_is_recognised(folder):
    before = stored(folder)
    os.utime(folder / "a.jpg", (1, 1))  # the same bytes
    (folder / "b.jpg").write_bytes(b"other")
    (folder / "c.jpg").rename(folder / "d.jpg")
    (folder / "new.jpg").write_bytes(b"new")
    mirrored = plan(before, sources(folder), mirror=True)

    assert [source.name for source in mirrored.new] == ["new.jpg"]
    assert {source.name: number for source, number in mirrored.changed.items()} == {"b.jpg": 1}
    assert {number: source.name for number, (source, _) in mirrored.moved.items()} == {0: "a.jpg", 2: "d.jpg"}
    assert mirrored.moved[0][1] == content(folder / "a.jpg")
    assert (mirrored.gone, mirrored.same) == ((), 0)

    added = plan(before, sources(folder), mirror=False)
    assert [source.name for source in added.new] == ["d.jpg", "new.jpg"]  # only a mirror follows new names
    assert (added.changed.keys(), added.moved.keys(), added.gone) == (mirrored.changed.keys(), {0}, ())


def test_only_a_mirror_removes_photos(folder):
    before = stored(folder)
    (folder / "b.jpg").unlink()

    assert plan(before, sources(folder), mirror=True).gone == (1,)
    assert plan(before, sources(folder), mirror=False).gone == ()


def test_equal_files_are_matched_one_to_one(folder):
    shutil.copy(folder / "a.jpg", folder / "b.jpg")
    before = stored(folder)
    (folder / "a.jpg").rename(folder / "x.jpg")
    (folder / "b.jpg").rename(folder / "y.jpg")
    shutil.copy(folder / "x.jpg", folder / "z.jpg")
    found = plan(before, sources(folder), mirror=True)

    assert {number: source.name for number, (source, _) in found.moved.items()} == {0: "x.jpg", 1: "y.jpg"}
    assert [source.name for source in found.new] == ["z.jpg"]


def test_another_photo_of_the_same_name_is_refused_unless_the_folder_is_mirrored(folder, tmp_path):
    before = stored(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"other")

    with pytest.raises(InputError, match=r"two photos would be named 'a\.jpg': .*which the collection contains"):
        plan(before, sources(other), mirror=False)
    found = plan(before, sources(other), mirror=True)
    assert (list(found.changed.values()), found.gone) == ([0], (1, 2))
