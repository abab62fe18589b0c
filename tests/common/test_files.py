"""Atomic file writes: complete or absent, with an error that says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import sys

import pytest
from at_once import at_once

from udq.common import files
from udq.errors import DiskError

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x.new").write_bytes(b"left by a killed run")
    files.write_whole(tmp_path / "x", b"new")

    assert (tmp_path / "x").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_new_file_is_described_by_its_size_and_checksum(tmp_path):
    found = files.write_new(tmp_path / "x", b"12345")

    assert found == {"bytes": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    assert files.fingerprint(tmp_path / "x") == {"path": str(tmp_path / "x"), "sha256": found["sha256"]}
    assert files.fingerprint(None) is None


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "make room, and run"),
        (errno.EDQUOT, "make room, and run"),
        (errno.EFBIG, "make room, and run"),
        (errno.EROFS, "make it writable, and run"),
        (errno.EACCES, "make it writable, and run"),
        (errno.ENOENT, "check that its folder exists, and run"),
        (errno.ENOTDIR, "check that its folder exists, and run"),
        (errno.EISDIR, "move what is in its place away, and run"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n), and run"),
        (errno.EIO, "check the disk, and run"),
        (errno.ENODEV, "check the disk, and run"),
    ],
)
def test_a_disk_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch, number, says):
    def refuse(descriptor):
        raise OSError(number, "refused")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(DiskError) as failed:
        files.write_whole(tmp_path / "x", b"new")

    assert (
        str(failed.value)
        == f"{tmp_path / 'x.new'}: cannot be written (refused); {says} the same command again to go on"
    )
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    def draw(path):
        path.write_bytes(b"half a picture")
        raise ValueError("unknown\nformat")

    with pytest.raises(DiskError) as failed:
        files.write_with(tmp_path / "x.png", draw)

    assert str(failed.value) == f"{tmp_path / 'x.png'}: the picture cannot be written: unknown format"
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_new_file_is_never_written_over_another_one_or_through_a_link(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("precious")
    for name in ("precious", "link"):
        with pytest.raises(DiskError, match=r"cannot be written \(File exists\); move what is in its place away"):
            files.write_new(tmp_path / name, b"new")
    (tmp_path / "x.new").symlink_to("precious")
    (tmp_path / "x").symlink_to("precious")
    files.write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_of_several_files_all_are_replaced_or_none(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    files.write_all([one, two], b"old")
    (tmp_path / "two.new").mkdir()
    with pytest.raises(DiskError, match=r"two\.new: cannot be written"):
        files.write_all([one, two], b"new")
    assert (one.read_bytes(), two.read_bytes()) == (b"old", b"old")
    assert not (tmp_path / "one.new").exists()


@posix
def test_emptying_a_folder_deletes_links_and_not_what_they_lead_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "link").symlink_to(tmp_path / "kept")
    (folder / "link").symlink_to(tmp_path / "kept")
    (folder / "lock").touch()
    assert files.has_links(folder)
    files.empty_folder(folder, keep=("lock",))
    assert [file.name for file in folder.iterdir()] == ["lock"]
    assert (tmp_path / "kept" / "file").exists()
    assert not files.has_links(folder)


@posix
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_weights_that_are_no_file_are_an_error_at_once(tmp_path, kind):
    place = tmp_path / "w.pt"
    {
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "link to a device": lambda: place.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(ValueError, match="not a regular file"):
        at_once(lambda: files.fingerprint(place))


@posix
def test_weights_may_be_a_link_to_a_file(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    (tmp_path / "link.pt").symlink_to("w.pt")
    assert files.fingerprint(tmp_path / "link.pt") == files.fingerprint(tmp_path / "w.pt")


def test_reading_takes_as_much_memory_as_the_file_and_not_as_the_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"small")
    assert files.read_regular(tmp_path / "x", limit=2**50) == b"small"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take both forms for one name")
def test_a_path_of_another_unicode_form_is_found(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tmp_path / decomposed / "a").mkdir(parents=True)
    file = tmp_path / decomposed / "a" / f"{decomposed}.jpg"
    file.touch()

    assert files.existing(tmp_path / composed / "a" / f"{composed}.jpg") == file
    assert files.existing(tmp_path / composed / "gone.jpg") == tmp_path / composed / "gone.jpg"
    (tmp_path / composed).mkdir()
    assert files.existing(tmp_path / composed) == tmp_path / composed  # the very name first
