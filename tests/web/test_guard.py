"""Access control, limits, queues and hostile input: hosts, origins, tokens, sizes, paths and photos."""

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
from udq.web.queue import WorkQueue, never_disconnected
from udq.web.service import Service
from udq.web.uploads import Uploads

TOKEN = "a-token-that-cannot-be-guessed"


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
    assert Access(host, None, "x").answers_to("localhost:9000")  # the port of a tunnel differs


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "museum.example", "localhost.example", "127.0.0.1.nip.io", ""]
)
def test_not_loopback(host):
    assert not is_loopback(host)
    assert not Access("127.0.0.1", None, "x").answers_to(host)


def test_a_server_on_another_address_accepts_addresses_and_its_own_names():
    access = Access("museum.example", TOKEN, "x")

    for host in ("museum.example:8000", "192.168.1.5", "[2001:db8::1]:80", socket.gethostname(), "localhost"):
        assert access.answers_to(host)
    for host in ("evil.example", "museum.example.evil.example", "", None, "[", "a b"):
        assert not access.answers_to(host)


@given(st.text() | st.from_regex(r"[a-z.:\[\]@/%0-9-]+", fullmatch=True))
def test_no_host_header_is_an_error(host):
    if Access("127.0.0.1", None, "x").answers_to(host):
        assert any(name in host.lower() for name in ("localhost", "127", "1]", "1%"))


