"""Who may ask for what: other sites, other names, tokens, limits; and hostile photos."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from test_api import bytes_of, problem, send, serving

from udq.common.byte_cache import Cache
from udq.web import guard, server, uploads
from udq.web.guard import Access, is_loopback
from udq.web.problems import Problem
from udq.web.queue import WorkQueue
from udq.web.service import Service
from udq.web.uploads import Uploads

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def service(collection):
    return Service.start(collection)


@pytest.fixture(scope="module")
def client(service):
    with serving(service) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)
    assert Access(host, None, "x").answers_to("localhost:9000")  # through a tunnel the port is another one


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "museum.example", "localhost.example", "127.0.0.1.nip.io", ""]
)
def test_not_loopback(host):
    assert not is_loopback(host)
    assert not Access("127.0.0.1", None, "x").answers_to(host)


def test_a_server_for_others_answers_to_addresses_and_its_own_names():
    access = Access("museum.example", TOKEN, "x")

    for host in ("museum.example:8000", "192.168.1.5", "[2001:db8::1]:80", socket.gethostname(), "localhost"):
        assert access.answers_to(host)
    for host in ("evil.example", "museum.example.evil.example", "", None, "[", "a b"):
        assert not access.answers_to(host)


@given(st.text() | st.from_regex(r"[a-z.:\[\]@/%0-9-]+", fullmatch=True))
def test_no_text_of_a_host_header_is_an_error(host):
    if Access("127.0.0.1", None, "x").answers_to(host):
        assert any(name in host.lower() for name in ("localhost", "127", "1]", "1%"))


@given(st.text(), st.text())
def test_no_text_of_other_headers_lets_anyone_in(authorization, cookie):
    headers = {"authorization": authorization, "cookie": cookie}

    assert not Access("127.0.0.1", TOKEN, "x").allows(
        Headers({k: v.encode().decode("latin-1") for k, v in headers.items()})
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_of_someone_else_is_refused(client, host):
    for path in ("/", "/api/v1/photos", "/metrics"):
        problem(client.get(path, headers={"host": host}), 421, "misdirected")
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_may_do_nothing(client, headers):
    body = {"examples": [{"photo": 0}]}
    problem(client.post("/api/v1/search", json=body, headers=headers), 403, "cross-origin")
    problem(client.post("/api/v1/uploads", files={"file": b""}, headers=headers), 403, "cross-origin")
    problem(client.delete("/api/v1/photos/0", headers=headers), 403, "cross-origin")


def test_our_own_page_may(client):
    body = {"examples": [{"photo": 0}], "k": 1}
    own = str(client.base_url).rstrip("/")
    for headers in ({"origin": own}, {"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}, {}):
        assert client.post("/api/v1/search", json=body, headers=headers).status_code == 200


def test_no_answer_is_for_another_origin(client):
    for method in ("GET", "OPTIONS"):
        answer = client.request(method, "/api/v1/photos", headers={"origin": "http://evil.example"})
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_who_has_the_token_may_ask(collection):
    access = Access("0.0.0.0", TOKEN, "udq-8000")
    with serving(Service.start(collection), access) as client:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
            {"cookie": f"udq-8000={TOKEN}"},
        ):
            for path in ("/", "/api/v1/photos", "/api/v1/openapi.json", "/metrics", "/main.js"):
                problem(client.get(path, headers=headers), 401, "unauthorized")
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/v1/photos", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
        problem(client.get("/?token=wrong"), 401, "unauthorized")
        problem(client.get(f"/api/v1/photos?token={TOKEN}"), 401, "unauthorized")
        admitted = client.get(f"/?token={TOKEN}")
        given = admitted.headers["set-cookie"]
        assert TOKEN not in given
        assert TOKEN not in admitted.text
        assert "HttpOnly" in given
        assert "SameSite=strict" in given
        assert client.get("/api/v1/photos").status_code == 200  # with the cookie
        assert client.get("/").status_code == 200
        assert "refresh" in client.get(f"/?token={TOKEN}").text  # it never stays in the address
        problem(client.get(f"/?token={TOKEN}", headers={"host": "evil.example"}), 421, "misdirected")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could reach it"),
        (["--host", "0.0.0.0", "--token", "short"], "--token: expected 16 or more"),
        (["--token", "ünmöglich-zu-erraten"], "--token: expected 16 or more"),
        (["--allow-write", "nowhere"], "--allow-write nowhere: expected a folder"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "no address to listen at"),
    ],
)
def test_what_cannot_be_served_is_one_line(udq, collection, options, says):
    code, out, err = udq("serve", collection.path, *options)

    assert (code, out) == (2, "")
    assert err.startswith("udq: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_line(udq, collection):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = udq("serve", collection.path, "--port", port)

    assert code == 2
    assert (
        err
        == f"udq: port {port} is in use, perhaps by another udq serve; give another one with --port, 0 for a free one\n"
    )


def test_small_answers_are_sent_at_once():
    """Without that, each waits 40 ms for the other side to say that it has the headers."""
    with server._listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        taken, _ = listener.accept()
        with taken:
            assert taken.proto == socket.IPPROTO_TCP  # by which asyncio knows


def head(port, path, length, extra=""):
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n{extra}\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n'
    ).encode()


def poured(port, header, most):
    """Send zeros until the server has had enough; return how many it took and what it said."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(header)
        sent, chunk = 0, bytes(2**20)
        try:
            while sent < most:
                connection.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            return sent, connection.recv(4096)
        except ConnectionResetError:
            return sent, b""


