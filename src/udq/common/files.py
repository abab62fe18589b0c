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
import shutil
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from udq.common.text import nfc, one_line
from udq.errors import DiskError, InputError

Result = TypeVar("Result")

Fingerprint: TypeAlias = dict[str, str]
"""``path`` and ``sha256`` of a file of weights."""

MAX_JSON = 256 * 2**20
"""Most bytes of a manifest, a journal, or the list of a segment's photos. 4,096 photos need 200 MiB at most."""

MAX_WEIGHTS = 8 * 2**30
"""Most bytes of a file of weights or of a model."""

MAX_FEATURES = 32 * 2**30
"""Most bytes of a file of cached features or of a checkpoint of training."""

# What to do about an error of writing.
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it {}"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "check that its folder exists"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP), "move what is in its place away"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "free memory",
}
# Errors of reading that say nothing about the bytes of a file.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class TooLargeError(ValueError):
    """A file has more bytes than the limit."""


def given_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that the user gave; raises InputError if it is empty, which ``Path`` takes for this folder."""
    if not os.fspath(path):
        raise InputError("expected a path, found an empty one; '.' is the current folder")
    return Path(path)


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


def open_regular(path: Path, *, limit: int | None = None, follow: bool = False) -> io.BufferedReader:
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
        # Not ``limit``: that much memory would be taken first. A file that grows while it is read is cut short.
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Return a text file of the user in UTF-8, with or without a byte order mark, line ends as they are.

    Args:
        path: the file, or a link to one.
        errors: what to do about other bytes, as in ``bytes.decode``.

    Raises:
        OSError: it cannot be read; ``strerror`` says why, also for what is not a regular file or above ``MAX_JSON``.
        UnicodeDecodeError: it is not in UTF-8.
    """
    return read_given(path).decode("utf-8-sig", errors)


def read_given(path: Path, *, limit: int = MAX_JSON) -> bytes:
    """Return the bytes of a file of the user, or of a link to one.

    Raises:
        OSError: it cannot be read; ``strerror`` says why, also for what is not a regular file or above ``limit``.
    """
    try:
        return read_regular(path, limit=limit, follow=True)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error


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
    """Return path and SHA-256 of a file of weights, so that a search never runs with another network.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file, or larger than ``MAX_WEIGHTS``. A link to a file is followed.
    """
    if given is None:
        return None
    with open_regular(given, limit=MAX_WEIGHTS, follow=True) as file:
        return {"path": str(given.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of an .npy file, never pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_whole(path: Path, data: bytes, *, suffix: str = "new") -> None:
    """Write a file atomically, replacing an older one.

    Args:
        path: the file; a link of that name is replaced, and what it leads to is not touched.
        data: its bytes.
        suffix: of the file beside it that is written first. A file of that name is left by a killed run, and deleted.
    """
    write_all([path], data, suffix=suffix)


def write_all(paths: Sequence[Path], data: bytes, *, suffix: str = "new") -> None:
    """Write files of the same bytes as ``write_whole`` does; if one cannot be written, none is replaced.

    They are replaced in the order of ``paths``.
    """
    beside = [path.with_name(f"{path.name}.{suffix}") for path in paths]
    try:
        for new in beside:
            guarded(new, partial(new.unlink, missing_ok=True))
            write_new(new, data)
        for new, path in zip(beside, paths, strict=True):
            guarded(path, partial(new.replace, path))
    except DiskError:
        for new in beside:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        raise


def write_new(path: Path, data: bytes) -> dict[str, Any]:
    """Write a file to the disk itself (fsync), and return its size and checksum as the manifest stores them.

    Nothing may be at ``path``: an existing file is never opened for writing, and a link is not followed.
    """

    def write() -> None:
        with path.open("xb") as file:  # outside of ``try``: what is there already is not deleted
            try:
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
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(beside)
        beside.replace(path)
    except (OSError, ValueError) as error:
        raise DiskError(f"{path}: the {what} cannot be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # it was moved, or its name is longer than the file system allows
            beside.unlink()


def check_output(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise InputError if a file of results would replace one of the inputs, or anything but a file.

    Args:
        path: where the file will be written.
        inputs: files that must stay, such as the query and the photos of the collection.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise InputError(f"{path}: expected a file or a free name to write to, found something else; choose another")
    places = {str(path.absolute()), str(path.resolve())}
    if any(str(Path(each).absolute()) in places for each in inputs):
        raise InputError(f"{path}: is an input of this command, which results must not replace; choose another name")


def guarded(path: Path, write: Callable[[], Result]) -> Result:
    """Return what ``write`` returns, and raise DiskError with a remedy if it fails to write to ``path``."""
    try:
        return write()
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written ({reason(error)}); {remedy(error)}, and run the same command again to go on"
        ) from error


def reason(error: BaseException) -> str:
    """Return why reading or writing failed, on one line and without the path."""
    return one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__


def remedy(error: Exception, able: str = "writable") -> str:
    """Return what to do about an error of reading or writing, such as ``make room``, or ``make it writable``."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    return _REMEDIES.get(number or 0, "check the disk").format(able)


def is_refusal(error: Exception) -> bool:
    """Whether an error of reading is no damage: no permission, too many open files, or too little memory."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _REFUSALS)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk itself (fsync); POSIX only.

    Raises:
        DiskError: the disk refuses.
    """

    def sync() -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    if os.name == "posix":
        guarded(folder, sync)


def empty_folder(folder: Path, *, keep: Container[str] = ()) -> None:
    """Delete what is in a folder, except for some names; links are deleted and not followed."""
    for entry in guarded(folder, lambda: list(folder.iterdir())):
        if entry.name not in keep:
            delete(entry)


def delete(path: Path) -> None:
    """Delete a file or a folder, if it exists; a link is deleted and not followed."""
    is_folder = path.is_dir() and not path.is_symlink()
    guarded(path, partial(shutil.rmtree, path) if is_folder else partial(path.unlink, missing_ok=True))


def is_regular(path: Path, size: int) -> bool:
    """Whether a path is a regular file of some size in bytes, and no link."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def has_links(folder: Path) -> bool:
    """Whether a folder is a link, or contains one at any depth."""
    return folder.is_symlink() or any(
        Path(parent, name).is_symlink() for parent, folders, names in os.walk(folder) for name in (*folders, *names)
    )


def partial_folder(path: Path) -> Path:
    """Return the hidden folder beside ``path`` that holds its unfinished, resumable work."""
    path = path.resolve()
    return path.with_name(f".{path.name}.partial")
