"""Clients that leave, and files that change while they are sent: one line in the log, and no traceback."""

from __future__ import annotations

import os
import shutil
import socket
import time

import pytest
from clients import bytes_of, number_of, problem, send, serving

from udq import Collection
from udq.errors import DiskError
from udq.web.service import Service

MANY = 30_000_000  # bytes, more than the buffers of a connection hold


@pytest.fixture
def server(place):
    """A client of a server, and the folder of its collection."""
    with serving(Service.start(Collection.open(place / "x.udq", device="cpu"), write_to=place / "photos")) as client:
        yield client, place


def connected(client, request, headers=""):
    port = client.base_url.port
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
    return connection


def logged(caplog, count=1):
    """Return the lines that the server logged, when there are ``count`` of them."""
    deadline = time.monotonic() + 20

    def records():
        return [record for record in caplog.records if record.name == "udq.web"]

    while len(records()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert [record.exc_info for record in records()] == [None] * count
    return [record.getMessage() for record in records()]


def test_an_aborted_upload_is_one_line(server, caplog):
    client, _ = server
    form = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n"
    for address in ("/api/v1/uploads", "/api/v1/photos"):
        with connected(client, f"POST {address}", form) as connection:
            connection.sendall(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc')
            time.sleep(0.2)

    assert sorted(logged(caplog, 2)) == [
        f"POST /api/v1/{name}: the client disconnected before its request was complete"
        for name in ("photos", "uploads")
    ]


def grown(place, client):
    """Make a photo of the collection large; return its path and the address of its file."""
    path = place / "photos" / "coins.png"
    with path.open("ab") as file:
        file.write(bytes(MANY))
    return path, f"/api/v1/photos/{number_of(client, 'coins.png')}/file"


def received(connection):
    count = 0
    try:
        while data := connection.recv(2**20):
            count += len(data)
    except ConnectionResetError:
        pass
    return count


def test_a_file_that_is_cut_short_while_it_is_sent_is_one_line(server, caplog):
    client, place = server
    path, address = grown(place, client)
    with connected(client, f"GET {address}") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        os.truncate(path, 1000)
        assert received(connection) < MANY

    assert logged(caplog) == [
        "GET /api/v1/photos/{number}/file: the photo could not be sent to its end: it has become shorter"
    ]


def test_a_file_that_grows_while_it_is_sent_is_sent_as_announced(server, caplog):
    client, place = server
    path, address = grown(place, client)
    size = path.stat().st_size
    with client.stream("GET", address) as response:
        content = response.iter_bytes()
        start = next(content)
        with path.open("ab") as file:
            file.write(bytes(1_000_000))
        count = len(start) + sum(map(len, content))

    assert (response.status_code, count) == (200, size)
    assert client.get(address, headers={"range": "bytes=0-3,8-11"}).status_code == 206
    assert logged(caplog, 0) == []


def test_errors_of_the_server_itself_go_to_its_log_alone(server, caplog, monkeypatch):
    client, place = server

    def refuse(*_, **__):
        raise DiskError(f"{place}: cannot be written (No space left on device)")

    monkeypatch.setattr(Collection, "add", refuse)
    detail = problem(send(client, bytes_of("x.png"), "x.png", "/api/v1/photos"), 507, "no-room")

    assert str(place) not in detail
    assert logged(caplog) == [f"{place}: cannot be written (No space left on device)"]
    assert not (place / "photos" / "x.png").exists()


def test_a_replaced_file_of_the_same_size_and_time_has_another_etag(server):
    client, place = server
    path = place / "photos" / "coins.png"
    address = f"/api/v1/photos/{number_of(client, 'coins.png')}"
    status = path.stat()
    before = {kind: client.get(f"{address}/{kind}").headers["etag"] for kind in ("file", "thumbnail")}
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum of the last chunk, which no decoder reads
    beside = place / "beside.png"
    beside.write_bytes(data)
    for replace in (lambda: path.write_bytes(data), lambda: shutil.move(beside, path)):
        replace()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        for kind, tag in before.items():
            response = client.get(f"{address}/{kind}", headers={"if-none-match": tag})
            assert (response.status_code, response.headers["etag"] != tag) == (200, True)
            before[kind] = response.headers["etag"]
    assert client.get(f"{address}/file").content == bytes(data)
