"""Access control: hosts, origins, tokens, sizes, timeouts and paths."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from clients import TOKEN, problem, serving
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from udq.web.edge import receiving
from udq.web.edge.addresses import is_loopback
from udq.web.guard import Access, Guard
from udq.web.service import Service


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


@pytest.mark.parametrize("cookie", ["\\" * 60_000, '"\\"' * 20_000, "=;" * 30_000, "x=" * 30_000])
def test_a_long_cookie_takes_no_time(client, cookie):
    """Python's parser takes 18 s for 60,000 backslashes (CVE-2024-7592), and all other requests wait."""
    headers = {"cookie": f'udq-8000="{cookie}"; x="{cookie[:100]}"'}
    started = time.monotonic()

    assert not Access("0.0.0.0", TOKEN, "udq-8000").allows(Headers(headers))
    assert client.get("/api/v1/photos", headers=headers).status_code == 200
    assert time.monotonic() - started < 2


def test_no_request_asks_the_name_server(monkeypatch):
    """It takes seconds to answer, and all other requests wait."""
    access = Access("0.0.0.0", TOKEN, "x")
    Guard(None, access)
    monkeypatch.setattr(socket, "getfqdn", lambda: pytest.fail("asked"))

    assert not access.answers_to("evil.example")
    assert access.answers_to(socket.gethostname())


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
    monkeypatch.setattr(receiving, "RECEIVE_TIMEOUT", 0.2)
    port = client.base_url.port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head(port, "/api/v1/uploads", 1000))
        assert b" 408 " in connection.recv(4096)


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
        known = (status == 200 and b"<!doctype html>" in response.lower()) or b"\nlocation: /./\r" in response
        assert known or status in (400, 404, 405, 422), target
