"""The page and the API behind a real nginx, with the set-ups that docs/serve.md documents."""

from __future__ import annotations

import re
import ssl
from contextlib import contextmanager

import httpx
import nginx
import pytest
from clients import TOKEN, bytes_of, problem, send, serving

from udq.web.edge import addresses
from udq.web.guard import Access
from udq.web.service import Service

SETUPS = nginx.documented()
# Variants of the documented blocks that the text allows.
OUTER_HOST = ("proxy_pass http://127.0.0.1:8000;", "proxy_pass http://127.0.0.1:8000; proxy_set_header Host $host;")
REMOVED_PATH = ("proxy_pass http://127.0.0.1:8000;", "proxy_pass http://127.0.0.1:8000/;")


@contextmanager
def proxied(collection, folder, setup, *, token=None, trusted=True, replace=("", "")):
    """A server behind nginx; yields a client that sends what a browser at the outer address does."""
    origin, root = setup.option("--origin"), setup.option("--root-path")
    access = Access(
        "127.0.0.1",
        token,
        "udq-inner",
        (addresses.origin_of(origin),) if trusted else (),
        addresses.root_path_of(root) if trusted else "",
    )
    changed = nginx.Setup(setup.command, setup.block.replace(*replace))
    port = nginx.free_port()
    with (
        serving(Service.start(collection), access) as inner,
        nginx.running(changed, folder, inner.base_url.port, port) as certificate,
    ):
        scheme = origin.partition(":")[0]
        with httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{port}{root}",
            verify=ssl.create_default_context(cafile=certificate) if certificate else True,
            headers={"host": setup.host, "origin": origin},
            timeout=60,
            event_hooks={"request": [lambda request: request.extensions.update(sni_hostname=setup.host)]},
        ) as client:
            yield client


def search(client, **headers):
    return client.post("/api/v1/search", json={"examples": [{"photo": 0}], "k": 3}, headers=headers)


def check(client, root):
    """Everything that the page does works through the proxy, and a page of another site is refused."""
    page = client.get("/")
    assert "<!doctype html>" in page.text
    for address in re.findall(r'(?:href|src)="([^"#]+)"', page.text):
        assert client.get(f"/{address}").status_code == 200
        assert not address.startswith("/")
    assert client.get("/api/v1/photos").json()["total"] == 12
    assert client.get("/api/v1/photos/0/thumbnail").headers["content-type"] == "image/jpeg"
    assert client.get("/healthz").text == "ok\n"
    assert len(search(client).json()["matches"]) == 3
    problem(search(client, origin="http://evil.example"), 403, "cross-origin")
    problem(search(client, origin="null"), 403, "cross-origin")
    photo = bytes_of("x.png", (1000, 700))
    assert len(photo) > 2**20  # nginx's own limit, unless it is raised
    uploaded = send(client, photo)
    location = uploaded.headers["location"]
    assert (uploaded.status_code, location.startswith(f"{root}/api/")) == (201, True)
    assert client.get(location.removeprefix(root)).content == photo
    assert client.get("/api/v1/openapi.json").json()["servers"] == [{"url": root or "/"}]


def test_the_manual_documents_them():
    assert list(SETUPS) == ["Over HTTP", "Over HTTPS", "Below a path"]
    for setup in SETUPS.values():
        assert setup.command.startswith("udq serve photos.udq --origin http")
        assert setup.block.rstrip().endswith("}")


@pytest.mark.parametrize("replace", [("", ""), OUTER_HOST], ids=["inner host", "outer host"])
@pytest.mark.parametrize("heading", SETUPS)
def test_a_documented_setup_works(collection, tmp_path, heading, replace):
    setup = SETUPS[heading]
    with proxied(collection, tmp_path, setup, replace=replace) as client:
        check(client, setup.option("--root-path"))


def test_the_proxy_may_remove_the_path(collection, tmp_path):
    with proxied(collection, tmp_path, SETUPS["Below a path"], replace=REMOVED_PATH) as client:
        check(client, "/udq")
        bare = client.get(str(client.base_url).rstrip("/"))
        assert bare.status_code == 301  # of nginx
        assert bare.headers["location"].endswith("/udq/")


@pytest.mark.parametrize("heading", ["Over HTTPS", "Below a path"])
def test_a_token_works_through_the_proxy(collection, tmp_path, heading):
    setup = SETUPS[heading]
    with proxied(collection, tmp_path, setup, token=TOKEN) as client:
        problem(client.get("/api/v1/photos"), 401, "unauthorized")
        login = client.get(f"/?token={TOKEN}")
        cookie = login.headers["set-cookie"]
        assert f"Path={setup.option('--root-path')}/;" in cookie
        assert "Secure" in cookie
        assert f"url={setup.option('--root-path')}/" in login.text
        sent = {"cookie": cookie.partition(";")[0]}
        assert client.get("/api/v1/photos", headers=sent).json()["total"] == 12
        assert search(client, **sent).status_code == 200


def test_without_the_option_the_outer_origin_is_foreign(collection, tmp_path):
    with proxied(collection, tmp_path, SETUPS["Over HTTP"], trusted=False) as client:
        assert "--origin" in problem(search(client), 403, "cross-origin")
