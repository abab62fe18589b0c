"""One file from an address, resumed where an earlier try was cut. Nothing here is called without a person's consent.

Beside ``NAME`` grow ``NAME.part`` and ``NAME.part.version``, the server's mark of which version the part is of: a part
is only ever continued with bytes of the same version, or begun anew.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

from udq import __version__
from udq.errors import InputError, UdqError
from udq.progress import Progress, silent

_TIMEOUT_S = 60
_STEP = 1 << 20


def fetch(url: str, part: Path, *, progress: Progress = silent) -> None:
    """Download a file to ``part``, going on where an earlier try was cut.

    Args:
        url: an address of http, https or ftp.
        part: the file to make; complete when this returns.
        progress: is told of each megabyte.

    Raises:
        InputError: another kind of address.
        UdqError: the server has no such file, cannot be reached, or the line was cut. What came is kept.
    """
    if not url.startswith(("http://", "https://", "ftp://")):
        raise InputError(f"{url}: expected an address that begins with https://, http:// or ftp://")
    mark = part.with_name(part.name + ".version")
    try:
        if _receive(url, part, mark, progress):
            mark.unlink(missing_ok=True)
            return
        # The server refuses what is behind the part: it is of something else.
        part.unlink()
        if _receive(url, part, mark, progress):
            mark.unlink(missing_ok=True)
            return
    except urllib.error.HTTPError as error:
        raise UdqError(
            f"{url}: the server says {error.code} {error.reason}; check the data set's page, or use --mirror or --from"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
        kept = part.stat().st_size if part.exists() else 0
        then = "try again, or use --mirror or --from"
        if kept:
            then = f"{_megabytes(kept)} are kept, and the same command goes on from there"
        raise UdqError(f"{url}: {' '.join(str(reason).split())}; {then}") from error
    raise UdqError(f"{url}: the server refuses the whole file; check the data set's page, or use --mirror or --from")


def _receive(url: str, part: Path, mark: Path, progress: Progress) -> bool:
    """Receive what a part lacks; return False where the server has nothing behind it."""
    start = part.stat().st_size if part.exists() and mark.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"udq/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", mark.read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return False
        raise
    with response:
        # Only an answer that continues the part at its end does: any other is the file from its beginning.
        place = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not (start and response.status == http.client.PARTIAL_CONTENT and place and int(place[1]) == start):
            start = 0
            _write_mark(mark, response.headers)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        count = None if total is None else -(-(total - start) // _STEP)
        with part.open("ab" if start else "wb") as file, progress(f"{part.stem}, MB", count) as step:
            while block := response.read(_STEP):
                file.write(block)
                step()
            received = file.tell()
    if total is not None and received != total:
        raise ConnectionError(f"cut after {_megabytes(received)} of {_megabytes(total)}")
    return True


def _write_mark(mark: Path, headers: Message) -> None:
    """Keep what tells versions of the file apart; without it, a part is never continued."""
    etag = headers.get("ETag", "")
    # A weak tag does not promise equal bytes, which is what continuing needs.
    version = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    if version:
        mark.write_text(version, encoding="utf-8")
    else:
        mark.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
