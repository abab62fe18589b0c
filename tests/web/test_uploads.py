"""Uploads: forms, hostile photos, the byte budget and the limit of concurrent uploads."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from clients import bytes_of, problem, send

from udq.web import uploads
from udq.web.problems import Problem
from udq.web.uploads import Uploads


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
    "a bomb": (png_bomb(60_000, 60_000), "3600 megapixels, more than the limit of 150; scale it down"),
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


def test_too_many_concurrent_uploads_are_refused(client, service, monkeypatch):
    monkeypatch.setattr(service, "_uploads_in_progress", 16)
    response = send(client, bytes_of("x.png"))

    assert "16 uploads are already in progress" in problem(response, 503, "busy")
    assert response.headers["retry-after"] == "1"
    assert client.get("/api/v1/photos/0/thumbnail").status_code == 200
