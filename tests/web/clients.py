"""HTTP clients of real servers, and helpers for their requests and responses."""

from __future__ import annotations

import io
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

from udq.web import app
from udq.web.edge.listening import listening
from udq.web.guard import Access
from udq.web.server import LimitedServer

LOOPBACK = Access("127.0.0.1", None, "udq-test")
TOKEN = "a-token-that-cannot-be-guessed"


@contextmanager
def running(application, host="127.0.0.1"):
    """Run an ASGI application as udq serve does, on a free port; yield the port."""
    with listening(host, 0) as listeners:
        server = LimitedServer(application)
        thread = threading.Thread(target=server.run, args=(listeners,))
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield listeners[0].getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


@contextmanager
def serving(service, access=LOOPBACK):
    """Run a server on a free port; yield an HTTP client for it."""
    with (
        running(app.create(service, access), access.host) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield client


def number_of(client, name):
    (photo,) = client.get("/api/v1/photos", params={"q": name}).json()["photos"]
    return photo["id"]


def problem(response, status, kind):
    """Check a problem response; return its detail."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    body = response.json()
    assert body["status"] == status
    assert body["type"].endswith(f"#{kind}")
    assert "\n" not in body["detail"]
    return body["detail"]


def picture_of(response):
    assert response.headers["content-type"] == "image/jpeg"
    return Image.open(io.BytesIO(response.content))


def bytes_of(name, size=(60, 40), form=None, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form or name.rsplit(".")[-1].upper(), **options)
    return buffer.getvalue()


def send(client, data, name="x.png", address="/api/v1/uploads"):
    return client.post(address, files={"file": (name, data)})
