"""Photos of a collection compared with files: unchanged, changed, moved, renamed, gone."""

from __future__ import annotations

import os
import shutil

import pytest

from udq.errors import InputError
from udq.indexing.sync import plan
from udq.photos.listing import Area, Excludes
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


@pytest.mark.parametrize("mirrored", [False, True])
def test_unchanged_files_are_not_read(folder, mirrored, monkeypatch):
    before = stored(folder)
    monkeypatch.setattr("udq.photos.source.content", lambda path: 1 // 0)
    found = plan(before, sources(folder), mirror=Area.of([folder]) if mirrored else None)

    assert (found.new, found.changed, found.moved, found.gone, found.same) == ((), {}, {}, (), 3)


def test_each_kind_of_change_is_recognised(folder):
    before = stored(folder)
    os.utime(folder / "a.jpg", (1, 1))  # the same bytes
    (folder / "b.jpg").write_bytes(b"other")
    (folder / "c.jpg").rename(folder / "d.jpg")
    (folder / "new.jpg").write_bytes(b"new")
    mirrored = plan(before, sources(folder), mirror=Area.of([folder]))

    assert [source.name for source in mirrored.new] == ["new.jpg"]
    assert {source.name: number for source, number in mirrored.changed.items()} == {"b.jpg": 1}
    assert {number: source.name for number, (source, _) in mirrored.moved.items()} == {0: "a.jpg", 2: "d.jpg"}
    assert mirrored.moved[0][1] == content(folder / "a.jpg")
    assert (mirrored.gone, mirrored.same) == ((), 0)

    added = plan(before, sources(folder))
    assert [source.name for source in added.new] == ["d.jpg", "new.jpg"]  # only a mirror follows new names
    assert (added.changed.keys(), added.moved.keys(), added.gone) == (mirrored.changed.keys(), {0}, ())


def test_only_a_mirror_removes_photos(folder):
    before = stored(folder)
    (folder / "b.jpg").unlink()

    assert plan(before, sources(folder), mirror=Area.of([folder])).gone == (1,)
    assert plan(before, sources(folder)).gone == ()


def test_equal_files_are_matched_one_to_one(folder):
    shutil.copy(folder / "a.jpg", folder / "b.jpg")
    before = stored(folder)
    (folder / "a.jpg").rename(folder / "x.jpg")
    (folder / "b.jpg").rename(folder / "y.jpg")
    shutil.copy(folder / "x.jpg", folder / "z.jpg")
    found = plan(before, sources(folder), mirror=Area.of([folder]))

    assert {number: source.name for number, (source, _) in found.moved.items()} == {0: "x.jpg", 1: "y.jpg"}
    assert [source.name for source in found.new] == ["z.jpg"]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("away", [False, True])
def test_another_photo_of_the_same_name_is_refused_even_if_the_first_one_is_away(folder, tmp_path, mirrored, away):
    before = stored(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"other")
    if away:
        folder.rename(tmp_path / "unmounted")

    says = r"two photos would be named 'a\.jpg': .*which the collection contains" + (" and whose file is away" * away)
    with pytest.raises(InputError, match=says) as refused:
        plan(before, sources(other), mirror=Area.of([other]) if mirrored else None)
    assert ("udq relocate COLLECTION" in str(refused.value)) == away


def test_a_mirrored_folder_removes_no_photos_of_another_one(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(b"x")
    both = [*stored(folder), (Image("x.jpg", f"{other}/", 100, 80, 9), content(other / "x.jpg"))]
    (folder / "b.jpg").unlink()
    found = plan(both, sources(other), mirror=Area.of([other]))

    assert (found.same, found.gone, found.emptied) == (1, (), {})
    assert plan(both, sources(folder), mirror=Area.of([folder])).gone == (1,)


def test_a_photo_that_is_given_by_another_folder_is_the_same_photo(folder, tmp_path):
    below = folder / "below"
    below.mkdir()
    (below / "d.jpg").write_bytes(b"d")
    before = stored(folder)
    (tmp_path / "link").symlink_to(below)
    for given in (below, tmp_path / "link"):
        found = plan(before, sources(given), mirror=Area.of([given]))
        assert (found.new, found.moved, found.gone, found.same) == ((), {}, (), 1)
    (below / "d.jpg").write_bytes(b"other")
    assert {source.name for source in plan(before, sources(below)).changed} == {"below/d.jpg"}
    assert plan(before, [*sources(below), *sources(folder)]).same == 3  # each place once


def test_folders_that_lost_all_photos_at_once_are_reported(folder):
    for name in ("disk/one/1.jpg", "disk/2.jpg", "thin/3.jpg", "moved/4.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    before, area = stored(folder), Area.of([folder])
    shutil.rmtree(folder / "disk" / "one")
    assert plan(before, sources(folder), mirror=area).emptied == {f"{folder}/disk/one/": 1}
    (folder / "disk" / "2.jpg").unlink()
    (folder / "moved").rename(folder / "here")
    (folder / "thin" / "3.jpg").unlink()
    (folder / "thin" / "new.jpg").write_bytes(b"new")
    (folder / "a.jpg").unlink()
    found = plan(before, sources(folder), mirror=area)

    assert found.emptied == {f"{folder}/disk/": 2}  # ``thin`` has a photo, and that of ``moved`` was found again
    assert len(found.gone) == 4
    assert plan(before, sources(folder), mirror=area, excludes=Excludes(["disk"])).emptied == {}


def test_another_disk_in_place_of_a_folder_is_reported(folder):
    before = stored(folder)
    for file in folder.iterdir():
        file.unlink()
    (folder / "other.jpg").write_bytes(b"other")

    assert plan(before, sources(folder), mirror=Area.of([folder])).emptied == {f"{folder}/": 3}


def test_a_photo_of_a_folder_that_emptied_is_not_replaced_unnoticed(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    before = stored(folder)
    for file in folder.iterdir():
        file.unlink()
    (other / "a.jpg").write_bytes(b"other")
    found = plan(before, sources(other), mirror=Area.of([folder, other]))

    assert (list(found.changed.values()), found.gone) == ([0], (1, 2))
    assert found.emptied == {f"{folder}/": 3}
