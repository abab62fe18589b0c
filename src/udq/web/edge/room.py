"""Room for connections: how many there may be, and which one is closed if there is no room for another."""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Protocol

# Connections at a time; a browser opens six.
MAX_CONNECTIONS = 1000
# Open files that the process asks for if it may have fewer, and those that are not for connections: of the collection,
# of decoding processes, of uploads.
_FILES = 4096
_OTHER_FILES = 256
_FEWEST = 16


class Phase(enum.IntEnum):
    """What a connection waits for. Those of lower phases are closed first, in each phase the oldest one."""

    HEAD = 0  # the rest of request line and headers; or the client, to read a last response
    IDLE = 1  # the next request
    CLIENT = 2  # the rest of a body, or the client to read its response
    ARRIVING = 3  # request line and headers, which are probably on the way
    SERVER = 4  # the response to a complete request; never closed


class Droppable(Protocol):
    """A connection that can be closed to make room."""

    def drop(self) -> None:
        """Close the connection at once and leave the room."""


class Room:
    """The open connections of a server. Not safe to share between threads: each event loop has its own."""

    def __init__(self, connections: int = MAX_CONNECTIONS) -> None:
        """Set the number of connections that may be open at a time."""
        self.connections = connections
        self._phases: dict[Phase, OrderedDict[Droppable, None]] = {phase: OrderedDict() for phase in Phase}

    def __len__(self) -> int:
        return sum(map(len, self._phases.values()))

    def enter(self, connection: Droppable, phase: Phase, before: Phase | None) -> None:
        """Note the phase of a connection; ``before`` is the one that it leaves."""
        if before is not None:
            self.leave(connection, before)
        self._phases[phase][connection] = None

    def leave(self, connection: Droppable, phase: Phase) -> None:
        """Forget a connection."""
        self._phases[phase].pop(connection, None)

    def make(self) -> bool:
        """Make room for one more connection; False if all are those of complete requests."""
        if len(self) < self.connections:
            return True
        for phase in (Phase.HEAD, Phase.IDLE, Phase.CLIENT, Phase.ARRIVING):
            if self._phases[phase]:
                next(iter(self._phases[phase])).drop()
                return True
        return False


def available() -> int:
    """Return how many connections this process has room for, by its limit of open files, which is raised if possible.

    A connection takes two files: its socket and the photo that it is sent.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    if soft < _FILES:
        soft = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(MAX_CONNECTIONS, max(_FEWEST, (soft - _OTHER_FILES) // 2))
