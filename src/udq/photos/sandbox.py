"""Decodes photos in worker processes, so that a decoder that crashes or hangs affects one photo alone.

    with Decoder(limit=150) as decoder:
        photo = decoder.decode(path, shorter=600, longer=1000)
        crop, box = decoder.load_crop(path, (120, 80, 340, 300), shorter=600, longer=1000, least=224)

Searches, verification and reports share one decoder, ``shared()``, whose processes are kept between photos; a server
and an index have their own. ``limited`` gives a decoder the limit of a collection. A photo of a collection is given as
``indexed.IndexedFile``: a link that leads out of its folder is not followed.

Decoders are C code, and damaged or hostile files are their input. Each worker process has a limit of memory and of
time, and is replaced when it ends. Workers run ``sandbox_worker`` alone, which imports neither torch nor the user's
script; they return numbers and pixels, never pickled objects.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from udq.common.text import shown
from udq.config import MAX_MEGAPIXELS
from udq.errors import InputError, UdqError
from udq.photos import boxes
from udq.photos.decoding import MAX_SIDE, Crop, Photo
from udq.photos.indexed import PhotoPath, located
from udq.photos.source import DIGEST_BYTES, Content, UnreadableError
from udq.types import Box

# Seconds a photo may take, file to pixels, with the default limit of megapixels; a higher limit raises it in
# proportion. A whole photo of 150 megapixels takes at most a third of it, on half a core (JPEG 2000;
# benchmarks/robustness/mutated_photos.py --largest).
TIME_LIMIT = 60.0
# Seconds a process may take to start: usually a quarter of one, but more if memory is swapped or the disk is slow.
_START_LIMIT = 120.0

# The protocol of the pipes, in native byte order: the process writes READY once, then answers each request.
READY = b"udq decodes\n"
# What to decode, and whether a box is given; limit of megapixels; shorter, longer, least, most, side, smallest (0 for
# none); x1, y1, x2, y2; margin, enlarged; seconds it may take; bytes of the path. The path follows.
REQUEST = struct.Struct("=B?IIIIIId4ddddI")
# What to decode: what ``decoding.load``, ``decoding.load_crop`` or ``decoding.load_window`` returns.
WHOLE, CROP, WINDOW = 0, 1, 2
# Flags; size, modification time and digest of the file; width and height of the photo as shown, and of the pixels; the
# window of a crop; bytes of the error message. The message follows, then the pixels: rows of RGB.
REPLY = struct.Struct(f"=BQq{DIGEST_BYTES}sIIII4dI")
HAS_CONTENT, HAS_PHOTO, WRONG_INPUT = 1, 2, 4


class Decoder:
    """Decodes photos in worker processes, one for each thread that decodes at the same time.

    Attributes:
        limit: the largest number of megapixels of a photo.
    """

    def __init__(self, *, time_limit: float = TIME_LIMIT, limit: int = MAX_MEGAPIXELS) -> None:
        """Create a decoder; processes start on demand.

        Args:
            time_limit: seconds that a photo may take, from file to pixels; in proportion more above the default limit.
            limit: as in the attributes.
        """
        self.limit = limit
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = threading.Event()

    def limited(self, limit: int) -> Self:
        """Return a decoder with another limit of megapixels that shares the processes; closing one closes both."""
        other = copy.copy(self)
        other.limit = limit
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Start a process for the first photo without waiting for it; does nothing if there is one."""
        with self._lock:
            if not self._all and not self._closed.is_set():
                process = _Process()
                self._all.add(process)
                self._idle.append(process)

    def decode(self, photo: PhotoPath, *, shorter: int, longer: int, smallest: float = 0) -> Photo:
        """Decode a photo and scale it as ``decoding.load`` does, within the time limit.

        Raises:
            UnreadableError: the photo cannot be read or decoded, crashed its decoder, or took too long; or it is one of
                a collection and a link that leads out of its folder.
            UdqError: no process can be started, or the decoder was closed.
        """
        return self._request(photo, _DecodeRequest(WHOLE, shorter=shorter, longer=longer, smallest=smallest))[0]

    def load_crop(
        self,
        photo: PhotoPath,
        box: Sequence[float] | None,
        *,
        shorter: int,
        longer: int,
        least: int,
        side: int | None = None,
    ) -> tuple[Photo, Box]:
        """Decode the part of a photo inside a box as ``decoding.load_crop`` does, within the time limit.

        Raises:
            InputError: there is no such photo, or the box is not inside it.
            UnreadableError: as ``decode``.
            UdqError: as ``decode``.
        """
        drawn = None if box is None else boxes.check_shape(box)
        request = _DecodeRequest(CROP, drawn, shorter=shorter, longer=longer, least=least, side=side or 0)
        crop, _ = self._request(photo, request)
        return crop, drawn or (0.0, 0.0, float(crop.width), float(crop.height))

    def load_window(
        self,
        photo: PhotoPath,
        box: Box | None,
        *,
        margin: float,
        longer: int,
        enlarged: float,
        most: int,
        seconds: float | None = None,
    ) -> Crop:
        """Decode the part of a photo in and around a box as ``decoding.load_window`` does, within a time limit.

        Args:
            photo, box, margin, longer, enlarged, most: as there.
            seconds: time limit; that of the decoder if None.

        Raises:
            UnreadableError: as ``decode``; or the box is outside the photo.
            UdqError: as ``decode``.
        """
        request = _DecodeRequest(WINDOW, box, longer=longer, most=most, margin=margin, enlarged=enlarged)
        found, window = self._request(photo, request, seconds)
        return Crop(found.pixels, window, found.width, found.height)

    def load_full(self, photo: PhotoPath) -> NDArray[np.uint8]:
        """Decode a photo at full size, (h, w, 3) uint8 RGB, within the time limit; errors as ``decode``."""
        found = self.load_window(photo, None, margin=0.0, longer=MAX_SIDE, enlarged=1.0, most=MAX_SIDE)
        size = found.width, found.height
        # A window of a few pixels is enlarged.
        whole = found.pixels.shape[1::-1] == size
        return found.pixels if whole else self.decode(photo, shorter=min(size), longer=max(size)).pixels

    def close(self) -> None:
        """Kill all processes; photos that other threads are waiting for raise UnreadableError."""
        with self._lock:
            self._closed.set()
            idle = self._idle.copy()
            self._idle.clear()
            killed = list(self._all)
        for process in killed:
            process.kill()
        for process in idle:
            process.end()

    def _request(self, photo: PhotoPath, request: _DecodeRequest, seconds: float | None = None) -> tuple[Photo, Box]:
        path = located(photo)
        process = self._acquire()
        try:
            if seconds is None:
                seconds = self._time_limit * max(1.0, self.limit / MAX_MEGAPIXELS)
            return process.decode(path, replace(request, limit=self.limit), seconds=seconds)
        finally:
            self._release(process)

    def _acquire(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                # It may have been killed while idle, or started in another folder, which relative paths do not mean.
                if process.alive() and process.folder == _working_folder():
                    return process
                self._all.discard(process)
                process.end()
        process = _Process()
        with self._lock:
            if not self._closed.is_set():
                self._all.add(process)
                return process
        process.end()
        raise UdqError("the decoder of photos was closed while a photo waited for it")

    def _release(self, process: _Process) -> None:
        with self._lock:
            if process.alive() and not self._closed.is_set():
                self._idle.append(process)
                return
            self._all.discard(process)
        process.end()


@cache
def shared() -> Decoder:
    """Return the decoder that all users of this process share; its processes end with this one."""
    decoder, owner = Decoder(), os.getpid()
    # A forked child has a decoder of its own: it would read the replies to its parent, and kill its processes.
    atexit.register(lambda: decoder.close() if os.getpid() == owner else None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=shared.cache_clear)
    return decoder


@dataclass(frozen=True, kw_only=True)
class _DecodeRequest:
    """The fields of ``REQUEST`` that do not depend on the photo."""

    what: int = field(kw_only=False)
    box: Box | None = field(default=None, kw_only=False)
    limit: int = MAX_MEGAPIXELS
    shorter: int = 0
    longer: int = 0
    least: int = 0
    most: int = 0
    side: int = 0
    smallest: float = 0.0
    margin: float = 0.0
    enlarged: float = 0.0

    def packed(self, seconds: float, name_bytes: int) -> bytes:
        sizes = self.limit, self.shorter, self.longer, self.least, self.most, self.side
        box = self.box or (0.0,) * 4
        has_box = self.box is not None
        measures = self.smallest, *box, self.margin, self.enlarged
        return REQUEST.pack(self.what, has_box, *sizes, *measures, seconds, name_bytes)


class _Process:
    """A running ``sandbox_worker``, and the pipes to and from it."""

    def __init__(self) -> None:
        self.folder = _working_folder()
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
            raise UdqError(f"cannot start a process to decode photos: {sys.executable}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout
        _widen(self._replies)
        self._expired = False
        self._started = False

    def _await_start(self) -> None:
        """Wait until the process can decode; raises UdqError if it cannot."""
        if self._started:
            return
        try:
            with self._limited(_START_LIMIT):
                ready = self._replies.read(len(READY))
        except BaseException:  # Ctrl-C
            self.kill()
            raise
        self._started = ready == READY
        if not self._started:
            self.end()
            raise UdqError(
                f"cannot start a process to decode photos: {sys.executable} -m udq.photos.sandbox_worker "
                f"ended with {_ending(self._process.returncode)}; run it by hand to see why"
            )

    def alive(self) -> bool:
        return not self._expired and self._process.poll() is None

    def decode(self, path: Path, request: _DecodeRequest, *, seconds: float) -> tuple[Photo, Box]:
        """Return the decoded photo, and the window that its pixels show if it is a part of one.

        Raises:
            InputError: the request does not fit the photo.
            UnreadableError: the photo cannot be read or decoded, or the process ended over it.
            UdqError: the process cannot start.
        """
        self._await_start()
        name = os.fsencode(path)
        try:
            with self._limited(seconds):
                self._requests.write(request.packed(seconds, len(name)) + name)
                self._requests.flush()
                return self._reply()
        except UdqError:  # a complete reply: the process is ready for the next photo
            raise
        except (EOFError, OSError):
            self.kill()
        except BaseException:  # Ctrl-C: the reply that is still to come would be taken for that to the next photo
            self.kill()
            raise
        if self._expired:
            raise UnreadableError(f"{shown(str(path))}: took longer than {seconds:g} s to decode")
        raise UnreadableError(f"{shown(str(path))}: its decoder crashed ({_ending(self._process.returncode)})")

    def kill(self) -> None:
        """Kill the process and wait for its end; idempotent, and safe from any thread."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill the process and close its pipes, which no other thread may be using."""
        self.kill()
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):  # closing flushes, but the reader is gone
                pipe.close()

    def _reply(self) -> tuple[Photo, Box]:
        header = REPLY.unpack(self._read(REPLY.size))
        flags, size, modified, digest, width, height, columns, rows, x1, y1, x2, y2, message_bytes = header
        message = self._read(message_bytes).decode("utf-8", "backslashreplace")
        content = Content(size, modified, digest) if flags & HAS_CONTENT else None
        if flags & WRONG_INPUT:
            raise InputError(message)
        if not flags & HAS_PHOTO:
            raise UnreadableError(message, content)
        pixels = np.frombuffer(self._read(rows * columns * 3), np.uint8).reshape(rows, columns, 3)
        return Photo(pixels, width, height, content), (x1, y1, x2, y2)

    def _read(self, count: int) -> bytes:
        found = self._replies.read(count)
        if len(found) < count:
            raise EOFError
        return found

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the process after that time: pipes have no timeout that works on every system."""

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
            timer.join()  # so that it cannot fire during the next photo


def _working_folder() -> str | None:
    """Return the folder that relative paths start from; None if it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109  (called for each photo)
    except OSError:
        return None


def _environment() -> dict[str, str]:
    """Return the environment of a process that imports the same modules as this one, none from the working folder."""
    paths = [path or str(Path.cwd()) for path in sys.path if isinstance(path, str)]
    # There is a process for each of our threads: threads inside would only use address space, which is limited.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join(paths)}


def _widen(pipe: IO[bytes]) -> None:
    """Let a pipe hold a scaled photo, so that the two ends need not alternate; Linux only."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # the administrator may have set a lower limit
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 2**20)


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
