"""A file behind an address, from some byte on: over HTTP by ranges, over FTP by its command REST.

An answer tells its version: HTTP's tag or date, FTP's date and size. A part of one version is never continued with
bytes of another.
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
_FTP_FAILURES = (ftplib.Error, OSError, EOFError, ValueError)  # ValueError: a path of two lines
STEP = 1 << 20
"""Most bytes of one read."""


class CutError(Exception):
    """The server or the line failed, not the disk."""


class RefusedError(Exception):
    """The server says that it does not give the file."""


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Attributes:
        start: place of its first byte in the file.
        total: bytes of the whole file; None where the server does not say.
        version: what tells versions of the file apart; empty where the server has nothing of the kind.
        read: returns the next bytes, at most ``STEP``; none at the end. Raises CutError.
    """

    start: int
    total: int | None
    version: str
    read: Callable[[], bytes]


def ask(url: str, start: int, version: str) -> AbstractContextManager[Answer | None]:
    """Ask for a file, from a place on where its version is still the same, else from its beginning.

    Args:
        url: an address of http, https or ftp.
        start: the place; 0 is the beginning.
        version: of what is before the place.

    Returns:
        A context with the answer; None for one that does not continue a part of ``start`` bytes.

    Raises:
        CutError, RefusedError: on entering the context.
    """
    parts = urlsplit(url)
    # An FTP address goes through a proxy of the environment as HTTP, as urllib has it.
    if parts.scheme == "ftp" and ("ftp" not in urllib.request.getproxies() or _bypassed(parts)):
        return _by_ftp(parts, start, version)
    return _by_http(url, start, version)


@contextmanager
def _by_http(url: str, start: int, version: str) -> Iterator[Answer | None]:
    request = urllib.request.Request(url, headers={"User-Agent": f"udq/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            whole = error.headers.get("Content-Range", "").strip() == f"bytes */{start}"
            yield Answer(start, start, version, bytes) if whole else None
            return
        raise RefusedError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: sent on to what is no address
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
            # Only an answer that continues the part at its end is of use: any other would be taken for the whole.
            yield None
            return
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        if place and place[2] != "*":
            total = int(place[2])
        yield Answer(start, total, _mark(response.headers), read)


def _mark(headers: Message) -> str:
    etag: str = headers.get("ETag", "")
    # A weak tag does not promise equal bytes, which is what continuing needs.
    version: str = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    return version if version.isprintable() else ""


@contextmanager
def _by_ftp(parts: SplitResult, start: int, version: str) -> Iterator[Answer | None]:
    # RFC 1738: the path is one below the folder that the login leads to.
    path = unquote(parts.path).removeprefix("/")
    with closing(ftplib.FTP(timeout=_TIMEOUT_S)) as server, ExitStack() as opened:
        try:
            server.connect(parts.hostname or "", parts.port or _FTP_PORT)
            server.login(unquote(parts.username or ""), unquote(parts.password or ""))
            server.voidcmd("TYPE I")
            size, date = (_told(server, command, path) for command in ("SIZE", "MDTM"))
            found = f"{date} {size}" if size and date else ""
            total = int(size) if size else None
            if found != version:
                start = 0
            if start and total is not None and start >= total:
                answer = Answer(start, total, version, bytes) if start == total else None
            elif start and not _goes_on(server, start):
                answer = None
            else:
                data = opened.enter_context(closing(server.transfercmd(f"RETR {path}", start or None)))
                file = opened.enter_context(data.makefile("rb"))
                answer = Answer(start, total, found, partial(_read_ftp, server, file, total))
        except ftplib.error_perm as error:
            raise RefusedError(_reason(error)) from error
        except _FTP_FAILURES as error:
            raise CutError(_reason(error)) from error
        yield answer


def _read_ftp(server: ftplib.FTP, file: BinaryIO, total: int | None) -> bytes:
    try:
        block = file.read(STEP)
        if not block and total is None:  # the server's last word alone says whether that was all
            server.voidresp()
    except _FTP_FAILURES as error:
        raise CutError(_reason(error)) from error
    return block


def _goes_on(server: ftplib.FTP, start: int) -> bool:
    try:
        server.sendcmd(f"REST {start}")
    except ftplib.error_perm:
        return False
    return True


def _told(server: ftplib.FTP, command: str, path: str) -> str:
    """Return a file's size, or its date, in digits; empty where the server does not say."""
    try:
        answer = server.sendcmd(f"{command} {path}")
    except ftplib.error_perm:  # where there is no such file, asking for it says so
        return ""
    code, _, fact = answer.partition(" ")
    return fact.strip() if code == "213" and re.fullmatch(r"\d+(\.\d+)?", fact.strip()) else ""


def _bypassed(parts: SplitResult) -> bool:
    return bool(urllib.request.proxy_bypass(parts.hostname or ""))


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
