"""Made-up bytes in place of HTTP requests: refused or answered, never a server error, and the server stays well."""

from __future__ import annotations

import contextlib
import logging
import re
import socket

import hypothesis
import pytest
from clients import serving
from hypothesis import strategies as st

from udq.web import server
from udq.web.edge import protocol, receiving
from udq.web.service import Service

PATHS = ("/", "/healthz", "/api/v1/photos", "/api/v1/search", "/api/v1/uploads", "/api/v1/photos/0/file", "/main.js")
NAMES = ("Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Cookie", "Origin", "Range",
         "Content-Type", "If-None-Match", "X-Forwarded-For", "X-Forwarded-Proto", "Authorization")  # fmt: skip
VALUES = ("127.0.0.1", "localhost:1", "evil@127.0.0.1", "[::1", "0", "7", "-1", "99999999999999999999", "1e3",
          "chunked", "gzip, chunked", "close", "keep-alive, upgrade", "websocket", "h2c", "100-continue", 'a="\\"\\',
          "bytes=0-", "bytes=9-1,-5,0-0", "multipart/form-data; boundary=x", "application/json", "*", "null", "Bearer",
          "")  # fmt: skip

text = st.text(st.characters(max_codepoint=255), max_size=40).map(lambda each: each.encode("latin-1"))


def mostly(usual, others):
    """One of the usual values three times out of four, otherwise another one or any text."""
    usual, others = ([each.encode() for each in choices] for choices in (usual, others))
    return st.sampled_from([st.sampled_from(usual)] * 6 + [st.sampled_from(others), text]).flatmap(lambda each: each)


@st.composite
def requests(draw):
    """A request line, headers and a body, each of them likely or not."""
    method = draw(mostly(["GET", "POST"], ["HEAD", "OPTIONS", "DELETE", "CONNECT", "PRI", "get"]))
    target = draw(mostly(PATHS, ["*", "http://evil/", "//evil/..", "/%00", "/?token=x", "/%", "evil:80", ""]))
    version = draw(mostly(["HTTP/1.1"], ["HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1", ""]))
    headers = draw(st.lists(st.tuples(mostly(NAMES, ["x"]), mostly(VALUES, ["y"])), max_size=4))
    if draw(st.integers(0, 7)):
        headers = [(b"Host", b"127.0.0.1"), *(each for each in headers if each[0] != b"Host")]
    lines = [method + b" " + target + b" " + version, *(name + b": " + value for name, value in headers), b""]
    end = draw(mostly(["\r\n"], ["\n", "\r", "\r\n ", "\0"]))
    body = draw(mostly(["", "{}", "7\r\nexample\r\n0\r\n\r\n"], ["fffffffffffffffff\r\n", "--x\r\n\r\n--x--"]))
    return b"".join(line + end for line in lines) + body


@st.composite
def streams(draw):
    """Some requests one after the other, perhaps cut, or with a piece replaced."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=2)))
    start = draw(st.integers(0, len(data)))
    return draw(st.sampled_from([data, data, data[:start], data[:start] + draw(text) + data[start + 3 :]]))


@pytest.fixture(scope="module")
def port(collection):
    """A server that waits for nothing for long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "HEAD_TIMEOUT", 0.05)
        patched.setattr(protocol, "ARRIVAL", 0.02)
        patched.setattr(protocol, "LINGER", 0.05)
        patched.setattr(server, "KEEP_ALIVE", 0.05)
        patched.setattr(receiving, "SLOW_START", 0.05)
        with serving(Service.start(collection)) as client:
            yield client.base_url.port


def exchange(port, data):
    """Send bytes; return what the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while part := connection.recv(2**16):
                received += part
        return received


def check(port, caplog, data):
    """Every response to some bytes is one of the client's, the log is silent, and the server answers others."""
    statuses = [
        int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) [A-Z][A-Za-z ]*\r\n", exchange(port, data))
    ]

    assert all(status < 500 for status in statuses), statuses
    assert [record.getMessage() for record in caplog.records] == []
    assert exchange(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"ok\n")
    return statuses


@pytest.fixture
def errors(caplog):
    caplog.set_level(logging.ERROR)
    return caplog


def test_the_generator_makes_requests_that_are_answered(port, errors):
    post = b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
    assert check(port, errors, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + post) == [200, 422]
    assert check(port, errors, b"GET / HTTP/1.1\r\nHost: evil@127.0.0.1\r\n\r\n") == [421]
    assert check(port, errors, b"GET / HTTP/1.1\r\n\r\n") == [400]
    assert check(port, errors, b"GET / HTTP/1.1\r\nHo") == [408]


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(streams())
def test_no_bytes_cause_a_server_error(port, errors, data):
    check(port, errors, data)
