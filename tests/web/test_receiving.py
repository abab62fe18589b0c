"""Limits of requests that arrive and of requests in work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
from clients import running

from udq.web import problems
from udq.web.edge import receiving
from udq.web.edge.receiving import LimitRequests

LARGE = 8 * 2**20


async def application(scope, receive, send):
    """Responds after its body and, at /slow, half a second; with many bytes at /large."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    try:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
    except problems.Problem as problem:
        await problem.response()(scope, receive, send)
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    size = LARGE if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


@pytest.fixture
def connect():
    """Open connections that are closed at the end: ``connect(method, path, body, length)``."""
    limited = LimitRequests(application, upload_bytes=2**22, upload_paths=("/upload",))
    with running(limited) as port, contextlib.ExitStack() as opened:

        def connect(path, body=b"", length=None, method="POST"):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            announced = f"Content-Length: {len(body) if length is None else length}\r\n" if method == "POST" else ""
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{announced}\r\n"
            connection.sendall(head.encode() + body)
            return connection

        yield connect


def status(connection):
    return int(connection.recv(2**16).split(b" ")[1])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_room_is_kept_for_probes(connect, monkeypatch, method):
    monkeypatch.setattr(receiving, "MAX_REQUESTS", 2)
    slow = [connect("/slow", b"x", method=method) for _ in range(2)]
    time.sleep(0.2)

    assert status(connect("/x", method="GET")) == 503
    assert status(connect("/x", b"x")) == 503
    assert status(connect("/healthz", method="GET")) == 200
    assert [status(each) for each in slow] == [200, 200]
    assert status(connect("/x", method="GET")) == 200


def test_requests_that_arrive_and_responses_that_wait_are_not_in_work(connect, monkeypatch):
    monkeypatch.setattr(receiving, "MAX_REQUESTS", 1)
    for _ in range(3):
        connect("/x", b"x", length=9)
    unread = [connect("/large") for _ in range(3)]
    for each in unread:
        each.recv(1)

    assert status(connect("/x", method="GET")) == 200


def test_bodies_that_do_not_arrive_share_a_bounded_memory(connect, monkeypatch):
    monkeypatch.setattr(receiving, "MEMORY", 2**18)
    held = [connect("/x", bytes(2**17), length=2**19) for _ in range(4)]  # half of each is free
    time.sleep(0.2)

    assert status(connect("/x", bytes(2**17))) == 503
    assert status(connect("/x", bytes(2**16))) == 200
    assert status(connect("/upload", bytes(2**20))) == 200  # is written to disk
    for each in held:
        each.close()
    time.sleep(0.2)
    assert status(connect("/x", bytes(2**17))) == 200


def test_a_body_must_keep_a_rate(connect, monkeypatch):
    monkeypatch.setattr(receiving, "SLOW_START", 0.3)
    started = time.monotonic()
    connection = connect("/upload", b"x", length=1000)
    with contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.02)
            if time.monotonic() > started + 1:
                break

    assert status(connection) == 408


def test_a_body_that_keeps_the_rate_may_take_longer(connect, monkeypatch):
    monkeypatch.setattr(receiving, "SLOW_START", 0.3)
    connection = connect("/upload", bytes(10_000), length=20_000)
    for _ in range(10):
        time.sleep(0.06)
        connection.sendall(bytes(1000))

    assert status(connection) == 200
