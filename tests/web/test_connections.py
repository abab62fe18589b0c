"""Limits of connections: heads over the limits, late ones, too many of them, and clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clients import running

from udq.web import server
from udq.web.edge import protocol, room
from udq.web.edge.room import Phase, Room

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LARGE = 8 * 2**20


async def application(scope, receive, send):
    """/slow responds after half a second, /large with many bytes, /body after its body; others with their path."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    body = scope["path"].encode()
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    elif scope["path"] == "/large":
        body = bytes(LARGE)
    elif scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port():
    with running(application) as port:
        yield port


@pytest.fixture
def connect(port):
    """Open connections that are closed at the end: ``connect(bytes to send)``."""
    with contextlib.ExitStack() as opened:

        def connect(data=b""):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            connection.sendall(data)
            return connection

        yield connect


def rest(connection):
    """Everything that the server still sends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            received += part
    return received


def answers(connect, path=b"/x"):
    started = time.monotonic()
    response = rest(connect(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path))
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(path)
    return time.monotonic() - started


def send_until_closed(connection, piece, most=2**23):
    """Send pieces until the server closes the connection; return the bytes that it took and its response."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    return sent, rest(connection)


@pytest.mark.parametrize("beginning", [b"GET /", GET + b"X: ", GET, b"POST /body HTTP/1.1\r\nHost: x\r\n", b""])
@pytest.mark.parametrize("piece", [b"a" * 2**14, b"X: y\r\n" * 2**11])
def test_a_head_without_end_is_refused(connect, beginning, piece):
    connection = connect(beginning)
    sent, response = send_until_closed(connection, piece)

    assert sent <= protocol._DISCARDED + 2**22  # what was on the way is discarded, to some extent
    assert response == b"" or response.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert answers(connect) < 5


def test_the_refusal_is_a_problem(connect):
    response = rest(connect(GET + b"X: " + b"a" * 2**17))

    assert response.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"content-type: application/problem+json" in response
    assert b"#headers-too-large" in response
    assert b"x-content-type-options: nosniff" in response
    assert b"expected at most 64 KiB and 128 lines, found more" in response


@pytest.mark.parametrize(("size", "status"), [(2**16, b"200"), (2**16 + 1, b"431")])
@pytest.mark.parametrize("piece", [777, 2**17])
def test_the_limit_of_a_head_is_exact(connect, size, status, piece):
    """However its bytes are cut; the blank line at its end does not count."""
    head = GET + b"X: %b\r\n" % (b"a" * (size - len(GET) - 4)) + b"\r\n"
    connection = connect()
    for start in range(0, len(head), piece):
        connection.sendall(head[start : start + piece])

    assert connection.recv(12) == b"HTTP/1.1 " + status


@pytest.mark.parametrize(("lines", "status"), [(126, b"200"), (127, b"431")])
def test_the_limit_of_lines(connect, lines, status):
    assert connect(GET + b"X: y\r\n" * lines + b"\r\n").recv(12) == b"HTTP/1.1 " + status


def test_single_bytes_do_not_extend_the_deadline(connect, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.5)
    connection, silent = connect(b"GET / HTTP/1.1\r\nX: "), connect()
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < started + 5 and not ready(connection):
            connection.sendall(b"a")
            time.sleep(0.02)

    assert 0.4 < time.monotonic() - started < 3
    assert rest(connection).startswith(b"HTTP/1.1 408 ")
    assert rest(silent) == b""  # browsers connect in advance


def ready(connection):
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK)) or True
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(20)


