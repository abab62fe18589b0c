"""`udq serve` under load: searches of many clients over a million codes, and hostile uploads.

    python benchmarks/speed/serve.py PHOTOS [--codes 1000000] [--clients 50] [--seconds 60] [--json OUT]

The collection holds some photos of PHOTOS replicated to a number of codes. Clients are connections of this
process to a server of its own, on loopback: they take some of the same cores. Each asks as soon as it was answered,

    new boxes           each box for the first time, so that each query is encoded
    boxes asked before  of 200 boxes, whose features the server has kept

The ideal is what one client gets alone, times the cores. Then photos come that are none, or very large: the memory of
the server, and of the processes that decode for it, is sampled all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.store.segments import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "robustness"))
from robustness_common import take
from robustness_load import UNTRAINED, replicate

PHOTOS = 150
KEPT_BOXES = 200
ALONE_SECONDS = 10.0
# Bytes of a body that would not end.
ENDLESS = 500 * 2**20


@dataclass
class Server:
    """A running ``udq serve``.

    Attributes:
        process: it.
        port: where it listens.
        ready_s: seconds from its start until it said that it is ready.
    """

    process: subprocess.Popen[str]
    port: int
    ready_s: float

    def memory(self) -> dict[str, float]:
        """Return MiB that the server and the processes that decode for it hold, and the most it held itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        # Threads start decoders, so that each has children of its own.
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has ended
                children += (thread / "children").read_text().split()
        return {
            "server": _status(self.process.pid, "VmRSS"),
            "server_peak": _status(self.process.pid, "VmHWM"),
            "decoders": round(sum(_status(int(child), "VmRSS") for child in set(children)), 1),
        }


def _status(process: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    kib = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return round(kib[0] / 1024, 1) if kib else 0.0


@contextlib.contextmanager
def serving(collection: Path) -> Iterator[Server]:
    """Start a server, and end it as Ctrl-C does."""
    started = time.perf_counter()
    command = [sys.executable, "-c", "from udq.cli.main import main; main()", "serve", str(collection), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rsplit(":", 1)[1].strip().rstrip("/"))
    try:
        yield Server(process, port, round(time.perf_counter() - started, 2))
    finally:
        process.send_signal(signal.SIGINT)
        if process.wait(60) != 0:
            raise SystemExit(f"the server ended with {process.returncode}")


@dataclass
class Answers:
    """What clients were answered.

    Attributes:
        seconds: that they asked.
        took: milliseconds of each good answer.
        statuses: how often each status came.
    """

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Return rate, median and 99th percentile."""
        ordered = sorted(self.took)
        return {
            "requests": self.statuses.total(),
            "errors": self.statuses.total() - self.statuses[200],
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "per_second": round(len(ordered) / self.seconds, 2),
            "p50_ms": round(statistics.median(ordered), 1),
            "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        }


async def ask(port: int, clients: int, seconds: float, body: Callable[[], bytes]) -> Answers:
    """Have clients search, each as soon as it was answered."""
    answers, until = Answers(), time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            data, started = body(), time.perf_counter()
            writer.write(
                b"POST /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answers.statuses[int(head.split(b" ", 2)[1])] += 1
            if head.startswith(b"HTTP/1.1 200"):
                answers.took.append(1e3 * (time.perf_counter() - started))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    answers.seconds = time.perf_counter() - started
    return answers


def box_of(image: Image, rng: random.Random) -> list[float]:
    """Draw a box of a third of the sides or more."""
    x1, y1 = rng.uniform(0, image.width / 3), rng.uniform(0, image.height / 3)
    return [x1, y1, rng.uniform(2 * image.width / 3, image.width), rng.uniform(2 * image.height / 3, image.height)]


def searches(images: list[Image], seed: int, kept: int | None) -> Callable[[], bytes]:
    """Return a generator of request bodies; with a fixed number of boxes if given."""
    rng = random.Random(seed)

    def body() -> bytes:
        image = rng.choice(images)
        return json.dumps({"examples": [{"photo": image.id, "box": box_of(image, rng)}], "k": 20}).encode()

    if kept is None:
        return body
    bodies = [body() for _ in range(kept)]
    return lambda: rng.choice(bodies)


def load(server: Server, images: list[Image], clients: int, seconds: float) -> dict[str, Any]:
    """Return figures of one client alone and of many, for both kinds of boxes."""
    found: dict[str, Any] = {}
    for name, kept in (("new boxes", None), ("boxes asked before", KEPT_BOXES)):
        alone_bodies, many_bodies = searches(images, 1, kept), searches(images, 1 if kept else 2, kept)
        if kept:
            asyncio.run(ask(server.port, 2, ALONE_SECONDS, alone_bodies))
        alone = asyncio.run(ask(server.port, 1, ALONE_SECONDS, alone_bodies)).figures()
        many = asyncio.run(ask(server.port, clients, seconds, many_bodies)).figures()
        ideal = alone["per_second"] * (os.cpu_count() or 1)
        found[name] = {"alone": alone, "many": many, "of_ideal": round(many["per_second"] / ideal, 3)}
        print(f"{name:<20} alone {alone}\n{'':<20} many  {many}", flush=True)
    return found


def png(width: int, height: int, rows: int) -> bytes:
    """Return a black PNG that is cut after that many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG, 60,000 x 60,000 pixels": lambda: png(60_000, 60_000, 1),
    "PNG, 12,000 x 12,000 black pixels": lambda: png(12_000, 12_000, 12_000),
    "SVG with a script": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "HTML named .jpg": lambda: b"<!doctype html><script>alert(1)</script>",
}


