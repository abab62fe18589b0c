"""Atomic and durable file writes, the checksums of what is written, and the one way to open a file that may be hostile.

A file is complete or absent, and on the disk itself (fsync) before anything relies on it. Reading waits for nothing: a
FIFO, a device or a folder in the place of a file is an error at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from udq.common.text import nfc, one_line
from udq.errors import DiskError

Fingerprint: TypeAlias = dict[str, str]
"""``path`` and ``sha256`` of a file of weights."""

# Errors of a disk that refuses writing; any other is taken for a full disk.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class TooLargeError(ValueError):
    """A file has more bytes than the limit."""


def existing(path: Path) -> Path:
    """Return a path as the disk has it, by the names that differ in Unicode form alone if nothing is there.

    macOS stores ``é`` as two characters (NFD), keyboards and other systems type one (NFC). The path itself is returned
    if it exists, or if no other name, or more than one, is meant.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(found).parts:
        if not os.path.lexists(found / part):
            try:
                alike = [name for name in os.listdir(found) if nfc(name) == nfc(part)]  # noqa: PTH208  (names alone)
            except OSError:
                return path
            if len(alike) != 1:
                return path
            part = alike[0]
        found /= part
    return found


def open_regular(path: Path, *, limit: int | None = None, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading; one that would block, or act when it is opened, is refused.

    Args:
        path: the file.
        limit: the most bytes it may have; None for any number.
        follow: whether ``path`` may be a link to a file. False for the files of a collection.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file, or a link.
        TooLargeError: it has more bytes than ``limit``.
    """
    # A device is not even opened. The second check finds what replaced the file after the first one.
    _check_regular(path, path.stat() if follow else path.lstat(), limit)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        _check_regular(path, os.fstat(descriptor), limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, limit: int | None = None, follow: bool = False) -> bytes:
    """Return the bytes of a file; arguments and errors are those of ``open_regular``."""
    with open_regular(path, limit=limit, follow=follow) as file:
        return file.read() if limit is None else file.read(limit)


def _check_regular(path: Path, status: os.stat_result, limit: int | None) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ValueError("a link, where a file is expected")
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # a folder without permission to list it: this raises the reason
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if limit is not None and status.st_size > limit:
        size, most = status.st_size / 2**20, limit / 2**20
        raise TooLargeError(f"{size:,.0f} MiB, more than the limit of {most:,.0f} MiB a file")


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(given: Path | None) -> Fingerprint | None:
    """Return path and SHA-256 of a file of weights, so that a search never runs with another network."""
    if given is None:
        return None
    with given.open("rb") as file:
        return {"path": str(given.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of an .npy file, never pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically, replacing an older one."""
    beside = path.with_name(f"{path.name}.new")
    write_new(beside, data)
    guarded(path, lambda: beside.replace(path))


def write_new(path: Path, data: bytes) -> dict[str, Any]:
    """Write a new file to the disk itself (fsync), and return its size and checksum as the manifest stores them."""

    def write() -> None:
        path.unlink(missing_ok=True)  # left by a run that was killed before it could record the file
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # an incomplete file is of no use
                path.unlink()
            raise

    guarded(path, write)
    return {"bytes": len(data), "sha256": checksum(data)}


def write_with(path: Path, write: Callable[[Path], None], *, what: str = "picture") -> None:
    """Let a function write a file beside ``path``, and move it there when it is complete.

    Args:
        path: the file to write.
        write: takes the path to write to, which has another suffix.
        what: names the file in the error message.

    Raises:
        DiskError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DiskError(f"{path}: the {what} cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):  # it was moved, or its name is longer than the file system allows
            partial.unlink()


def guarded(path: Path, write: Callable[[], object]) -> None:
    """Call ``write``, and raise DiskError with a remedy if it fails to write to ``path``."""
    try:
        write()
    except OSError as error:
        remedy = "make it writable" if error.errno in _READ_ONLY else "make room"
        raise DiskError(
            f"{path}: cannot be written ({error.strerror}); {remedy}, and run the same command again to go on"
        ) from error


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk itself (fsync); POSIX only."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def partial_folder(path: Path) -> Path:
    """Return the hidden folder beside ``path`` that holds its unfinished, resumable work."""
    path = path.resolve()
    return path.with_name(f".{path.name}.partial")
