"""Commits: every name is on the disk before a manifest lists it, and an error says whether the change is committed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from test_appender import held, photos
from test_builder import put
from test_manifest import small_model, write

from udq.common import files
from udq.common.lock import OWNER
from udq.config import IndexConfig
from udq.errors import CollectionError, DiskError
from udq.indexing.verify import verify
from udq.store import layout
from udq.store import manifest as manifests
from udq.store.builder import CollectionBuilder
from udq.store.transaction import Transaction

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not flushed there")


@pytest.fixture
def path(tmp_path):
    """A collection of photos 0, 1 and 2."""
    return write(tmp_path / "x.udq")


@pytest.fixture
def disk(monkeypatch):
    """What is done to the disk, in order: ("flush" or "rename", path); ``disk.refuse`` fails some of it."""
    return Disk(monkeypatch)


class Disk(list):
    def __init__(self, monkeypatch):
        super().__init__()
        self.refuse = lambda what, path: None
        fsync, replace, rename = os.fsync, Path.replace, Path.rename

        def note(what, path):
            if (number := self.refuse(what, path)) is not None:
                raise OSError(number, os.strerror(number))
            self.append((what, path))

        def flushed(descriptor):
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            note("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush", path)
            fsync(descriptor)

        def replaced(path, target):
            note("rename", Path(target))
            return replace(path, target)

        def renamed(path, target):
            note("rename", Path(target))
            return rename(path, target)

        monkeypatch.setattr(files.os, "fsync", flushed)
        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(Path, "rename", renamed)


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name what is flushed")


def committed(disk, path):
    """The place in ``disk`` where the manifest is renamed."""
    return disk.index(("rename", path / "collection.json"))


@linux
def test_removed_ids_and_their_folder_are_flushed_before_the_manifest_lists_them(path, disk):
    with Transaction(path) as transaction:
        disk.clear()
        transaction.commit(transaction.manifest.segments, {0: 2})
    assert ("flush", path / "removed-000001.npy") in disk[: committed(disk, path)]
    written = disk.index(("flush", path / "removed-000001.npy"))
    assert ("flush folder", path) in disk[written : disk.index(("rename", path / "collection.copy.json"))]
    assert disk[-1] == ("flush folder", path)


@linux
def test_a_segment_and_all_folders_above_it_are_flushed_before_the_manifest_lists_it(path, disk):
    with Transaction(path) as transaction:
        disk.clear()
        entry = transaction.write(photos(3, 1), codewords=32)
        transaction.commit([*transaction.manifest.segments, entry], {}, next_id=4)
    before = disk[: disk.index(("rename", path / "collection.copy.json"))]
    segment = path / "segments" / "000003"
    last = max(i for i, (what, file) in enumerate(before) if file.parent == segment)
    assert {("flush folder", segment), ("flush folder", path / "segments"), ("flush folder", path)} <= set(
        before[last:]
    )
    assert ("flush folder", path / "segments" / "000001") not in disk  # of another commit


@linux
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("at", range(16))
def test_whatever_is_refused_the_error_says_whether_the_change_is_committed(path, disk, at, number):
    seen = []

    def refuse(what, file):
        seen.append(file)
        return number if len(seen) == at + 1 else None

    before = held(path)
    with Transaction(path) as transaction:
        disk.refuse = refuse
        try:
            entry = transaction.write(photos(3, 1), codewords=32)
            transaction.commit([*transaction.manifest.segments, entry], {0: 2}, next_id=4)
        except DiskError as error:
            message = str(error)
        else:
            message = ""
        finally:
            disk.refuse = lambda what, file: None
    assert "\n" not in message
    assert "Errno" not in message
    if not message:
        assert at == 15 == len(seen)  # the parameters before are all that is done
        assert held(path) == [[1], [2], [3]]
    elif "the change is committed" in message:
        assert seen[at] == path  # its folder, after the rename
        assert held(path) == [[1], [2], [3]]
        assert f"cannot be flushed to the disk ({os.strerror(number)})" in message
    else:
        assert held(path) == before
        remedy = {errno.ENOSPC: "make room", errno.EIO: "check the disk", errno.EROFS: "make it writable"}[number]
        assert f"({os.strerror(number)}); {remedy}, and run the same command again" in message
        assert not list(path.rglob("*.new"))
    assert verify(path) == []


@linux
def test_a_collection_that_is_moved_into_place_is_committed_although_the_folder_above_is_not_flushed(tmp_path, disk):
    disk.refuse = lambda what, file: errno.EIO if (what, file) == ("flush folder", tmp_path) else None
    with CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        made.put_model(small_model())
        put(made, 0)
        put(made, 1)
        with pytest.raises(DiskError, match=r"x\.udq: the change is committed, but a power failure could undo it"):
            made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
    assert held(tmp_path / "x.udq") == [[0, 1], [2]]
    assert verify(tmp_path / "x.udq") == []


def test_an_owner_file_that_cannot_be_deleted_does_not_undo_a_change(path, monkeypatch):
    unlink = Path.unlink

    def refuse(file, missing_ok=False):
        if file.name == OWNER:
            raise OSError(errno.EIO, "Input/output error")
        unlink(file, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with Transaction(path) as transaction:
        transaction.commit(transaction.manifest.segments, {0: 2})
    monkeypatch.undo()
    assert held(path) == [[1], [2]]
    with Transaction(path):
        pass


def test_files_that_cannot_be_deleted_do_not_undo_a_change(path, monkeypatch):
    def refuse(path):
        raise OSError(errno.EIO, "Input/output error")

    with Transaction(path) as transaction:
        monkeypatch.setattr(layout, "own_files", refuse)
        transaction.commit(transaction.manifest.segments, {0: 2})
    assert held(path) == [[1], [2]]


def test_what_could_not_be_opened_is_not_committed(path):
    before = (path / "collection.json").read_bytes()
    with (
        Transaction(path) as transaction,
        pytest.raises(CollectionError, match=r"not changed, because the result could not be opened: .*listed twice"),
    ):
        transaction.commit([*transaction.manifest.segments, transaction.manifest.segments[0]], {})
    assert (path / "collection.json").read_bytes() == before
    assert verify(path) == []


def test_files_that_only_the_copy_lists_are_kept(path):
    before = (path / "collection.json").read_bytes()
    with Transaction(path) as transaction:
        entry = transaction.write(photos(3, 1), codewords=32)
        transaction.commit([*transaction.manifest.segments, entry], {}, next_id=4)
    (path / "collection.json").write_bytes(before)  # as if the change had been killed before its last rename
    assert verify(path) == []
    with Transaction(path) as transaction:
        transaction.write(photos(3, 1), codewords=32)  # and given up
    copy = manifests.read_manifest(path, layout.COPY)
    assert all((path / name).is_file() for name in manifests.files_of(copy))
    shutil.rmtree(path / "segments" / "000003")
    assert [damage.file for damage in verify(path)] == ["collection.copy.json"]


def test_only_empty_folders_of_segments_are_deleted(path):
    for name in ("000009", "mine"):
        (path / "segments" / name).mkdir()
    with Transaction(path) as transaction:
        transaction.commit(transaction.manifest.segments, {0: 2})
    assert sorted(file.name for file in (path / "segments").iterdir()) == ["000001", "000002", "mine"]