@pytest.mark.parametrize("said", [500 * 2**20, None])
def test_a_body_without_end_is_cut_off(client, said):
    """Whether it says how long it is or comes in pieces without saying so."""
    port = client.base_url.port
    if said is not None:
        sent, answer = poured(port, head(port, "/api/v1/uploads", said), said)
        assert sent < 8 * 2**20  # what was under way; nothing of it is needed to refuse
        assert b" 413 " in answer or not answer
        return

    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n'
        for _ in range(500):
            counted.append(1)
            yield bytes(2**20)

    counted = []
    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        told = client.post("/api/v1/uploads", content=pieces(), headers=kind)
        assert "32.1 MiB" in problem(told, 413, "too-large")
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # cut off before the answer was read
    assert len(counted) < 64
    assert client.get("/healthz").text == "ok\n"


def test_what_is_no_photo_may_be_small_alone(client):
    big = b'{"examples": [{"photo": 0}], "x": "' + bytes(2 * 2**20) + b'"}'
    told = client.post("/api/v1/search", content=big, headers={"content-type": "application/json"})

    assert "1 MiB" in problem(told, 413, "too-large")


def test_a_body_that_does_not_come_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    port = client.base_url.port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head(port, "/api/v1/uploads", 1000))
        assert b" 408 " in connection.recv(4096)


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"other": ("x.png", b"x")}},
        {"data": {"file": "no file"}},
        {"files": [("file", ("a.png", b"a")), ("file", ("b.png", b"b"))]},
        {"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data"}},
        {"json": {"file": "x"}},
    ],
)
def test_a_form_that_is_none_is_told_so(client, request_):
    answer = client.post("/api/v1/uploads", **request_)

    assert answer.status_code in (400, 422)
    assert "expected a form" in answer.json()["detail"]


def png_bomb(width, height):
    """A PNG that says it is very large, and is very small."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 3 * 1000) * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HOSTILE = {
    "a bomb": (png_bomb(60_000, 60_000), "150 megapixels"),
    "a bomb within the limit": (png_bomb(12_000, 12_000), ""),
    "an svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not a photo"),
    "a page": (b"<!doctype html><script>alert(1)</script>", "not a photo"),
    "a program": (b"\x7fELF" + bytes(1000), "not a photo"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a photo"),
    "an archive": (b"PK\x03\x04" + bytes(1000), "not a photo"),
    "nothing": (b"", "empty"),
    "half a photo": (bytes_of("x.jpeg", (600, 400))[:2000], ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_photo_is_refused_in_words(client, service, name):
    data, says = HOSTILE[name]
    before = service.uploads.size
    told = problem(send(client, data, "holiday.jpg"), 422, "unreadable-photo")

    assert says in told
    assert told.startswith("holiday.jpg: ")
    assert service.uploads.size == before


TRAVERSALS = (
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\etc\\passwd",
    "%5c..%5c..%5cetc%5cpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "..%c0%af..%c0%afetc/passwd",
    "%00/etc/passwd",
    "index.html%00.png",
    "file:///etc/passwd",
    "../app.py",
    "%2e%2e%2fapp.py",
    ".",
    "..",
)


def asked(port, target):
    """The status of a request whose target is sent as it stands: clients tidy up paths."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    "before",
    [
        "/",
        "/api/v1/photos/",
        "/api/v1/photos/0/",
        "/api/v1/uploads/",
        "/api/v1/photos/{}/file",
        "/api/v1/uploads/{}/file",
    ],
)
def test_no_path_leads_out(client, before):
    for name in TRAVERSALS:
        target = before.format(name) if "{}" in before else before + name
        status, answer = asked(client.base_url.port, target)
        assert b"root:" not in answer
        assert b"FastAPI" not in answer
        known = (
            status == 200 and b"<!doctype html>" in answer.lower()
        ) or b"\nlocation: http://localhost/./\r" in answer
        assert known or status in (400, 404, 405, 422), target


