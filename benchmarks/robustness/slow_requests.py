"""`udq serve` under requests that do not end: whether others are answered, how soon, and what memory the server takes.

    python benchmarks/robustness/slow_requests.py PHOTOS [--only NAME ...] [--seconds 10] [--json OUT]

A server with a token, in a process of its own, is attacked from another process over raw sockets. Beside each attack,
one client asks for /healthz every 50 ms and another one searches, each request on a connection of its own. The attacker
opens 500 connections a second at first, and one that was closed again after five seconds.

    quiet             no attack
    request line      a request line without end, as fast as the server takes it
    headers           headers without end, as fast as the server takes them
    cookies           64 KiB of backslashes in a cookie
    half requests     1,500 connections with half a request
    single bytes      1,500 connections that send a byte of their headers ten times a second
    bodies            1,500 connections with a body that arrives at a byte a second, without a token
    admitted bodies   1,500 connections with such a body, with the token
    tiny chunks       16 connections with a body in chunks of a byte, with the token, as fast as the server takes it
    unread responses  100 connections that ask for a photo twice a second, with the token, and read nothing

Fails if a request of the two clients fails, if /healthz takes longer than 100 ms, or if the server takes 64 MiB more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustness_common import build, fork, take

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.store.segments import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "speed"))
from serve import Server, box_of, serving

PHOTOS = 40
TOKEN = "a-token-of-this-benchmark"
MOST_MS = 100.0
MOST_MIB = 64.0
WARM_UP = 100
# Seconds between two requests of the clients; between two connections of an attacker, and before it repeats one.
PAUSE, APART, AGAIN = 0.05, 0.002, 5.0
HOST = b"Host: 127.0.0.1\r\n"
BEARER = b"Authorization: Bearer %b\r\n" % TOKEN.encode()
POST = b"POST /api/v1/search HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n" + HOST
CHUNKED = POST.replace(b"Content-Length: 9000", b"Transfer-Encoding: chunked") + BEARER + b"\r\n"
PIECE = 2**16


@dataclass
class Attack:
    """Connections that are opened again whenever they are closed.

    Attributes:
        connections: at a time.
        first: what each sends at once.
        then: what each sends again and again.
        pause: seconds between two of those.
        reads: whether responses are read.
    """

    connections: int = 0
    first: bytes = b""
    then: bytes = b""
    pause: float = 1.0
    reads: bool = True


ATTACKS = {
    "quiet": Attack(),
    "request line": Attack(1, b"GET /", b"a" * PIECE, 0.0),
    "headers": Attack(4, b"GET / HTTP/1.1\r\n" + HOST, b"X-Filler: filler\r\n" * (PIECE // 18), 0.0),
    "cookies": Attack(4, b'GET / HTTP/1.1\r\n%bCookie: a="%b"\r\n\r\n' % (HOST, b"\\" * 60_000), b"", 0.5),
    "half requests": Attack(1500, b"GET / HTTP/1.1\r\nHo"),
    "single bytes": Attack(1500, b"GET / HTTP/1.1\r\nX: ", b"a", 0.1),
    "bodies": Attack(1500, POST + b"\r\n{", b" "),
    "admitted bodies": Attack(1500, POST + BEARER + b"\r\n{", b" "),
    "tiny chunks": Attack(16, CHUNKED, b"1\r\na\r\n" * 10_000, 0.0),
    "unread responses": Attack(
        100, b"", b"GET /api/v1/photos/0/file HTTP/1.1\r\n%b%b\r\n" % (HOST, BEARER), 0.5, reads=False
    ),
}


async def attack(port: int, plan: Attack) -> None:
    """Attack a server until this process is ended."""

    async def one(place: int) -> None:
        await asyncio.sleep(place * APART)
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(plan.first)
                while not writer.is_closing():
                    writer.write(plan.then)
                    if plan.reads:
                        with contextlib.suppress(TimeoutError):  # nothing to read
                            if not await asyncio.wait_for(reader.read(PIECE), plan.pause or 0.001):
                                break
                    else:
                        await asyncio.sleep(plan.pause)
                    await asyncio.wait_for(writer.drain(), 60)
                writer.transport.abort()
            await asyncio.sleep(AGAIN)

    await asyncio.gather(*(one(place) for place in range(plan.connections)))


@dataclass
class Client:
    """A client that asks until it is told to stop; ``took`` is milliseconds of each good answer."""

    ask: Callable[[], int]
    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask again and again."""
        while not stop.wait(PAUSE):
            started = time.perf_counter()
            try:
                status = self.ask()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status == 200:
                self.took.append(1e3 * (time.perf_counter() - started))
            else:
                self.failures.append(f"status {status}")

    def figures(self) -> dict[str, Any]:
        """Return how many answers there were, and how soon."""
        ordered = sorted(self.took) or [float("inf")]
        return {
            "answers": len(self.took),
            "failures": self.failures[:10],
            "p50_ms": round(statistics.median(ordered), 1),
            "p99_ms": round(ordered[int(0.99 * len(ordered))], 1),
            "most_ms": round(ordered[-1], 1),
        }


