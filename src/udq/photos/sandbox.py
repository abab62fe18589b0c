"""Photos decoded in processes of their own: one that crashes its decoder, or never ends, costs itself and nothing else.

    with Decoder() as decoder:
        decoded = decoder.decode(path, shorter=600, longer=1000)
        crop, box = decoder.load_crop(path, (120, 80, 340, 300), shorter=600, longer=1000, least=224)

A decoder of damaged files is C code that strangers' bytes reach. Here it runs where it can take down nobody: in a
process that has its own limit of memory and a limit of time, and that is replaced when it ends. The processes import
neither torch nor the user's script (``decoding_process`` is all they run), and what they send back is numbers and
pixels, never unpickled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np

from udq.common.text import shown
from udq.errors import ImageError, InputError, UdqError
from udq.photos import boxes
from udq.photos.decoding import Photo
from udq.photos.source import DIGEST_BYTES, Content
from udq.types import Box

# Seconds a photo, file to pixels. A whole photo of 150 megapixels takes a third of it at most, on half a core
# (JPEG 2000; benchmarks/robustness/mutated_photos.py --largest).
TIME_LIMIT = 60.0
# Seconds until a process is ready to decode; a quarter of one, but for a machine that swaps or a slow network disk.
_STARTING = 120.0

# What the two ends say to each other, all in the machine's own byte order:
# the process says once that it is ready, then takes requests and answers each with a reply.
READY = b"udq decodes\n"
# What is asked for; shorter, longer, least; x1, y1, x2, y2; seconds that it may take; bytes of the path. The path
# follows.
REQUEST = struct.Struct("=BIII4ddI")
# The whole photo, or what is inside a box, or a whole photo where no box was drawn; the last two as a query is seen.
WHOLE, BOXED, UNBOXED = 0, 1, 2
# Flags; size, time of change and digest of the file; width and height of the photo as shown, and of the pixels; bytes
# of the reason. The reason follows, then the pixels: rows of RGB.
REPLY = struct.Struct(f"=BQq{DIGEST_BYTES}sIIIII")
HAS_CONTENT, HAS_PHOTO, WRONG_INPUT = 1, 2, 4


@dataclass(frozen=True)
class Decoded:
    """A photo, or the reason why there is none.

    Attributes:
        content: what the file holds; None where it could not be read, or its decoder came to an end with it.
        photo: the decoded photo, scaled.
        broken: why there is no photo, in a line that names the file.
        asked_wrongly: whether that is no fault of the file but of what was asked for, such as a box outside it.
    """

    content: Content | None
    photo: Photo | None
    broken: str | None = None
    asked_wrongly: bool = False


class Decoder:
    """Decodes photos, in as many processes as threads ask at the same time."""

    def __init__(self, *, time_limit: float = TIME_LIMIT) -> None:
        """Start nothing yet: a process starts when a photo waits for one.

        Args:
            time_limit: seconds that a photo may take, from file to pixels.
        """
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def decode(self, path: Path, *, shorter: int, longer: int) -> Decoded:
        """Decode a photo and scale it as ``images.load`` does; whatever the file does, an answer comes in time.

        Raises:
            UdqError: no process can be started, or the decoder was closed.
        """
        return self._ask(path, _DecodeRequest(WHOLE, shorter, longer))

    def load_crop(
        self, path: Path, box: Sequence[float] | None, *, shorter: int, longer: int, least: int
    ) -> tuple[Photo, Box]:
        """Decode the part of a photo inside a box; does and raises what ``images.load_crop`` does, without its dangers.

        Raises:
            UdqError: no process can be started, or the decoder was closed.
        """
        drawn = None if box is None else boxes.check_shape(box)
        found = self._ask(path, _DecodeRequest(UNBOXED if drawn is None else BOXED, shorter, longer, least, drawn))
        if found.photo is None:
            raise (InputError if found.asked_wrongly else ImageError)(found.broken)
        return found.photo, drawn or (0.0, 0.0, float(found.photo.width), float(found.photo.height))

    def _ask(self, path: Path, asked: _DecodeRequest) -> Decoded:
        process = self._take()
        try:
            return process.decode(path, asked, seconds=self._time_limit)
        except EOFError as ended:
            return Decoded(None, None, f"{shown(str(path))}: {ended}")
        finally:
            self._give_back(process)

    def close(self) -> None:
        """End all processes, whatever they are doing; photos that threads still wait for are told as broken."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            ending = list(self._all)
        for process in ending:
            process.kill()
        for process in idle:
            process.end()

    def _take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.alive():  # else it was killed while it waited, which is no photo's fault
                    return process
                self._all.discard(process)
                process.end()
        process = _Process()
        with self._lock:
            if not self._closed:
                self._all.add(process)
                return process
        process.end()
        raise UdqError("the decoder of photos was closed while a photo waited for it")

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if process.alive() and not self._closed:
                self._idle.append(process)
                return
            self._all.discard(process)
        process.end()