def upload(port: int, data: bytes) -> int:
    """Send a photo; return the status."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n' + data + b"\r\n--x--\r\n"
    head = b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head % len(body) + kind + body)
        return int(connection.recv(64).split(b" ")[1])


def endless(port: int) -> int:
    """Send a body of 500 MB in pieces, without saying how long it is; return the bytes that were taken."""
    head = b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    first = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n'
    sent, piece = 0, bytes(2**20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + kind + b"%x\r\n%b\r\n" % (len(first), first))
        try:
            while sent < ENDLESS:
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                sent += len(piece)
        except OSError:
            pass
    return sent


def hostile(server: Server, times: int) -> dict[str, Any]:
    """Send each hostile photo some times; return what was answered, and memory before, during and after."""
    before, most, ended = server.memory(), {"server": 0.0, "decoders": 0.0}, threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            now = server.memory()
            most.update({name: max(value, now[name]) for name, value in most.items()})

    watching = threading.Thread(target=watch)
    watching.start()
    answered = {}
    for name, data in HOSTILE.items():
        answered[name] = dict(Counter(str(upload(server.port, data())) for _ in range(times)))
    taken = max(endless(server.port) for _ in range(times))
    ended.set()
    watching.join()
    return {
        "times": times,
        "answered": answered,
        "endless_mib_taken": round(taken / 2**20, 1),
        "memory_mib": {"before": before, "most": most, "after": server.memory()},
    }


def main() -> None:
    """Print figures; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTOS", type=Path)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=int, default=20, help="each hostile photo is sent (%(default)s)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        take(arguments.photos, PHOTOS, Path(scratch, "photos"))
        path = Path(scratch, "photos.udq")
        built = Collection.build(Path(scratch, "photos"), path, config=UNTRAINED, device="cpu")
        images = built.images
        replicate(path, round(arguments.codes * len(built) / built.regions))
        grown = Collection.open(path)
        print(f"{len(grown):,} photos, {grown.regions:,} codes", flush=True)
        with serving(path) as server:
            started = server.memory()
            found = load(server, images, arguments.clients, arguments.seconds)
            loaded = server.memory()
            refused = hostile(server, arguments.times)
        print(f"ready in {server.ready_s} s, memory {started} -> {loaded}\n{refused}")
        facts = {
            "photos": len(grown),
            "codes": grown.regions,
            "clients": arguments.clients,
            "seconds": arguments.seconds,
            "ready_s": server.ready_s,
            "load": found,
            "memory_mib": {"ready": started, "after_load": loaded},
            "hostile": refused,
            "provenance": provenance(seed=0),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
