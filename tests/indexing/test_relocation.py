"""A folder of photos moved: the collection follows, in one atomic change, without encoding a photo again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from test_update import answers, ids, opened

from udq import Collection
from udq.errors import ConsentError, InputError
from udq.indexing import relocation
from udq.indexing.relocation import Move
from udq.photos.source import Content, content
from udq.store import manifest as manifests
from udq.store.segments import Image


def test_photos_keep_ids_codes_and_answers_and_are_found_at_their_new_place(place, photos, udq):
    before = opened(place)
    (place / "photos" / "no.png").write_bytes(b"no photo")
    before.add(place / "photos")
    (place / "new home").mkdir()
    (place / "photos").rename(place / "new home" / "photos")
    words = ("relocate", place / "x.udq", place / "photos", place / "new home" / "photos")
    code, out, _ = udq(*words, "--dry-run")
    assert (code, "4 photos relocated" in out, opened(place).images) == (0, True, before.images)
    code, out, _ = udq(*words, "--json")
    after = opened(place)

    told = json.loads(out)
    assert (code, told["relocated"], told["same"], told["missing"], told["changed"]) == (0, 4, 4, [], [])
    assert (ids(after), answers(after), after.verify()) == (ids(before), answers(before), [])
    assert {image.root for image in after.images} == {f"{place}/new home/photos/"}
    assert f"folders       {place}/new home/photos/ (4)" in udq("info", place / "x.udq")[1]
    assert after.broken[0]["root"] == f"{place}/new home/photos/"
    assert after.search(after.images[1].path, k=1).matches[0].image == "coffee.png"
    again, changes = after.add(place / "new home" / "photos", sync=True)
    assert (changes.same, changes.moved, len(again.broken)) == (4, 0, 1)


def test_only_the_photos_below_the_folder_move(place, photos):
    before, _ = opened(place).add(photos / "views")
    (place / "photos").rename(place / "moved")
    after, done = before.relocate(place / "photos", place / "moved")

    assert (done.same, len(done.moved)) == (4, 4)
    roots = {image.name: image.root for image in after.images}
    assert roots["motorcycle_left.png"] == f"{photos.as_posix()}/views/"
    assert roots["coins.png"] == f"{place.as_posix()}/moved/"


def test_missing_and_changed_photos_are_named_and_need_consent(place, photos, udq):
    (place / "photos").rename(place / "moved")
    (place / "moved" / "coins.png").unlink()
    shutil.copy(photos / "page.png", place / "moved" / "rocket.png")
    os.utime(place / "moved" / "coffee.png", (1, 1))  # a copy without its time
    before = opened(place)
    with pytest.raises(
        ConsentError, match=r"1 are missing, 'coins\.png' first and 1 differ, 'rocket\.png' first; .*--yes"
    ):
        before.relocate(place / "photos", place / "moved")
    code, _, err = udq("relocate", place / "x.udq", place / "photos", place / "moved")
    assert (code, "Traceback" in err, opened(place).images) == (1, False, before.images)
    after, done = before.relocate(place / "photos", place / "moved", yes=True)

    assert (done.same, done.missing, done.changed) == (2, ("coins.png",), ("rocket.png",))
    changes = after.add(place / "moved", sync=True, dry_run=True)[1]
    assert (changes.same, changes.changed, changes.removed) == (2, 1, 1)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("photos", "nowhere", "expected the folder where the photos are now, found none"),
        ("other", "moved", "no photo of the collection is in this folder; its photos are in .*/photos/"),
        ("phot", "moved", "no photo of the collection is in this folder"),
    ],
)
def test_wrong_folders_are_refused(place, old, new, says):
    (place / "photos").rename(place / "moved")
    with pytest.raises(InputError, match=says):
        opened(place).relocate(place / old, place / new)


@pytest.mark.parametrize(
    ("root", "name", "old", "new", "expected"),
    [
        ("/a/photos/", "x/1.jpg", "/a/photos", "/b", ("x/1.jpg", "/b/")),
        ("/a/photos/", "x/1.jpg", "/a", "/b/", ("x/1.jpg", "/b/photos/")),
        ("/a/photos/", "x/1.jpg", "/a/photos/x", "/b/x", ("x/1.jpg", "/b/")),
        ("/a/photos/", "x/1.jpg", "/a/photos/x", "/a/photos/y", ("y/1.jpg", "/a/photos/")),
        ("/a/photos/", "x/1.jpg", "/a/photos/x", "/b/y", ("1.jpg", "/b/y/")),
        ("/a/photos/", "x/1.jpg", "/a/photo", "/b", None),
        ("/a/../c/", "1.jpg", "/c", "/b", ("1.jpg", "/b/")),
        ("/a/", "s.tar/x/1.jpg", "/a/s.tar", "/b/s.tar", ("s.tar/x/1.jpg", "/b/")),
        ("s3://museum/photos/", "x/1.jpg", "s3://museum/photos", "/b", ("x/1.jpg", "/b/")),
        ("/", "1.jpg", "/", "/b", ("1.jpg", "/b/")),
        ("/cafe\u0301/a/", "1.jpg", "/caf\u00e9", "/b", ("1.jpg", "/b/a/")),
    ],
)
def test_names_stay_if_the_new_place_allows_it(root, name, old, new, expected):
    source = Move(old, new).of(root, name)

    assert expected == (None if source is None else (source.name, source.root))
    if source is not None:
        assert str(source.path) == source.root + source.name


def test_two_photos_of_one_name_are_refused(tmp_path):
    (tmp_path / "y").mkdir()
    stored = [(Image(name, f"{tmp_path}/", 9, 9, number), None) for number, name in enumerate(["x/1.jpg", "y/1.jpg"])]
    with pytest.raises(InputError, match=r"two photos would be named 'y/1\.jpg'"):
        relocation.plan(stored, tmp_path / "x", tmp_path / "y")


def test_a_photo_whose_bytes_are_unknown_is_not_called_the_same(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1.jpg").write_bytes(b"1")
    (tmp_path / "new" / "2.jpg").write_bytes(b"2")
    known = content(tmp_path / "new" / "2.jpg")
    stored = [
        (Image("1.jpg", "/old/", 9, 9, 0), None),
        (Image("2.jpg", "/old/", 9, 9, 1), Content(known.size, 5, known.digest)),
    ]
    done = relocation.plan(stored, "/old", tmp_path / "new")

    assert (done.same, done.changed, done.missing) == (1, ("1.jpg",), ())
    assert done.moved[1][1] == known


def test_a_relocation_that_is_killed_leaves_one_state_or_the_other(place, photos):
    """Killed before each flush in turn, until it comes to its end."""
    script = """
import os, signal, sys
from udq import Collection
from udq.common import files
left = int(sys.argv[4])
fsync = os.fsync
def counting(number):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(number)
os.fsync = counting
Collection.open(sys.argv[1]).relocate(sys.argv[2], sys.argv[3])
"""
    (place / "photos").rename(place / "moved")
    roots = {f"{place}/photos/": 0, f"{place}/moved/": 0}
    before = ids(opened(place))
    for flushes in range(0, 40, 3):
        words = [place / "x.udq", place / "photos", place / "moved", flushes]
        ended = subprocess.run([sys.executable, "-c", script, *map(str, words)], check=False).returncode
        after = Collection.open(place / "x.udq")
        [root] = {image.root for image in after.images}
        roots[root] += 1
        assert (ids(after), after.verify()) == (before, [])
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        if root == f"{place}/moved/":
            break
    assert roots[f"{place}/photos/"] >= 2
    assert root == f"{place}/moved/"
    assert manifests.read_manifest(place / "x.udq").removed["images"] == 0
