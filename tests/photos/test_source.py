"""Finding photo files and reading them: every file is a source or counted, and every failure is one line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from test_decoding import FULL, gradient, shown

from udq.common import text
from udq.errors import ImageError, InputError
from udq.photos import decoding, source
from udq.photos.listing import PassedOver

ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="no such files there")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems refuse such names themselves")


def test_photos_are_named_by_their_path_below_the_folder(tmp_path):
    for name in ("b.jpg", "a/deep/c.PNG", "a/notes.txt", ".hidden.jpg", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, passed_over = source.find([tmp_path])

    assert [photo.name for photo in found] == ["a/deep/c.PNG", "b.jpg"]
    assert passed_over == PassedOver(other_files=1)
    assert [photo.name for photo in source.find([tmp_path / "b.jpg", tmp_path / "a"])[0]] == [
        "b.jpg",
        "deep/c.PNG",
    ]
    assert len(source.find([tmp_path, tmp_path / "b.jpg"])[0]) == 2  # the same photo twice is one


def test_arguments_without_photos_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").touch()
    for twin in ("one", "two"):
        (tmp_path / twin).mkdir()
        (tmp_path / twin / "same.jpg").touch()
    for arguments, says in (
        (["nowhere"], "no such file or folder"),
        (["empty"], "no photo found (0 other files)"),
        (["x.txt"], "found the suffix '.txt'"),
        (["one", "two"], "two photos would be named 'same.jpg'"),
    ):
        with pytest.raises(InputError) as refused:
            source.find([tmp_path / argument for argument in arguments])
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)


def read_by(path):
    """Return why a file cannot be read, which every way to open it says alike."""
    said = set()
    for open_photo in (
        source.content,
        decoding.shown_size,
        decoding.load_full,
        lambda path: decoding.load(path, **FULL),
    ):
        with pytest.raises(ImageError) as refused:
            open_photo(path)
        said.add(str(refused.value))
    (line,) = said
    assert "\n" not in line
    return line


@contextlib.contextmanager
def unprivileged():
    """Yield a folder, and a function that drops the privileges of root, who ignores permissions."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        try:
            yield Path(folder), lambda: os.seteuid(65534) if root else None
        finally:
            if root:
                os.seteuid(0)
            for path in sorted(Path(folder).rglob("*")):
                path.chmod(0o755)


@ON_POSIX
def test_a_special_file_is_a_source_that_fails_with_the_reason_and_never_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    os.mkfifo("fifo.jpg")
    socket.socket(socket.AF_UNIX).bind("socket.jpg")
    Path("gone.jpg").symlink_to("nowhere.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    Path("device.jpg").symlink_to("/dev/zero")
    found = {photo.name: read_by(photo.path) for photo in source.find([tmp_path])[0]}

    assert found == {
        "fifo.jpg": f"{tmp_path}/fifo.jpg: not a regular file",
        "socket.jpg": f"{tmp_path}/socket.jpg: not a regular file",
        "device.jpg": f"{tmp_path}/device.jpg: not a regular file",
        "gone.jpg": f"{tmp_path}/gone.jpg: a link to a file that is not there",
        "loop.jpg": f"{tmp_path}/loop.jpg: Too many levels of symbolic links",
    }
    assert [photo.name for photo in source.find(["fifo.jpg", "gone.jpg"])[0]] == ["fifo.jpg", "gone.jpg"]


@ON_POSIX
def test_links_are_photos_of_their_own_name_and_linked_folders_are_not_entered(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    gradient().save(photos / "one.png")
    (photos / "two.png").symlink_to("one.png")
    (photos / "back").symlink_to(photos)
    (tmp_path / "linked").symlink_to(photos)

    assert [photo.name for photo in source.find([photos])[0]] == ["one.png", "two.png"]
    assert [photo.name for photo in source.find([tmp_path / "linked"])[0]] == ["one.png", "two.png"]
    assert (shown(photos / "one.png") == shown(photos / "two.png")).all()


@ON_POSIX
def test_files_and_folders_without_permission_are_reported(tmp_path):
    with unprivileged() as (folder, drop):
        (folder / "closed").mkdir()
        (folder / "secret.jpg").touch()
        (folder / "secret.jpg").chmod(0)
        (folder / "closed").chmod(0)
        drop()
        found = {photo.name: read_by(photo.path) for photo in source.find([folder])[0]}
        with pytest.raises(InputError, match="closed: no permission to read it; expected a folder of photos"):
            source.find([folder / "closed"])

    assert found == {
        "closed": f"{folder}/closed: no permission to read it",
        "secret.jpg": f"{folder}/secret.jpg: no permission to read it",
    }


@ON_LINUX
def test_names_of_any_bytes_are_photos(tmp_path):
    names = [
        b"caf\xe9.jpg",
        b"two\nlines.jpg",
        b"\x1b[31m.jpg",
        b"quote'\".jpg",
        b"a.JPG",
        b"A.jpg",
        b"A.JPG",
        b"\xff.jpg",
    ]
    for name in names:
        gradient().save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), "JPEG")
    found, _ = source.find([tmp_path])

    assert sorted(os.fsencode(photo.name) for photo in found) == sorted(names)
    for photo in found:
        assert decoding.load(photo.path, **FULL).width == 60
        photo.path.write_bytes(b"")
        with pytest.raises(ImageError) as refused:
            decoding.load(photo.path, **FULL)
        assert str(refused.value) == f"{text.shown(str(photo.path))}: empty file"


@ON_LINUX
def test_paths_longer_than_the_system_takes_are_named(tmp_path):
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(17):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        Path("x.jpg").touch()
    finally:
        os.chdir(before)
    found, _ = source.find([tmp_path])

    assert len(found) == 1
    with pytest.raises(ImageError, match=": File name too long"):
        source.content(found[0].path)
    with pytest.raises(InputError, match="no such file or folder"):
        source.find([tmp_path / ("x" * 5000 + ".jpg")])


def test_a_file_of_too_many_bytes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "x.tif").open("wb") as file:
        file.truncate(source.MAX_BYTES + 1)

    with pytest.raises(ImageError, match="more than the limit of 512 MiB a file; scale it down or compress it"):
        source.read(tmp_path / "x.tif")
    file, _ = source.read(tmp_path / "x.tif", 300)  # twice the megapixels, twice the bytes
    file.close()


def test_content_is_read_without_decoding(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    os.utime(tmp_path / "x.jpg", ns=(1, 1_234_567_890_123_456_700))
    found = source.content(tmp_path / "x.jpg")

    assert found == source.Content(
        8, (tmp_path / "x.jpg").stat().st_mtime_ns, hashlib.blake2b(b"no photo", digest_size=16).digest()
    )
    with pytest.raises(ValueError, match="expected 16 bytes, found 2"):
        source.Content(8, 0, b"ab")
