"""Locks between processes: one writer per collection, download folder, folder of results or training run.

The operating system releases the lock when its owner dies, so it is never stale.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import filelock

from udq.common.files import guarded
from udq.errors import InputError

LOCK = "lock"
"""Name of the locked file."""

OWNER = "owner.json"
"""Process, host and time of the owner, beside the locked file; only shown in messages."""


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
            DiskError: the file cannot be written.
        """
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
        with contextlib.suppress(OSError):  # only shown in messages
            self._owner.write_text(json.dumps(owner))

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock; does nothing if it is released already."""
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
        self._lock.release()

    def release_for_windows(self) -> None:
        """Release the lock on Windows, before its folder is moved or deleted; other systems can keep it."""
        if os.name == "nt":
            self.release()

    def _describe_owner(self) -> str:
        try:
            owner = json.loads(self._owner.read_bytes())
            return f"another udq (process {owner['process']} on {owner['host']}, since {owner['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another udq"
