"""Addresses: those listened on, the Host header, trusted origins, and a path below another server."""

from __future__ import annotations

import errno
import socket

import httpx
import pytest
from clients import LOOPBACK, TOKEN, bytes_of, problem, send, serving
from hypothesis import given
from hypothesis import strategies as st

from udq.errors import InputError
from udq.web.edge import addresses
from udq.web.edge.listening import listening
from udq.web.guard import Access
from udq.web.service import Service

HAS_IPV6 = socket.has_ipv6
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
except OSError:
    HAS_IPV6 = False
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6 loopback address")


def hosts(listeners):
    return {listener.getsockname()[0] for listener in listeners}


@needs_ipv6
def test_localhost_is_listened_to_on_both_of_its_addresses():
    with listening("localhost", 0) as listeners:
        assert hosts(listeners) == {"127.0.0.1", "::1"}
        (port,) = {listener.getsockname()[1] for listener in listeners}
        for host in ("127.0.0.1", "::1", "localhost"):
            socket.create_connection((host, port), timeout=5).close()


def test_localhost_is_never_another_machines_address(monkeypatch):
    """Without a token: the table of hosts may say that localhost is 0.0.0.0."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("0.0.0.0", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listening("localhost", 0) as listeners:
        assert hosts(listeners) == {"127.0.0.1"}


@needs_ipv6
def test_a_port_in_use_on_one_address_is_reported():
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as taken,
        pytest.raises(InputError, match="is in use"),
        listening("localhost", taken.getsockname()[1]),
    ):
        pass


def test_a_free_port_is_free_on_every_address(monkeypatch):
    """Another process may have the port of the first address on the second one."""
    attempts = []
    bind = socket.socket.bind

    def refuse_twice(self, address):
        if address[0] == "127.0.0.2" and len(attempts) < 2:
            attempts.append(address)
            raise OSError(errno.EADDRINUSE, "in use")
        bind(self, address)

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "bind", refuse_twice)
    with listening("two.example", 0) as listeners:
        assert hosts(listeners) == {"127.0.0.1", "127.0.0.2"}
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
    assert len(attempts) == 2


def test_an_address_that_the_machine_does_not_have_is_left_out(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listening("two.example", 0) as listeners:
        assert hosts(listeners) == {"127.0.0.1"}
    found.pop()
    with pytest.raises(InputError, match="assign requested address"), listening("one.example", 0):
        pass


@pytest.mark.parametrize("name", ["no.such.host.invalid", "x" * 300, "a..b", "\ud800"])
def test_a_name_that_cannot_be_resolved_is_one_line(name):
    with pytest.raises(InputError, match="no address to listen on"), listening(name, 0):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("localhost", "http://localhost:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("[::1]", "http://[::1]:8000/"),
        ("0.0.0.0", "http://127.0.0.1:8000/"),
        ("::", "http://[::1]:8000/"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:8000/"),
    ],
)
def test_the_printed_address_is_one_to_open(host, url):
    assert addresses.url_of(addresses.unbracketed(host), 8000) == url
    assert addresses.url_of(addresses.unbracketed(host), 8000, "/udq") == f"{url}udq/"


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_a_server_answers_on_ipv6(collection, host):
    with serving(Service.start(collection), Access(host, None, "x")) as client:
        assert httpx.get(f"http://[::1]:{client.base_url.port}/healthz").text == "ok\n"
        assert httpx.get(f"http://[::1]:{client.base_url.port}/").status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil@127.0.0.1", "evil:x@127.0.0.1:80", "127.0.0.1/evil", "127.0.0.1?evil", "127.0.0.1#evil", "127.0.0.1\\evil",
     "127.0.0.1:80:80", "127.0.0.1 evil", "127.0.0.1,evil", "[::1", "::1]", "[::1]evil", "[[::1]]", "[localhost]",
     "127.0.0.1:x", "@localhost", "//localhost", "localhost\u0131"],
)  # fmt: skip
def test_a_host_header_that_is_no_host_names_no_server(host):
    assert not LOOPBACK.answers_to(host)
    assert not Access("0.0.0.0", TOKEN, "x").answers_to(host)


def test_such_a_host_header_is_refused(client):
    problem(client.get("/", headers={"host": "evil@127.0.0.1"}), 421, "misdirected")


@given(st.text())
def test_a_name_in_a_host_header_is_part_of_it(text):
    name = addresses.name_in(text)

    assert name is None or name in text.lower()
    assert name is None or not set("/@?#[] ") & set(name)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://photos.example.org", "https://photos.example.org"),
        ("HTTPS://Photos.Example.org:443/", "https://photos.example.org"),
        ("http://10.0.0.5:80", "http://10.0.0.5"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
    ],
)
def test_origins_are_written_as_browsers_do(url, origin):
    assert addresses.origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    ["photos.example.org", "https://", "ftp://x", "https://x/udq", "https://a@x", "https://x?y", "https://x:99999",
     "https://x:y", "*", "null", "https://[::1", "https://*.example.org", "", "https://x y"],
)  # fmt: skip
def test_other_origins_are_one_line(url):
    with pytest.raises(InputError, match=r"--origin .*: expected scheme, host") as refused:
        addresses.origin_of(url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("path", "root"), [("", ""), ("/", ""), ("/udq", "/udq"), ("/a/b_c.d/", "/a/b_c.d")])
def test_root_paths(path, root):
    assert addresses.root_path_of(path) == root


@pytest.mark.parametrize(
    "path", ["udq", "//udq", "/a//b", "/a/../b", "/.", "/a b", "/ü", "/a?b", "/<x>", "/api", "/healthz/x"]
)
def test_other_root_paths_are_one_line(path):
    with pytest.raises(InputError, match="--root-path "):
        addresses.root_path_of(path)


OUTER = "http://photos.example.org"


@pytest.fixture(scope="module")
def proxied(collection):
    with serving(Service.start(collection), Access("127.0.0.1", None, "x", (OUTER, "https://10.0.0.5:8443"))) as client:
        yield client


def search(client, **headers):
    return client.post("/api/v1/search", json={"examples": [{"photo": 0}], "k": 1}, headers=headers)


def test_a_plain_proxy_sends_the_inner_host_and_the_outer_origin(proxied, client):
    assert search(proxied, origin=OUTER).status_code == 200
    assert search(proxied, origin="https://10.0.0.5:8443").status_code == 200
    assert "--origin" in problem(search(client, origin=OUTER), 403, "cross-origin")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://photos.example.org:8080", "null", "https://10.0.0.5",
     "http://photos.example.org.evil.example", "http://photos.example.org@evil.example"],
)  # fmt: skip
def test_a_foreign_origin_is_still_refused(proxied, origin):
    problem(search(proxied, origin=origin), 403, "cross-origin")
    problem(search(proxied, origin=origin, host="photos.example.org"), 403, "cross-origin")


def test_the_scheme_of_an_origin_counts(proxied):
    problem(search(proxied, origin="https://photos.example.org"), 403, "cross-origin")


def test_sec_fetch_site_decides_if_it_is_there(proxied):
    problem(search(proxied, origin=OUTER, **{"sec-fetch-site": "cross-site"}), 403, "cross-origin")
    assert search(proxied, origin="https://evil.example", **{"sec-fetch-site": "same-origin"}).status_code == 200


def test_the_name_of_a_trusted_origin_is_a_host(proxied, client):
    assert search(proxied, origin=OUTER, host="photos.example.org").status_code == 200
    assert proxied.get("/", headers={"host": "10.0.0.5:8443"}).status_code == 200
    assert "--origin" in problem(client.get("/", headers={"host": "photos.example.org"}), 421, "misdirected")


@pytest.fixture(scope="module")
def below(collection):
    """A server with a token, below /udq."""
    with serving(Service.start(collection), Access("127.0.0.1", TOKEN, "x", (), "/udq")) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.mark.parametrize("prefix", ["", "/udq"])
def test_a_path_is_understood_whether_or_not_the_proxy_removes_it(below, prefix):
    page = below.get(f"{prefix}/")
    assert "<!doctype html>" in page.text
    assert not [line for line in page.text.splitlines() if 'href="/' in line or 'src="/' in line]
    assert '"/' not in below.get(f"{prefix}/api.js").text.replace('"/")', "")
    assert below.get(f"{prefix}/api/v1/photos").json()["total"] == 12
    assert below.get(f"{prefix}/healthz").status_code == 200
    assert search(below, origin=str(below.base_url).rstrip("/")).status_code == 200


def test_addresses_in_responses_begin_with_the_path(below):
    uploaded = send(below, bytes_of("x.png"), address="/udq/api/v1/uploads")
    assert uploaded.headers["location"] == f"/udq/api/v1/uploads/{uploaded.json()['id']}/file"
    assert below.get(uploaded.headers["location"]).status_code == 200
    assert below.get("/udq/api/v1/openapi.json").json()["servers"] == [{"url": "/udq"}]
    redirected = below.get("/udq?token=x")
    assert (redirected.status_code, redirected.headers["location"]) == (308, "/udq/?token=x")
    assert below.get("/udq/.").headers.get("location", "/udq/").startswith("/udq/")
    assert below.get("//evil.example/..").headers.get("location", "/udq/").startswith("/udq/")


def test_paths_that_only_begin_alike_are_others(below):
    for path in ("/udqx/", "/udq/udq/", "/udq/api/v1/nothing"):
        assert below.get(path).status_code == 404


def test_the_cookie_belongs_to_the_path(below):
    login = below.get(f"/udq/?token={TOKEN}", headers={"x-forwarded-proto": "https"})
    cookie = login.headers["set-cookie"]
    assert "Path=/udq/;" in cookie
    assert "Secure" in cookie
    assert "url=/udq/" in login.text
    plain = below.get(f"/?token={TOKEN}").headers["set-cookie"]
    assert "Secure" not in plain


def test_without_a_path_the_description_names_the_root(client):
    assert client.get("/api/v1/openapi.json").json()["servers"] == [{"url": "/"}]
