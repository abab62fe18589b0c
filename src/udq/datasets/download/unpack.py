"""Unpack tar archives from strangers: regular files and folders only, never outside the target folder."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from udq.common.progress import Progress, silent, tracked
from udq.common.tar import DamagedTarError, Member, TarReader, abridged
from udq.common.text import one_line
from udq.errors import DiskError, UdqError

_ARCHIVES = (".tgz", ".tar.gz", ".tar")
# An archive of photos is hardly larger unpacked; one of a few kilobytes must not fill the disk.
_LARGEST_RATIO = 20
_LEAST_LIMIT = 2**30
_STEP = 2**20


class _RefusedError(ValueError):
    """A member that is not written."""


def is_archive(file: Path) -> bool:
    """Return whether a file is an archive that ``unpack`` reads."""
    return file.name.endswith(_ARCHIVES)


def unpack(archive: Path, folder: Path, *, remedy: str = "get it again", progress: Progress = silent) -> None:
    """Unpack a tar archive, or copy a file of another kind.

    Links and devices in the archive are refused, and links below the target folder are not followed. A compressed
    archive may hold 20 times its size, and at least 1 GiB.

    Args:
        archive: a file ending in ``.tgz``, ``.tar.gz`` or ``.tar``, compressed by gzip or not at all; any other is
            copied as it is.
        folder: the target, created if missing; files of the same names are replaced.
        remedy: what to do if the archive is damaged, for the message.
        progress: called for each file.

    Raises:
        UdqError: the archive is damaged or incomplete, holds something other than files and folders, or would write
            outside the folder.
        DiskError: a file cannot be written, or something is in its way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder.resolve()
    try:
        if is_archive(archive):
            with _reader(archive) as reader, progress(f"files of {archive.name}", None) as step:
                for member in tracked(reader, step):
                    _write(reader, member, root)
                if not reader.complete:
                    raise DamagedTarError("it ends without an end mark")
                reader.finish()
        elif archive.parent.resolve() != root:
            with archive.open("rb") as opened, _created(root / archive.name) as file:
                shutil.copyfileobj(opened, file, _STEP)
    except _RefusedError as error:
        raise UdqError(f"{archive}: is not unpacked, for safety: {error}; get the archive from its own page") from error
    except (DamagedTarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UdqError(f"{archive}: damaged, not a whole archive ({one_line(error)}); {remedy}") from error


@contextlib.contextmanager
def _reader(archive: Path) -> Iterator[TarReader]:
    """Open an archive, compressed or not."""
    size = archive.stat().st_size
    with archive.open("rb") as opened:
        compressed = opened.read(2) == b"\x1f\x8b"
        opened.seek(0)
        if not compressed:
            yield TarReader(opened, size, seeks=True)
            return
        # As a stream: listing a large compressed archive costs as much as unpacking it.
        with gzip.GzipFile(fileobj=opened, mode="rb") as unpacked:
            yield TarReader(unpacked, max(_LEAST_LIMIT, _LARGEST_RATIO * size), seeks=False)


def _write(reader: TarReader, member: Member, root: Path) -> None:
    """Write one member below a folder.

    Args:
        reader: at this member.
        member: what to write; its own permissions and owner are ignored.
        root: absolute path without links.

    Raises:
        _RefusedError: it is not a regular file or folder, or has a fault.
        DiskError: it cannot be written, or a link, file or folder is in its way.
    """
    if member.fault:
        raise _RefusedError(f"'{member.name}' (header at byte {member.header:,}): {member.fault}")
    if member.kind not in ("file", "folder"):
        raise _RefusedError(f"'{abridged(member.name)}' is a {member.kind}, and only files and folders are unpacked")
    target = root / member.name
    folder = target if member.kind == "folder" else target.parent
    try:
        _make_folders(root, folder)
        if member.kind == "folder":
            return
        file = _created(target)
        try:
            with file:
                while data := reader.read(_STEP):
                    file.write(data)
        except BaseException:
            target.unlink()  # an incomplete file is of no use
            raise
        os.utime(target, ns=(member.modified, member.modified))
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise DiskError(
            f"{target}: cannot be unpacked ({error.strerror or one_line(error)}); "
            "make room or choose another folder, and run the command again"
        ) from error


def _make_folders(root: Path, folder: Path) -> None:
    """Make every folder between ``root`` and ``folder``; raises DiskError if one of them is a link or a file."""
    for made in reversed([folder, *folder.parents][: len(folder.parts) - len(root.parts)]):
        with contextlib.suppress(FileExistsError):
            made.mkdir()
        if not stat.S_ISDIR(made.lstat().st_mode):
            raise _in_the_way(made, "a link or a file", "a folder")
    # Other systems have more ways to lead elsewhere (junctions) than links.
    if not folder.resolve().is_relative_to(root):
        raise _in_the_way(folder, f"a way out of {root}", "a folder")


def _created(target: Path) -> BinaryIO:
    """Open a new file for writing. A file or link of its name is removed first, so that nothing is written through it.

    Raises:
        DiskError: a folder has its name.
        OSError: it cannot be created.
    """
    if target.is_dir() and not target.is_symlink():
        raise _in_the_way(target, "a folder", "a file")
    target.unlink(missing_ok=True)
    return target.open("xb")


def _in_the_way(path: Path, found: str, expected: str) -> DiskError:
    return DiskError(f"{path}: expected {expected}, found {found}; remove it and run the command again")