def request(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """Send a request on a connection of its own; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body, headers if method == "POST" else {})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def search(port: int, images: list[Image], rng: random.Random) -> int:
    """Search for a new box; return the status."""
    image = rng.choice(images)
    body = {"examples": [{"photo": image.id, "box": box_of(image, rng)}], "k": 20}
    return request(port, "POST", "/api/v1/search", json.dumps(body).encode())


def measure(server: Server, images: list[Image], plan: Attack, seconds: float) -> dict[str, Any]:
    """Return how clients are answered beside an attack, and the memory of the server."""
    rng, stop = random.Random(0), threading.Event()
    before = server.memory()["server"]
    attacker = fork(lambda: asyncio.run(attack(server.port, plan)), quiet=True)
    clients = {
        "healthz": Client(lambda: request(server.port, "GET", "/healthz")),
        "searches": Client(lambda: search(server.port, images, rng)),
    }
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients.values()]
    for thread in threads:
        thread.start()
    most, until = before, time.perf_counter() + seconds
    while time.perf_counter() < until:
        time.sleep(0.25)
        most = max(most, server.memory()["server"])
    stop.set()
    for thread in threads:
        thread.join()
    os.kill(attacker, signal.SIGKILL)
    os.waitpid(attacker, 0)
    found: dict[str, Any] = {name: client.figures() for name, client in clients.items()}
    found["memory_mib"] = {"before": before, "most": most}
    found["failures"] = [f"{name}: {failure}" for name in clients for failure in found[name]["failures"]]
    if found["healthz"]["most_ms"] > MOST_MS:
        found["failures"].append(f"healthz: {found['healthz']['most_ms']} ms")
    if most - before > MOST_MIB:
        found["failures"].append(f"memory: {most - before:.0f} MiB more")
    return found


def main() -> None:
    """Print figures; write JSON if asked; exit 1 if a client was not answered in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTOS", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack (%(default)s)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.environ["UDQ_TOKEN"] = TOKEN
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        take(given.photos, PHOTOS, Path(scratch, "photos"))
        images = Collection.open(build(Path(scratch, "photos"), Path(scratch, "photos.udq")), device="cpu").images
        with serving(Path(scratch, "photos.udq")) as server:
            rng = random.Random(1)
            for _ in range(WARM_UP):
                search(server.port, images, rng)
            for name in given.only:
                found[name] = measure(server, images, ATTACKS[name], given.seconds)
                print(f"{name:<18}{json.dumps(found[name])}", flush=True)
                time.sleep(1)  # connections of the attacker are closed
    if given.json:
        facts = {"seconds": given.seconds, "attacks": found, "provenance": provenance(seed=0)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")
    if failed := [name for name, each in found.items() if each["failures"]]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