@dataclass(frozen=True)
class _DecodeRequest:
    """What is asked of a photo, in the terms of ``REQUEST``."""

    what: int
    shorter: int
    longer: int
    least: int = 0
    box: Box | None = None


class _Process:
    """A running ``decoding_process``, and the pipes to and from it."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "udq.photos.sandbox_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                # Ctrl-C in the terminal is for the parent, which decides what becomes of its photos.
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
                | getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise UdqError(f"no process to decode photos starts: {sys.executable}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout
        _widen(self._replies)
        self._expired = False
        with self._limited(_STARTING):
            ready = self._replies.read(len(READY))
        if ready != READY:
            self.end()
            raise UdqError(
                f"no process to decode photos starts: {sys.executable} -m udq.photos.sandbox_worker "
                f"{_ending(self._process.returncode)}; run it by hand to see why"
            )

    def alive(self) -> bool:
        return not self._expired and self._process.poll() is None

    def decode(self, path: Path, asked: _DecodeRequest, *, seconds: float) -> Decoded:
        """Have a photo decoded; raises EOFError with the reason where the process comes to an end over it."""
        name = os.fsencode(path)
        scale = asked.shorter, asked.longer, asked.least
        header = REQUEST.pack(asked.what, *scale, *(asked.box or (0.0,) * 4), seconds, len(name))
        try:
            with self._limited(seconds):
                self._requests.write(header + name)
                self._requests.flush()
                return self._reply()
        except (EOFError, OSError):
            self.kill()
        except BaseException:  # Ctrl-C: what the process sends now would be taken for the next reply
            self.kill()
            raise
        if self._expired:
            raise EOFError(f"took longer than {seconds:g} s to decode")
        raise EOFError(f"its decoder crashed ({_ending(self._process.returncode)})")

    def kill(self) -> None:
        """Kill the process and wait for its end, from any thread; more than once does no harm."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill the process and close its pipes, which no other thread may be using."""
        self.kill()
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):  # what was to be said is said to nobody
                pipe.close()

    def _reply(self) -> Decoded:
        header = REPLY.unpack(self._exactly(REPLY.size))
        flags, size, modified, digest, width, height, columns, rows, reason_bytes = header
        reason = self._exactly(reason_bytes).decode("utf-8", "backslashreplace")
        content = Content(size, modified, digest) if flags & HAS_CONTENT else None
        if not flags & HAS_PHOTO:
            return Decoded(content, None, reason, bool(flags & WRONG_INPUT))
        pixels = np.frombuffer(self._exactly(rows * columns * 3), np.uint8).reshape(rows, columns, 3)
        return Decoded(content, Photo(pixels, width, height))

    def _exactly(self, count: int) -> bytes:
        found = self._replies.read(count)
        if len(found) < count:
            raise EOFError
        return found

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the process when the time is over: pipes have no timeout that every system knows."""

        def expire() -> None:
            self._expired = True
            self._process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # so that it does not kill over the next photo


def _environment() -> dict[str, str]:
    """Return the environment in which a process imports the same modules as this one, but not what lies around."""
    paths = [path or str(Path.cwd()) for path in sys.path if isinstance(path, str)]
    # One process a thread of ours: threads inside would only take room that the limit of memory counts.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {**os.environ, **alone, "PYTHONPATH": os.pathsep.join(paths)}


def _widen(pipe: IO[bytes]) -> None:
    """Let a pipe hold a scaled photo, so that the two ends need not take turns over it; Linux alone can."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # no more than an administrator allows
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 2**20)


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