def test_the_deadline_holds_for_every_request_of_a_connection(connect, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", 0.3)
    connection = connect(GET + b"\r\n")
    received = b""
    while not received.endswith(b"/"):
        received += connection.recv(2**16)
    connection.sendall(b"GET /second")

    assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_half_requests_shut_nobody_out(connect, monkeypatch):
    monkeypatch.setattr(room, "MAX_CONNECTIONS", 20)
    with running(application) as port:

        def connect_here(data):
            connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            connection.sendall(data)
            return connection

        in_work = connect_here(SLOW)
        half = [connect_here(b"GET / HT") for _ in range(15)]
        time.sleep(0.3)
        half += [connect_here(b"GET / HT") for _ in range(45)]
        bodies = [connect_here(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") for _ in range(10)]
        for _ in range(5):
            answers(connect_here)
        assert rest(in_work).endswith(b"/slow")  # a complete request is never closed
        assert rest(half[0]) == b""  # the oldest one is
        for connection in (in_work, *half, *bodies):
            connection.close()


class Connection:
    def __init__(self, room, phase):
        self.room, self.phase, self.dropped = room, phase, False
        room.enter(self, phase, None)

    def drop(self):
        self.room.leave(self, self.phase)
        self.dropped = True


def test_room_is_made_in_the_order_of_phases():
    place = Room(7)
    phases = [Phase.SERVER, Phase.ARRIVING, Phase.CLIENT, Phase.IDLE, Phase.HEAD, Phase.HEAD, Phase.CLIENT]
    connections = [Connection(place, phase) for phase in phases]
    order = []

    def make():
        assert place.make()
        order.extend(i for i, each in enumerate(connections) if each.dropped and i not in order)
        connections.append(Connection(place, Phase.SERVER))

    for _ in range(6):
        make()
    assert order == [4, 5, 3, 2, 6, 1]
    assert not place.make()
    assert len(place) == 7


def test_a_server_without_any_room_says_so(monkeypatch):
    monkeypatch.setattr(room, "MAX_CONNECTIONS", 2)
    with running(application) as port:
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for each in slow:
            each.sendall(SLOW)
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as more:
            assert rest(more).startswith(b"HTTP/1.1 503 ")
        for each in slow:
            assert rest(each).endswith(b"/slow")
            each.close()


def test_a_client_that_does_not_read_is_dropped(connect, monkeypatch):
    monkeypatch.setattr(protocol, "READ_TIMEOUT", 0.3)
    connection = connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(1.5)

    assert len(rest(connection)) < LARGE
    assert connect(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").recv(12) == b"HTTP/1.1 200"


def test_the_body_of_an_answered_request_is_discarded(connect):
    """The client receives its response even though the server does not read the body."""
    connection = connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1500000\r\n\r\n")
    connection.sendall(bytes(1_500_000) + SLOW)

    assert rest(connection).count(b"HTTP/1.1 200 ") == 2


def test_the_rest_of_an_answered_request_must_arrive(connect, monkeypatch):
    monkeypatch.setattr(protocol, "LINGER", 0.3)
    started = time.monotonic()

    assert rest(connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")).endswith(b"/")
    assert time.monotonic() - started < 3


def test_a_connection_stays_open_after_a_request_that_was_answered_early(connect):
    """Clients send headers and body one after the other, and use the connection again at once."""
    connection = connect()
    for _ in range(20):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        received = b""
        while not received.endswith(b"/"):
            received += connection.recv(2**16)
        connection.sendall(b"abc")
    connection.sendall(SLOW)
    assert rest(connection).endswith(b"/slow")


def test_that_connection_has_a_deadline_for_its_next_request(monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE", 0.3)
    with running(application) as port, socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        time.sleep(0.1)
        connection.sendall(b"abc")
        assert rest(connection).endswith(b"/")


def test_requests_sent_at_once_are_answered_in_order(connect):
    connection = connect(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(200)) + b"GET /last")
    connection.sendall(b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in rest(connection).split(b"HTTP/1.1 200 OK")[1:]]

    assert bodies == [b"/%d" % i for i in range(200)] + [b"/last"]


def test_a_head_without_end_behind_a_request_is_refused(connect):
    connection = connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"X: ")
    _, response = send_until_closed(connection, b"a" * 2**14, 2**18)

    assert response.count(b"HTTP/1.1 200 ") == 1
    assert b"HTTP/1.1 431 " in response


def test_a_request_for_a_websocket_is_a_request(connect, caplog):
    upgrade = GET + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with caplog.at_level(logging.DEBUG, "uvicorn.error"):
        assert rest(connect(upgrade)).startswith(b"HTTP/1.1 200 ")
        assert rest(connect(b"\x16\x03\x01\x02")).startswith(b"HTTP/1.1 400 ")  # TLS
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(("size", "status"), [(1, b"400"), (30, b"400"), (40, b"200"), (1000, b"200")])
def test_a_body_in_tiny_chunks_is_refused(connect, size, status):
    chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
    connection = connect(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(chunk * 5000 + b"0\r\n\r\n")

    assert connection.recv(12) == b"HTTP/1.1 " + status


def test_other_connections_have_their_turn_while_a_body_of_small_chunks_arrives(connect):
    connection = connect(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    ended = threading.Event()

    def flood():
        with contextlib.suppress(OSError):
            while not ended.is_set():
                connection.sendall((b"28\r\n" + bytes(40) + b"\r\n") * 10_000)

    sender = threading.Thread(target=flood)
    sender.start()
    time.sleep(0.2)
    took = [answers(connect) for _ in range(5)]
    ended.set()
    connection.close()
    sender.join(20)
    assert min(took) < 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(
    ("limits", "connections"), [((300, 300), 22), ((1024, 1024), 384), ((256, 8192), 1000), ((64, 64), 16)]
)
def test_connections_leave_files_for_everything_else(limits, connections):
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "from udq.web.edge.room import available; print(available(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "ValueError" in done.stderr:
        pytest.skip("the limit of this machine is lower")
    most, files = map(int, done.stdout.split())
    assert (most, files) == (connections, max(limits[0], min(limits[1], 4096)))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_process_with_few_files_stays_reachable():
    code = (
        "import contextlib, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (320, 320))\n"
        "sys.path[:0] = sys.argv[1:]\n"
        "from test_connections import application\n"
        "from udq.web.edge.listening import listening\nfrom udq.web.server import LimitedServer\n"
        "with listening('localhost', 0) as listeners, contextlib.suppress(KeyboardInterrupt):\n"
        "    print(listeners[0].getsockname()[1], flush=True)\n"
        "    LimitedServer(application).run(listeners)\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as opened,
    ):
        port = int(process.stdout.readline())

        def connect(data):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            connection.sendall(data)
            return connection

        for _ in range(600):
            connect(b"GET / HT")
        took = [answers(connect) for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""  # nothing about "too many open files"
    assert max(took) < 2
