"""What was made lately, up to so many bytes; what has not been asked for the longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Values by key, bounded in bytes; safe to share between threads."""

    def __init__(self, most_bytes: int) -> None:
        """Begin empty.

        Args:
            most_bytes: of all values together.
        """
        self._most = most_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Value | None:
        """Return a value, or None where it is not there (any more)."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                return None
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of so many bytes; one that is larger than all may be together is not kept."""
        if size > self._most:
            return
        with self._lock:
            if key in self._held:
                self._bytes -= self._held.pop(key)[1]
            self._held[key] = value, size
            self._bytes += size
            while self._bytes > self._most:
                self._bytes -= self._held.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes of all values together."""
        return self._bytes
