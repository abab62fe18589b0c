"""Locks between processes: exclusive, with a message that names the owner, and released when the owner dies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from udq.common.lock import LOCK, OWNER, Lock
from udq.errors import DiskError, InputError

HOLD = """
import sys, time
from pathlib import Path
from udq.common.lock import Lock
lock = Lock(Path(sys.argv[1]), "x.udq")
print("held", flush=True)
time.sleep(600)
"""


def test_another_lock_is_refused_and_names_owner_activity_and_remedy(tmp_path):
    with Lock(tmp_path, "x.udq", doing="measuring to it", remedy="choose another folder"):
        owner = json.loads((tmp_path / OWNER).read_text())
        assert owner["process"] == os.getpid()
        with pytest.raises(InputError) as refused:
            Lock(tmp_path, "x.udq", doing="measuring to it", remedy="choose another folder")
    assert str(refused.value) == (
        f"x.udq: another udq (process {os.getpid()} on {owner['host']}, since {owner['since']}) is measuring to it; "
        "choose another folder"
    )


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"process": 1}'])
def test_an_unreadable_owner_file_leaves_the_message_whole(tmp_path, content):
    with Lock(tmp_path, "x.udq"):
        (tmp_path / OWNER).write_bytes(content)
        with pytest.raises(InputError, match=r"^x\.udq: another udq is changing it; wait until it is done$"):
            Lock(tmp_path, "x.udq")


def test_a_released_lock_can_be_acquired_and_leaves_no_owner(tmp_path):
    lock = Lock(tmp_path, "x.udq")
    lock.release()
    assert not (tmp_path / OWNER).exists()
    with Lock(tmp_path, "x.udq"):
        lock.release()  # releasing twice does not remove the file of the next owner
        assert (tmp_path / OWNER).exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"another udq \(process {owner.pid} on "):
        Lock(tmp_path, "x.udq")
    owner.kill()
    owner.wait()
    owner.stdout.close()

    assert (tmp_path / OWNER).exists()  # left behind, and replaced by the next owner
    with Lock(tmp_path, "x.udq"):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()


def test_a_lock_file_that_cannot_be_written_is_an_error_of_the_disk(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DiskError, match=rf"{re.escape(str(tmp_path / LOCK))}: cannot be written"):
        Lock(tmp_path, "x.udq")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("name", [LOCK, OWNER])
def test_a_lock_is_not_written_through_a_link(tmp_path, name):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(DiskError) as refused:
        Lock(tmp_path / "folder", "x.udq")
    assert str(refused.value) == (
        f"{tmp_path / 'folder' / name}: cannot be written (expected a file of udq itself, found a link); "
        "move it away, and run the same command again"
    )
    assert (tmp_path / "precious").read_text() == "mine"
    assert [file.name for file in (tmp_path / "folder").iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_that_appears_later_is_replaced_and_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("mine")
    monkeypatch.setattr("udq.common.lock._check_place", lambda file: None)
    for name in (OWNER, f"{OWNER}.new"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    with Lock(tmp_path, "x.udq"):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
        assert not (tmp_path / OWNER).is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"


def test_an_owner_file_cannot_break_the_line_of_the_message(tmp_path):
    with Lock(tmp_path, "x.udq"):
        owner = {"process": "1\n2", "host": "a\x1b[31m", "since": ["now"]}
        (tmp_path / OWNER).write_text(json.dumps(owner))
        with pytest.raises(
            InputError, match=r"^x\.udq: another udq \(process 1 2 on a\\x1b\[31m, since \['now'\]\) is"
        ):
            Lock(tmp_path, "x.udq")
