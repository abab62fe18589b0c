"""Files that are there whole or not at all, on the disk itself before anything relies on them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import DiskError

# A disk that may not be written, as another than one that is full.
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, in place of an older one."""
    beside = path.with_name(f"{path.name}.new")
    write_new(beside, data)
    guarded(path, lambda: beside.replace(path))


def write_new(path: Path, data: bytes) -> dict[str, Any]:
    """Write a new file, to the disk itself, and return its size and checksum as the manifest has them."""

    def write() -> None:
        path.unlink(missing_ok=True)  # of a try that was killed before it could note it
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # what there was room for is of no use
                path.unlink()
            raise

    guarded(path, write)
    return {"bytes": len(data), "sha256": checksum(data)}


def npy(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of an .npy file, never pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def guarded(path: Path, write: Callable[[], object]) -> None:
    """Say what to do where the disk does not take what is written to ``path``."""
    try:
        write()
    except OSError as error:
        remedy = "make it writable" if error.errno in _REFUSED else "make room"
        raise DiskError(
            f"{path}: cannot be written ({error.strerror}); {remedy}, and run the same command again to go on"
        ) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk itself."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def partial_folder(path: Path) -> Path:
    """Return the hidden folder that long work on ``path`` goes on in."""
    path = path.resolve()
    return path.with_name(f".{path.name}.partial")


def write_with(path: Path, write: Callable[[Path], None], *, what: str = "picture") -> None:
    """Have a picture or a page written to a file beside ``path``, and put it there when it is complete.

    Args:
        path: where the file belongs.
        write: takes the path to write to, which has another suffix.
        what: it is, for the message of an error.

    Raises:
        DiskError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DiskError(f"{path}: the {what} cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, or its name is too long to be
            partial.unlink()


# Path and sha256 of one of them.
Fingerprint = dict[str, str]


def fingerprint(given: Path | None) -> Fingerprint | None:
    """Return path and sha256 of a file of weights, so that a search never runs with another network."""
    if given is None:
        return None
    with given.open("rb") as file:
        return {"path": str(given.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def checksum(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
