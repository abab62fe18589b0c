"""One writer a collection: a lock that the system itself lets go of when its owner dies, so that none is ever stale."""

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

OWNER = "owner.json"
"""Who has the lock, for people; beside the lock's file."""


class Lock:
    """The right to change what is at a path; other processes that want it are told who has it."""

    def __init__(self, folder: Path, path: Path) -> None:
        """Take the lock, or raise InputError where another process has it.

        Args:
            folder: where the lock's file is, or will be.
            path: the collection, for people.
        """
        self._owner = folder / OWNER
        self._lock = filelock.FileLock(folder / "lock")

        def take() -> None:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise InputError(f"{path}: {self._named()} is changing it; wait until that is done") from None

        guarded(folder / "lock", take)
        me = {"process": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        with contextlib.suppress(OSError):  # it only helps people
            self._owner.write_text(json.dumps(me))

    def release(self) -> None:
        """Let others have it; doing so twice is no error."""
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
        self._lock.release()

    def release_for_windows(self) -> None:
        """Let go of it in a folder that is about to move or go; elsewhere it is safer to hold it meanwhile."""
        if os.name == "nt":
            self.release()

    def _named(self) -> str:
        try:
            owner = json.loads(self._owner.read_bytes())
            return f"another udq (process {owner['process']} on {owner['host']}, since {owner['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another udq"
