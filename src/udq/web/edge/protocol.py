"""HTTP/1.1 on a connection, with limits that hold before a request reaches the application.

uvicorn and h11 parse. This module bounds bytes, lines and seconds of request line and headers, the bytes that one turn
of the event loop parses, and the seconds that a client may take to read its response. ``room`` decides which
connections are closed if there are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from udq.web.edge.headers import SECURITY_HEADERS
from udq.web.edge.room import Phase, Room
from udq.web.problems import Problem

# Bytes and lines of request line and headers together.
MAX_HEAD = 2**16
MAX_LINES = 128
# Most pieces of a body (chunks, or what a packet brings) that may have fewer than ``SMALL_PIECE`` bytes on average.
MAX_SMALL_PIECES = 512
SMALL_PIECE = 32
# Seconds within which request line and headers must arrive.
HEAD_TIMEOUT = 10.0
# Seconds in which they are probably on the way, by a timer: what has arrived by then is parsed before it fires.
ARRIVAL = 0.2
# Seconds that a connection without a request stays open.
KEEP_ALIVE = 5
# Seconds within which a client must read some of a response that waits for it.
READ_TIMEOUT = 30.0
# Seconds in which a client can read a last response while the rest of its request is discarded, and bytes of that rest.
LINGER = 2.0
_DISCARDED = 2**21
# Bytes read from a connection before others have their turn: parsing them takes at most some 20 ms.
_READ = 2**13


class State(ServerState):
    """What the connections of a server share."""

    def __init__(self, room: Room) -> None:
        """Start without connections."""
        super().__init__()
        self.room = room
        # One buffer for all: what is read into it is taken out before another connection's turn.
        self.buffer = memoryview(bytearray(_READ))


class _Parser(h11.Connection):
    """Refuses request lines and headers over the limits before it parses them, and bodies in tiny pieces.

    A piece takes 15 microseconds to parse however small it is: a body of 1 MiB in pieces of a byte would take 16 s.
    """

    over_limits = False
    _pieces = _bytes = 0  # of the body so far
    _searched = 0  # bytes of the incomplete head that are known to hold no blank line

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self._check_head(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > MAX_SMALL_PIECES and self._bytes < SMALL_PIECE * self._pieces:
                raise h11.RemoteProtocolError("a body in tiny pieces")
        return event

    def _check_head(self, received: bytes) -> None:
        ends = [received.find(blank, self._searched) for blank in (b"\n\r\n", b"\n\n")]
        end = min((each for each in ends if each != -1), default=None)
        self._searched = max(0, len(received) - 2) if end is None else 0
        size = len(received) if end is None else end
        if size > MAX_HEAD or received.count(b"\n", 0, size) >= MAX_LINES:
            self.over_limits = True
            raise h11.RemoteProtocolError("request line and headers over the limits", error_status_hint=431)


class LimitedProtocol(H11Protocol, asyncio.BufferedProtocol):
    """A connection. Its phase follows from the states of h11 and of the response, and decides on its deadline."""

    def __init__(
        self,
        config: Config,
        server_state: State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Create a connection of a server; uvicorn calls this for each."""
        super().__init__(config, server_state, app_state, _loop)
        self.conn: _Parser = _Parser(h11.SERVER, MAX_HEAD)
        self._room = server_state.room
        self._buffer = server_state.buffer
        self._phase: Phase | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._leaving = False  # whatever arrives is discarded
        self._draining = False  # the rest of the body is, because the response is complete
        self._discarded = 0

    # ---- What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the connection; without any, refuse it."""
        super().connection_made(transport)
        has_room = self._room.make()
        self._enter(Phase.ARRIVING)
        if not has_room:
            self._refuse("busy", "too many requests are in progress; try again in 1 s", {"retry-after": "1"})

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse what was read, or discard it if the connection is about to be closed."""
        if self._leaving or self._draining:
            self._discarded += len(data)
            if self._discarded > _DISCARDED:
                self.drop()
                return
        if not self._leaving:
            super().data_received(data)
            self._note_phase()

    def pause_writing(self) -> None:
        """Give the client a deadline for reading some of its response."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_TIMEOUT, self.drop)
        self._note_phase()

    def resume_writing(self) -> None:
        """Lift the deadline."""
        super().resume_writing()
        self._cancel_reading()
        self._note_phase()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the room."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._cancel_reading()
        self._leave_room()

    def drop(self) -> None:
        """Close the connection at once, without sending what the client has not read."""
        self._leave_room()
        self.transport.abort()

    # ---- What uvicorn calls.

    def on_response_complete(self) -> None:
        """Wait for the next request, and before it for the rest of this one's body, which is of no use."""
        super().on_response_complete()
        self._note_phase()

    def shutdown(self) -> None:
        """Close the connection when the server stops, after the response to a request that has arrived."""
        if self.conn.their_state is h11.SEND_BODY:
            self.drop()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without a next request."""
        super().timeout_keep_alive_handler()
        self._note_phase()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP/1.1, or is over the limits."""
        if self.conn.over_limits:
            self._refuse(
                "headers-too-large",
                f"request line and headers: expected at most {MAX_HEAD // 2**10} KiB and {MAX_LINES} lines, found more",
            )
        else:
            self._refuse("bad-request", "the request: expected HTTP/1.1, found something else")

    def _should_upgrade(self) -> bool:
        return False  # there are no WebSockets here, and uvicorn would log each request for one

    # ---- Phases.

    def _note_phase(self) -> None:
        """Enter the phase that the states of request and response amount to."""
        if self._phase is None or self._leaving:
            return
        if self.transport.is_closing():
            self._leave(READ_TIMEOUT)
        elif self._is_answered_early():
            if not self._draining:
                self._draining = True
                self._enter(Phase.HEAD)
                self._cancel_deadline()
                self._deadline = self.loop.call_later(LINGER, self.drop)
            return
        elif self.conn.their_state is h11.SEND_BODY or self.flow.write_paused:
            self._enter(Phase.CLIENT)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._enter(Phase.SERVER)
        elif self.cycle is None or self.conn.trailing_data[0]:
            if self._phase is not Phase.HEAD:
                self._enter(Phase.ARRIVING)
        else:
            self._enter(Phase.IDLE)
            if self.timeout_keep_alive_task is None:  # uvicorn lifts this deadline when the rest of a body arrives
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        self._draining = False

    def _is_answered_early(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete

    def _enter(self, phase: Phase) -> None:
        if phase is self._phase:  # its deadline stays
            return
        self._room.enter(self, phase, self._phase)
        self._phase = phase
        self._cancel_deadline()
        if phase is Phase.ARRIVING:
            self._deadline = self.loop.call_later(ARRIVAL, self._enter, Phase.HEAD)
        elif phase is Phase.HEAD:
            self._deadline = self.loop.call_later(max(0.0, HEAD_TIMEOUT - ARRIVAL), self._head_is_late)

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(
                "too-slow", f"request line and headers did not arrive within {HEAD_TIMEOUT:g} s; send them again"
            )
        else:  # a browser that connected in advance expects no response
            self._leave()

    def _refuse(self, kind: str, detail: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Respond with a problem, if the application has not begun to respond, and close the connection."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = Problem(kind, detail, headers={**SECURITY_HEADERS, **headers, "connection": "close"}).response()
            status = HTTPStatus(response.status_code)
            for event in (
                h11.Response(status_code=status, headers=response.raw_headers, reason=status.phrase.encode()),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._leave()

    def _leave(self, seconds: float = LINGER) -> None:
        """Close the connection once the client has read the response, at the latest after some seconds.

        What arrives until then is discarded: a connection that is closed before is reset, and its response lost.
        """
        self._leaving = True
        self._enter(Phase.HEAD)
        if not self.transport.is_closing():
            self.flow.resume_reading()
            with contextlib.suppress(OSError):  # the client is gone
                self.transport.write_eof()
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self.drop)

    def _leave_room(self) -> None:
        self._cancel_deadline()
        if self._phase is not None:
            self._room.leave(self, self._phase)
            self._phase = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