@given(st.text(), st.text())
def test_no_other_authorization_or_cookie_is_accepted(authorization, cookie):
    headers = {"authorization": authorization, "cookie": cookie}

    assert not Access("127.0.0.1", TOKEN, "x").allows(
        Headers({k: v.encode().decode("latin-1") for k, v in headers.items()})
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_host_header_with_another_name_is_refused(client, host):
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
def test_requests_of_pages_of_other_sites_are_refused(client, headers):
    body = {"examples": [{"photo": 0}]}
    problem(client.post("/api/v1/search", json=body, headers=headers), 403, "cross-origin")
    problem(client.post("/api/v1/uploads", files={"file": b""}, headers=headers), 403, "cross-origin")
    problem(client.delete("/api/v1/photos/0", headers=headers), 403, "cross-origin")


def test_requests_of_the_own_page_and_of_programs_are_allowed(client):
    body = {"examples": [{"photo": 0}], "k": 1}
    own = str(client.base_url).rstrip("/")
    for headers in ({"origin": own}, {"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}, {}):
        assert client.post("/api/v1/search", json=body, headers=headers).status_code == 200


def test_no_response_allows_another_origin(client):
    for method in ("GET", "OPTIONS"):
        response = client.request(method, "/api/v1/photos", headers={"origin": "http://evil.example"})
        assert not any(name.startswith("access-control") for name in response.headers)
        assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_every_path_but_the_probes_requires_the_token(collection):
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
        login = client.get(f"/?token={TOKEN}")
        cookie = login.headers["set-cookie"]
        assert TOKEN not in cookie
        assert TOKEN not in login.text
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/api/v1/photos").status_code == 200  # with the cookie
        assert client.get("/").status_code == 200
        assert "refresh" in client.get(f"/?token={TOKEN}").text  # removed from the address also with the cookie
        problem(client.get(f"/?token={TOKEN}", headers={"host": "evil.example"}), 421, "misdirected")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach this address; set a token"),
        (["--host", "0.0.0.0", "--token", "short"], "--token: expected 16 or more"),
        (["--token", "ünmöglich-zu-erraten"], "--token: expected 16 or more"),
        (["--allow-write", "nowhere"], "--allow-write nowhere: expected an existing, writable folder"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "no address to listen on"),
    ],
)
def test_invalid_options_are_one_line(udq, collection, options, says):
    code, out, err = udq("serve", collection.path, *options)

    assert (code, out) == (2, "")
    assert err.startswith("udq: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_line(udq, collection):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = udq("serve", collection.path, "--port", port)

    expected = f"port {port} is in use, perhaps by another udq serve; use another one with --port, or 0 for a free one"
    assert (code, err) == (2, f"udq: {expected}\n")


def test_small_responses_are_sent_at_once():
    """Without TCP_NODELAY, each response waits 40 ms for the client to acknowledge the headers."""
    with server.listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # for which asyncio sets TCP_NODELAY


def head(port, path, length, extra=""):
    """Headers of an upload, and the beginning of its form."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n{extra}\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n'
    ).encode()


def send_zeros(port, header, most):
    """Send up to ``most`` zeros until the server closes the connection; return the bytes sent and the response."""
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


@pytest.mark.parametrize("length", [500 * 2**20, None])
def test_a_body_over_the_limit_is_cut_off(client, length):
    """With a content length, and without one in chunks."""
    port = client.base_url.port
    if length is not None:
        sent, response = send_zeros(port, head(port, "/api/v1/uploads", length), length)
        assert sent < 8 * 2**20  # what was in transit: the content length alone is refused
        assert b" 413 " in response or not response
        return

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n'
        for _ in range(500):
            sent.append(1)
            yield bytes(2**20)

    sent = []
    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        response = client.post("/api/v1/uploads", content=chunks(), headers=kind)
        assert "32.1 MiB" in problem(response, 413, "too-large")
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # cut off before the response was read
    assert len(sent) < 64
    assert client.get("/healthz").text == "ok\n"


def test_a_request_without_a_photo_may_have_1_mib(client):
    big = b'{"examples": [{"photo": 0}], "x": "' + bytes(2 * 2**20) + b'"}'
    response = client.post("/api/v1/search", content=big, headers={"content-type": "application/json"})

    assert "at most 1 MiB" in problem(response, 413, "too-large")


def test_a_body_that_does_not_arrive_times_out(client, monkeypatch):
    monkeypatch.setattr(guard, "RECEIVE_TIMEOUT", 0.2)
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
def test_an_invalid_form_is_refused(client, request_):
    response = client.post("/api/v1/uploads", **request_)

    assert response.status_code in (400, 422)
    assert "expected a form" in response.json()["detail"]


def png_bomb(width, height):
    """A small PNG file whose header claims these sides."""

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
def test_a_hostile_photo_is_refused_with_its_reason(client, service, name):
    data, says = HOSTILE[name]
    before = service.uploads.size
    detail = problem(send(client, data, "holiday.jpg"), 422, "unreadable-photo")

    assert says in detail
    assert detail.startswith("holiday.jpg: ")
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


def get_raw(port, target):
    """Status and bytes of the response to an unnormalised request target: HTTP clients normalise paths."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = b""
        while part := connection.recv(65536):
            response += part
    return int(response.split(b" ", 2)[1]), response


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
def test_no_path_traversal(client, before):
    for name in TRAVERSALS:
        target = before.format(name) if "{}" in before else before + name
        status, response = get_raw(client.base_url.port, target)
        assert b"root:" not in response
        assert b"FastAPI" not in response
        known = (
            status == 200 and b"<!doctype html>" in response.lower()
        ) or b"\nlocation: http://localhost/./\r" in response
        assert known or status in (400, 404, 405, 422), target


def test_uploads_stay_within_their_budget(service, monkeypatch):
    data = bytes_of("x.bmp", (100, 100))
    stored = Uploads(service.decoder, budget=2 * len(data))
    added = [stored.add(io.BytesIO(data), f"{i}.bmp") for i in range(2)]
    stored.get(added[0].id)
    added.append(stored.add(io.BytesIO(data), "2.bmp"))

    assert stored.size == 2 * len(data)
    with pytest.raises(Problem, match="upload not found"):
        stored.get(added[1].id)  # the least recently used one
    assert sorted(path.name for path in added[0].path.parent.iterdir()) == sorted(added[i].id for i in (0, 2))
    monkeypatch.setattr(uploads, "LIFETIME", 0.0)
    stored.sweep()
    assert (stored.size, list(added[0].path.parent.iterdir())) == (0, [])
    assert added[0].path.parent.stat().st_mode & 0o777 == 0o700
    stored.close()
    assert not added[0].path.parent.exists()


def test_the_cache_evicts_the_least_recently_used():
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


def test_the_queue_is_first_in_first_out_and_bounded():
    async def scenario():
        queue, started, hold, order = WorkQueue(1, 3), threading.Event(), threading.Event(), []

        def first():
            started.set()
            hold.wait(30)

        running = [asyncio.create_task(queue.run(never_disconnected, first))]
        await asyncio.to_thread(started.wait, 30)
        for i in range(3):
            running.append(asyncio.create_task(queue.run(never_disconnected, lambda i=i: order.append(i))))
            await asyncio.sleep(0)
        with pytest.raises(Problem, match="the queue is full: 3 requests are waiting") as refused:
            await queue.run(never_disconnected, lambda: None)
        hold.set()
        await asyncio.gather(*running)
        queue.close()
        return refused.value, order

    refused, order = asyncio.run(scenario())
    assert order == [0, 1, 2]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


def test_work_of_a_disconnected_client_is_skipped():
    async def disconnected():
        return True

    async def scenario():
        queue = WorkQueue(1, 1)
        with pytest.raises(Problem, match="the client disconnected"):
            await queue.run(disconnected, lambda: pytest.fail("run"))
        assert await queue.run(never_disconnected, lambda: 7) == 7  # the worker is free again
        queue.close()

    asyncio.run(scenario())


def test_a_full_search_queue_is_a_problem(client, service, monkeypatch):
    monkeypatch.setattr(service.searches, "queue", WorkQueue(1, 0))
    response = client.post("/api/v1/search", json={"examples": [{"photo": 0}]})

    assert "try again in 1 s" in problem(response, 503, "busy")
    assert response.headers["retry-after"] == "1"
    assert "udq_searches_refused_total 1.0" in client.get("/metrics").text


def test_too_many_concurrent_uploads_are_refused(client, service, monkeypatch):
    monkeypatch.setattr(service, "_uploads_in_progress", 16)
    response = send(client, bytes_of("x.png"))

    assert "16 uploads are already in progress" in problem(response, 503, "busy")
    assert response.headers["retry-after"] == "1"
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
