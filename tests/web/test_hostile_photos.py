"""Photos of a collection that were replaced by hostile ones: every user of their pixels decodes them in the sandbox."""

from __future__ import annotations

import shutil
import struct
import sys
import zlib
from pathlib import Path

import pytest
from clients import number_of, serving

from udq import Collection
from udq.reports import match_lines, results, thumbnails
from udq.web.service import Service

pytest.importorskip("cv2")

BOX = [81, 20, 478, 386]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def write_black_png(path, side):
    """Write a valid PNG of side x side black pixels in a few hundred kilobytes."""
    compress = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    rows = b"".join([*(compress.compress(row) for _ in range(side)), compress.flush()])

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.fixture
def hostile(place):
    """The folder of a collection with a link out of it and a photo of 144 megapixels in place of photos."""
    shutil.copy(place / "photos" / "coffee.png", place / "secret.png")
    (place / "photos" / "astronaut.png").unlink()
    (place / "photos" / "astronaut.png").symlink_to(place / "secret.png")  # it would be verified
    write_black_png(place / "photos" / "coins.png", 12_000)
    return place


def verified(matches):
    return {match["image"] for match in matches if match["inliers"]}


def peak_memory():
    """Return the largest memory of this process since ``reset_peak`` in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


@LINUX
def test_a_server_verifies_replaced_photos_in_the_sandbox(hostile):
    opened = Collection.open(hostile / "x.udq", device="cpu")
    with serving(Service.start(opened)) as client:
        number = number_of(client, "coffee.png")
        body = {"examples": [{"photo": number, "box": BOX}], "rerank": ["verify"]}
        reset_peak()
        before = peak_memory()
        found = client.post("/api/v1/search", json=body).json()
        growth = peak_memory() - before

    assert verified(found["matches"]) == {"coffee.png"}
    assert len(found["matches"]) == 4
    assert growth < 150  # the photo decodes to 412 MiB


@LINUX
def test_the_library_verifies_and_draws_replaced_photos_in_the_sandbox(hostile):
    opened = Collection.open(hostile / "x.udq", device="cpu")
    opened.search(hostile / "photos" / "coffee.png", BOX)
    reset_peak()
    before = peak_memory()
    result = opened.search(hostile / "photos" / "coffee.png", BOX, rerank=["verify"])
    files = {image.name: image.file for image in opened.images}
    tiles = {name: results._tile(file, (0.0, 0.0, 9.0, 9.0), "red", name) for name, file in files.items()}
    lines = match_lines.sheet(result, [files[match.image] for match in result.matches])
    growth = peak_memory() - before

    assert verified(result.to_json()["matches"]) == {"coffee.png"}
    assert lines.height == 320  # one verified photo
    assert "a link out of its folder" in tiles["astronaut.png"].caption
    assert tiles["coins.png"].image.shape == (960, 960, 3)
    assert thumbnails.whole(files["astronaut.png"]) is None
    assert thumbnails.cut(files["astronaut.png"], (0.0, 0.0, 9.0, 9.0)) is None
    assert thumbnails.whole(files["coffee.png"]) is not None
    assert growth < 150


def test_a_photo_that_is_gone_is_named_by_its_path(place):
    opened = Collection.open(place / "x.udq", device="cpu")
    (place / "photos" / "coins.png").unlink()
    (image,) = (image for image in opened.images if image.name == "coins.png")

    assert results._tile(image.file, None, "red", "coins").caption == "coins\n(photo is gone)\nmoved? udq relocate"
