"""Download a file from a given byte on: HTTP range requests, or the FTP command REST.

Each response has a version: the ETag or date of HTTP, the date and size of FTP. A partial file of one version is never
continued with bytes of another.
"""

from __future__ import annotations

import ftplib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import partial
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

from udq._version import __version__
from udq.common.text import one_line

_TIMEOUT_S = 60
_FTP_PORT = 21
_FTP_FAILURES = (ftplib.Error, OSError, EOFError, ValueError)  # ValueError: a newline in the path
STEP = 1 << 20
"""Maximum number of bytes per read."""


class CutError(Exception):
    """The server or the connection failed, not the disk."""


class RefusedError(Exception):
    """The server refuses the file, or does not have it."""


@dataclass(frozen=True)
class Response:
    """A file, or the rest of a file, as a server sends it.

    Attributes:
        start: position of the first byte in the file.
        total: size of the whole file in bytes; None if the server does not say.
        version: identifies the version of the file; empty if the server does not.
        read: returns the next bytes, at most ``STEP``, and empty bytes at the end; raises CutError.
    """

    start: int
    total: int | None
    version: str
    read: Callable[[], bytes]


def request(url: str, start: int, version: str) -> AbstractContextManager[Response | None]:
    """Request a file from byte ``start`` on if its version is still the same, else from its beginning.

    Args:
        url: an address of http, https or ftp.
        start: number of bytes that are downloaded already.
        version: the version of these bytes.

    Returns:
        A context manager of the response; of None if it does not continue a partial file of ``start`` bytes.

    Raises:
        CutError, RefusedError: on entering the context.
    """
    parts = urlsplit(url)
    # Like urllib, fetch an FTP address over HTTP if the environment names a proxy for it.
    if parts.scheme == "ftp" and ("ftp" not in urllib.request.getproxies() or _bypassed(parts)):
        return _by_ftp(parts, start, version)
    return _by_http(url, start, version)


@contextmanager
def _by_http(url: str, start: int, version: str) -> Iterator[Response | None]:
    query = urllib.request.Request(url, headers={"User-Agent": f"udq/{__version__}"})
    if start:
        query.add_header("Range", f"bytes={start}-")
        query.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(query, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            whole = error.headers.get("Content-Range", "").strip() == f"bytes */{start}"
            yield Response(start, start, version, bytes) if whole else None
            return
        raise RefusedError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: redirected to an invalid address
        raise CutError(_reason(error)) from error

    def read() -> bytes:
        try:
            return bytes(response.read(STEP))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CutError(_reason(error)) from error

    with response:
        place = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
        if response.status != http.client.PARTIAL_CONTENT:
            start, place = 0, None
        elif not (start and place and int(place[1]) == start):
            # Another range would leave a gap, or be taken for the whole file.
            yield None
            return
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        if place and place[2] != "*":
            total = int(place[2])
        yield Response(start, total, _version(response.headers), read)


def _version(headers: Message) -> str:
    etag: str = headers.get("ETag", "")
    # A weak ETag does not promise equal bytes, which resuming requires.
    version: str = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    return version if version.isprintable() else ""


@contextmanager
def _by_ftp(parts: SplitResult, start: int, version: str) -> Iterator[Response | None]:
    # RFC 1738: the path is relative to the folder of the login.
    path = unquote(parts.path).removeprefix("/")
    with closing(ftplib.FTP(timeout=_TIMEOUT_S)) as server, ExitStack() as opened:
        try:
            server.connect(parts.hostname or "", parts.port or _FTP_PORT)
            server.login(unquote(parts.username or ""), unquote(parts.password or ""))
            server.voidcmd("TYPE I")
            size, date = (_fact(server, command, path) for command in ("SIZE", "MDTM"))
            current = f"{date} {size}" if size and date else ""
            total = int(size) if size else None
            if current != version:
                start = 0
            if start and total is not None and start >= total:
                response = Response(start, total, version, bytes) if start == total else None
            elif start and not _resumes(server, start):
                response = None
            else:
                data = opened.enter_context(closing(server.transfercmd(f"RETR {path}", start or None)))
                file = opened.enter_context(data.makefile("rb"))
                response = Response(start, total, current, partial(_read_ftp, server, file, total))
        except ftplib.error_perm as error:
            raise RefusedError(_reason(error)) from error
        except _FTP_FAILURES as error:
            raise CutError(_reason(error)) from error
        yield response


def _read_ftp(server: ftplib.FTP, file: BinaryIO, total: int | None) -> bytes:
    try:
        block = file.read(STEP)
        if not block and total is None:  # only the server's final reply says whether this was all
            server.voidresp()
    except _FTP_FAILURES as error:
        raise CutError(_reason(error)) from error
    return block


def _resumes(server: ftplib.FTP, start: int) -> bool:
    """Return whether the server can send a file from byte ``start`` on."""
    try:
        server.sendcmd(f"REST {start}")
    except ftplib.error_perm:
        return False
    return True


def _fact(server: ftplib.FTP, command: str, path: str) -> str:
    """Return a file's size (SIZE) or date (MDTM) in digits; empty if the server does not say."""
    try:
        reply = server.sendcmd(f"{command} {path}")
    except ftplib.error_perm:  # RETR reports a missing file
        return ""
    code, _, fact = reply.partition(" ")
    return fact.strip() if code == "213" and re.fullmatch(r"\d+(\.\d+)?", fact.strip()) else ""


def _bypassed(parts: SplitResult) -> bool:
    return bool(urllib.request.proxy_bypass(parts.hostname or ""))


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