def test_uploads_stay_within_their_budget(service, monkeypatch):
    data = bytes_of("x.bmp", (100, 100))
    kept = Uploads(service.decoder, budget=2 * len(data))
    taken = [kept.take(io.BytesIO(data), f"{i}.bmp") for i in range(2)]
    kept.get(taken[0].id)
    taken.append(kept.take(io.BytesIO(data), "2.bmp"))

    assert kept.size == 2 * len(data)
    with pytest.raises(Problem, match="not here"):
        kept.get(taken[1].id)  # the one that was not asked for the longest
    assert sorted(path.name for path in taken[0].path.parent.iterdir()) == sorted(taken[i].id for i in (0, 2))
    monkeypatch.setattr(uploads, "KEPT", 0.0)
    kept.sweep()
    assert (kept.size, list(taken[0].path.parent.iterdir())) == (0, [])
    assert taken[0].path.parent.stat().st_mode & 0o777 == 0o700
    kept.close()
    assert not taken[0].path.parent.exists()


def test_a_cache_keeps_what_was_asked_for_last():
    cache = Cache(10)
    for key in "abc":
        cache.put(key, key, 4)
    assert [cache.get(key) for key in "abc"] == [None, "b", "c"]
    cache.get("b")
    cache.put("d", "d", 4)
    assert [cache.get(key) for key in "bcd"] == ["b", None, "d"]
    cache.put("b", "B", 1)
    cache.put("e", "e", 11)
    assert (cache.get("b"), cache.get("e"), cache.size) == ("B", None, 5)
    cache.clear()
    assert (cache.get("b"), cache.size) == (None, 0)


async def stays():
    return False


def test_who_comes_first_is_served_first_and_too_many_are_told_when_to_come_back():
    async def scene():
        line, started, hold, order = WorkQueue(1, 3), threading.Event(), threading.Event(), []

        def first():
            started.set()
            hold.wait(30)

        running = [asyncio.create_task(line.run(stays, first))]
        await asyncio.to_thread(started.wait, 30)
        for i in range(3):
            running.append(asyncio.create_task(line.run(stays, lambda i=i: order.append(i))))
            await asyncio.sleep(0)
        with pytest.raises(Problem, match="3 others wait already") as refused:
            await line.run(stays, lambda: None)
        hold.set()
        await asyncio.gather(*running)
        line.close()
        return refused.value, order

    refused, order = asyncio.run(scene())
    assert order == [0, 1, 2]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


def test_work_that_nobody_waits_for_is_not_done():
    async def left():
        return True

    async def scene():
        line = WorkQueue(1, 1)
        with pytest.raises(Problem, match="has gone"):
            await line.run(left, lambda: pytest.fail("done"))
        assert await line.run(stays, lambda: 7) == 7  # its place is free again
        line.close()

    asyncio.run(scene())


def test_a_server_that_is_busy_says_so(client, service, monkeypatch):
    monkeypatch.setattr(service.searches, "line", WorkQueue(1, 0))
    told = client.post("/api/v1/search", json={"examples": [{"photo": 0}]})

    assert "ask again in 1 s" in problem(told, 503, "busy")
    assert told.headers["retry-after"] == "1"
    assert "udq_searches_refused_total 1.0" in client.get("/metrics").text


def test_too_many_photos_at_a_time_are_told_to_come_again(client, service, monkeypatch):
    monkeypatch.setattr(service, "_coming", 16)
    told = send(client, bytes_of("x.png"))

    assert "16 photos are coming in already" in problem(told, 503, "busy")
    assert told.headers["retry-after"] == "1"
    assert client.get("/api/v1/photos/0/thumbnail").status_code == 200


def test_the_command_serves_until_ctrl_c(collection, tmp_path):
    command = [sys.executable, "-c", "from udq.cli.main import main; main()", "serve", collection.path, "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        ready = process.stdout.readline()
        address = ready.split()[-1]
        assert ready.startswith(f"{collection.path}: 12 photos at http://127.0.0.1:")
        assert httpx.post(f"{address}api/v1/uploads", files={"file": bytes_of("x.png")}).status_code == 201
        assert len(list(tmp_path.glob("udq-serve-*/*"))) == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out.splitlines()[-1], err) == (0, "stopped", "")
    assert list(tmp_path.iterdir()) == []
