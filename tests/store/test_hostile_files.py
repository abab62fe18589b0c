"""Pipes, devices, links, folders and oversized files in the place of files of a collection or a build: one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys

import pytest
from at_once import at_once
from test_appender import photos
from test_builder import put, stop_after_one_segment
from test_manifest import change, indexed, random_codes, read, small_model, write

from udq import Collection
from udq.common.files import checksum
from udq.common.lock import LOCK, OWNER
from udq.config import IndexConfig
from udq.errors import CollectionError, DiskError, InputError, UdqError
from udq.indexing.repair import repair
from udq.indexing.verify import verify
from udq.store import layout, segments
from udq.store import manifest as manifests
from udq.store.builder import CollectionBuilder
from udq.store.transaction import Transaction

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")

STORED = (*segments.FILES, segments.POINTS, segments.STARTS)
LISTED = ("model-000001.npz", "removed-000001.npy", *(f"segments/000001/{name}" for name in STORED))


@pytest.fixture
def path(tmp_path):
    """A collection of photos 0, 1 and 2, of which 0 is removed."""
    path = write(tmp_path / "x.udq")
    with Transaction(path) as transaction:
        transaction.commit(transaction.manifest.segments, {0: 2})
    return path


def contents(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def add(path, number=3):
    with Transaction(path) as transaction:
        entry = transaction.write(photos(number, 1), codewords=32)
        transaction.commit([*transaction.manifest.segments, entry], {0: 2}, next_id=number + 1)


def retrain(path):
    before = manifests.Manifest(json.loads((path / "collection.json").read_bytes()))
    CollectionBuilder(path, fingerprint="x", replaces=before)


def use(path):
    return Collection.open(path).names


def replace(file, kind):
    if kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "large":
        with file.open("r+b") as opened:
            opened.truncate(2**40)  # sparse: it takes no room on the disk, and would take all memory


@pytest.mark.parametrize("kind", ["pipe", "folder", "large"])
@pytest.mark.parametrize("name", LISTED)
def test_what_is_not_a_file_of_the_listed_size_is_damage_at_once(path, name, kind):
    replace(path / name, kind)
    with pytest.raises(CollectionError, match=f"{name}: damaged"):
        at_once(lambda: use(path))
    assert [damage.file for damage in at_once(lambda: verify(path))] == [name]


@pytest.mark.parametrize("kind", ["pipe", "folder", "large"])
def test_a_manifest_that_is_not_a_file_is_damage_at_once(path, kind):
    replace(path / "collection.json", kind)
    with pytest.raises(CollectionError, match=r"collection\.json: damaged \("):
        at_once(lambda: use(path))
    assert [damage.file for damage in at_once(lambda: verify(path))] == ["collection.json"]
    replace(path / "collection.copy.json", kind)
    with pytest.raises(CollectionError, match="are both damaged or missing; restore the collection from a backup"):
        at_once(lambda: verify(path))
    with pytest.raises(CollectionError, match="are both damaged"):
        at_once(lambda: repair(path))


def test_a_repair_puts_a_manifest_in_the_place_of_a_pipe(path):
    before = (path / "collection.json").read_bytes()
    replace(path / "collection.json", "pipe")
    at_once(lambda: repair(path))
    assert (path / "collection.json").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["collection.json", "collection.copy.json", LOCK, OWNER, "segments", "segments/000001", *LISTED]
)
def test_links_below_a_collection_are_refused_before_anything_is_read_or_changed(path, tmp_path, name):
    target = tmp_path / "elsewhere"
    if (path / name).exists():
        shutil.move(path / name, target)
    else:
        target.write_bytes(b"precious")
    (path / name).symlink_to(target)
    before = contents(tmp_path)
    for work in (use, verify, repair, add, retrain):
        with pytest.raises(CollectionError, match=f"its '{name}' is a link, and a change would write through it; [dp]"):
            work(path)
    assert contents(tmp_path) == before


def test_damage_is_sent_to_other_processes_as_it_is(path):
    error = layout.DamagedError(path / "x", "cut short")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.file, again.reason) == (str(error), path / "x", "cut short")


def test_the_collection_itself_may_be_a_link(path, tmp_path):
    path.rename(tmp_path / "other.udq")
    path.symlink_to(tmp_path / "other.udq")
    add(path)
    assert use(path) == ["ä/b c.jpg", "z.jpg", "3.jpg"]
    assert verify(path) == []
    assert path.is_symlink()


@pytest.mark.parametrize("name", [LOCK, OWNER])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_not_a_lock_is_one_line_before_anything_is_changed(path, name, kind):
    (path / name).touch()
    replace(path / name, kind)
    before = contents(path)
    found = "a folder" if kind == "folder" else "a pipe or device"
    with pytest.raises(DiskError, match=rf"{name}: cannot be written \(expected a file of udq itself, found {found}\)"):
        at_once(lambda: add(path))
    assert contents(path) == before
    assert len(use(path)) == 2  # reading needs no lock


def test_new_numbers_follow_those_of_the_manifest_if_the_disk_lost_the_files(path):
    shutil.rmtree(path / "segments" / "000002")
    with Transaction(path) as transaction:
        assert transaction.write(photos(3, 1), codewords=32)["folder"] == "segments/000003"


def test_new_numbers_follow_those_of_the_copy(path):
    manifest = json.loads((path / "collection.json").read_bytes())
    add(path)
    (path / "collection.json").write_text(json.dumps(manifest))  # killed after the copy was replaced
    shutil.rmtree(path / "segments" / "000003")
    with Transaction(path) as transaction:
        assert transaction.write(photos(3, 1), codewords=32)["folder"] == "segments/000004"


@pytest.mark.parametrize("is_file", [True, False])
def test_new_numbers_follow_those_on_the_disk(path, is_file):
    (path / "segments" / "000007").mkdir()
    if is_file:
        (path / "segments" / "000007" / "codes.npy").write_bytes(b"of another run")
    with Transaction(path) as transaction:
        assert transaction.write(photos(3, 1), codewords=32)["folder"] == "segments/000008"
    assert not is_file or (path / "segments" / "000007" / "codes.npy").read_bytes() == b"of another run"


def test_the_number_after_999999_has_seven_digits(path):
    (path / "segments" / "999999").mkdir()
    add(path)
    assert manifests.read_manifest(path).segments[-1]["folder"] == "segments/1000000"
    assert verify(path) == []
    add(path, 4)
    assert manifests.read_manifest(path).segments[-1]["folder"] == "segments/1000001"
    assert len(use(path)) == 4
    assert verify(path) == []


def test_no_number_left_is_one_line_before_anything_is_changed(path):
    (path / "segments" / ("9" * 18)).mkdir()
    before = contents(path)
    with pytest.raises(CollectionError, match="no number is left for new files"):
        add(path)
    assert contents(path) == before | {LOCK: b""}
    assert len(use(path)) == 2


def test_a_file_that_exists_is_never_opened_for_writing(path, monkeypatch):
    """Not even if another machine takes the same number, because the file system of the network has no locks."""
    with Transaction(path) as transaction:
        monkeypatch.setattr(layout, "next_number", lambda *_: 1)
        before = contents(path)
        with pytest.raises(DiskError, match=r"000001: cannot be written \(File exists\); move what is in its place"):
            transaction.write(photos(3, 1), codewords=32)
        with pytest.raises(DiskError, match=r"removed-000001.npy: cannot be written \(File exists\)"):
            transaction.commit(transaction.manifest.segments, {0: 2, 1: 3})
        assert contents(path) == before
    assert contents(path) == {name: data for name, data in before.items() if name != OWNER}


@pytest.mark.parametrize("kind", ["pipe", "link", "text", "numbers", "deep"])
def test_a_build_whose_journal_is_not_one_starts_from_the_beginning(tmp_path, kind):
    stop_after_one_segment(tmp_path / "x.udq")
    journal = tmp_path / ".x.udq.partial" / "journal.json"
    text = journal.read_bytes()
    journal.unlink()
    if kind == "pipe":
        os.mkfifo(journal)
    elif kind == "link":
        (tmp_path / "journal.json").write_bytes(text)
        journal.symlink_to(tmp_path / "journal.json")
    elif kind == "text":
        journal.write_bytes(text[:-9])
    elif kind == "deep":
        journal.write_bytes(b"[" * 10**5)
    else:
        journal.write_text(json.dumps(json.loads(text) | {"done": "2", "first": {"model": None}}))
    with at_once(lambda: CollectionBuilder(tmp_path / "x.udq", fingerprint="one")) as made:
        assert (made.has_model, made.done) == (False, 0)
    assert not (tmp_path / "journal.json").exists() or (tmp_path / "journal.json").read_bytes() == text


@pytest.mark.parametrize("name", ["scratch", "segments", "segments/000001", "model-000001.npz"])
def test_a_build_with_a_link_starts_from_the_beginning_and_does_not_follow_it(tmp_path, name):
    stop_after_one_segment(tmp_path / "x.udq")
    place, target = tmp_path / ".x.udq.partial" / name, tmp_path / "elsewhere"
    shutil.move(place, target)
    place.symlink_to(target)
    before = contents(target) if target.is_dir() else target.read_bytes()
    with CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        assert (made.has_model, made.done) == (False, 0)
        made.put_model(small_model())
        put(made, 0)
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
    assert before == (contents(target) if target.is_dir() else target.read_bytes())
    assert verify(tmp_path / "x.udq") == []


def test_the_folder_of_a_build_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".x.udq.partial").symlink_to("elsewhere")
    with pytest.raises(InputError, match="a link, where the unfinished collection is written; delete the link"):
        CollectionBuilder(tmp_path / "x.udq", fingerprint="one")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_build_whose_model_is_damaged_says_what_to_delete(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    model = tmp_path / ".x.udq.partial" / "model-000001.npz"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with (
        CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made,
        pytest.raises(CollectionError, match=r"damaged; delete .*\.x\.udq\.partial, and run the same command again"),
    ):
        made.read_model()


def test_a_segment_that_an_interrupted_run_left_is_written_again(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    left = tmp_path / ".x.udq.partial" / "segments" / "000002"
    left.mkdir()
    (left / "codes.npy").write_bytes(b"half")
    with CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        put(made, 1)
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
    assert verify(tmp_path / "x.udq") == []
    assert len(read(tmp_path / "x.udq")) == 2


def test_a_name_that_no_photo_can_have_is_not_stored(path):
    [photo] = indexed(random_codes(2, 4, 32), [2], ["a\0b.jpg"])
    before = contents(path)
    with Transaction(path) as transaction, pytest.raises(CollectionError, match=r"'a\\x00b\.jpg': not stored"):
        transaction.write([photo], codewords=32)
    assert contents(path) == before | {LOCK: b""}


def test_too_many_open_files_is_no_damage(path, monkeypatch):
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    Collection.open(path).info()  # imports what it needs
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(UdqError) as refused:
            verify(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not isinstance(refused.value, CollectionError)
    assert "cannot be read (Too many open files); raise the limit of open files (ulimit -n)" in str(refused.value)
    assert verify(path) == []


@pytest.mark.parametrize("name", ["segments/1000000", "segments/000003"])
def test_a_manifest_may_have_names_of_six_or_more_digits(path, name):
    document = json.loads((path / "collection.json").read_bytes())
    (path / "segments" / "000002").rename(path / name)
    document["segments"][1]["folder"] = name
    change(path, segments=document["segments"])
    assert use(path) == ["ä/b c.jpg", "z.jpg"]


@pytest.mark.parametrize("name", ["../secret/s.jpg", "/etc/s.jpg", "a/../../s.jpg", ""])
def test_a_name_that_leads_out_of_the_indexed_folder_is_damage(path, name):
    file = path / "segments/000001/images.json"
    listed = json.loads(file.read_bytes())
    listed["names"][1] = name
    data = json.dumps(listed).encode()
    file.write_bytes(data)
    entries = json.loads((path / "collection.json").read_bytes())["segments"]
    entries[0]["files"]["images.json"] = {"bytes": len(data), "sha256": checksum(data)}
    change(path, segments=entries)

    with pytest.raises(
        CollectionError, match=r"images\.json: damaged .expected names of photos below the indexed folder"
    ):
        use(path)
    damage = verify(path)[-1]
    reason = f"expected names of photos below the indexed folder, found '{name}'"
    assert (damage.file, damage.reason) == ("segments/000001/images.json", reason)
