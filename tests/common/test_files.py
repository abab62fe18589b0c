"""Atomic file writes: complete or absent, with an error that says what to do."""

from __future__ import annotations

import errno
import hashlib
import sys

import pytest

from udq.common import files
from udq.errors import DiskError


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
    ("number", "says"), [(errno.ENOSPC, "make room, and run"), (errno.EROFS, "make it writable, and run")]
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
