"""Locks between processes: one writer per collection, download folder, folder of results or training run.

The operating system releases the lock when its owner dies, so it is never stale.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import stat
from datetime import UTC, datetime
from pathlib import Path

import filelock

from udq.common.files import guarded, read_regular, write_whole
from udq.common.text import one_line, shown
from udq.errors import DiskError, InputError

LOCK = "lock"
"""Name of the locked file."""

OWNER = "owner.json"
"""Process, host and time of the owner, beside the locked file; only shown in messages."""

_MAX_OWNER = 4096  # bytes


class Lock:
    """An exclusive lock on what is at a path, held from construction until ``release``. Also a context manager."""

    def __init__(
        self, folder: Path, path: Path | str, *, doing: str = "changing it", remedy: str = "wait until it is done"
    ) -> None:
        """Acquire the lock without waiting.

        Args:
            folder: contains the files ``lock`` and ``owner.json``; created if missing.
            path: what is locked, for the message.
            doing: what the owner of the lock does, for the message.
            remedy: what to do if another process has the lock, for the message.

        Raises:
            InputError: another process has the lock.
            DiskError: the file cannot be written, or something else is in the place of one of the two files.
        """
        for name in (LOCK, OWNER):
            _check_place(folder / name)
        self._owner = folder / OWNER
        self._lock = filelock.FileLock(folder / LOCK)

        def acquire() -> None:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise InputError(f"{path}: {self._describe_owner()} is {doing}; {remedy}") from None

        guarded(folder / LOCK, acquire)
        owner = {"process": os.getpid(), "host": platform.node()}
        owner["since"] = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(DiskError):  # only shown in messages
            write_whole(self._owner, json.dumps(owner).encode())

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock; does nothing if it is released already."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # only shown in messages; what was done under the lock is done
                self._owner.unlink()
        self._lock.release()

    def release_for_windows(self) -> None:
        """Release the lock on Windows, before its folder is moved or deleted; other systems can keep it."""
        if os.name == "nt":
            self.release()

    def _describe_owner(self) -> str:
        try:
            owner = json.loads(read_regular(self._owner, limit=_MAX_OWNER))
            process, host, since = (shown(one_line(str(owner[key]))) for key in ("process", "host", "since"))
            return f"another udq (process {process} on {host}, since {since})"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "another udq"


def _check_place(file: Path) -> None:
    """Raise DiskError unless ``file`` is a regular file or missing: a link would be written through."""
    with contextlib.suppress(OSError):  # it is missing, or the error is that of acquiring the lock
        mode = file.lstat().st_mode
        if not stat.S_ISREG(mode):
            found = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise DiskError(
                f"{file}: cannot be written (expected a file of udq itself, found {found}); "
                "move it away, and run the same command again"
            )
