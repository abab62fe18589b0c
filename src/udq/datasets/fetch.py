"""One file from an address, resumed where an earlier try was cut. Nothing here is called without a person's consent.

Beside ``NAME`` grow ``NAME.part`` and ``NAME.part.version``, the server's mark of which version the part is of: a part
is only ever continued with bytes of the same version, or begun anew. FTP has no such mark: its files begin anew.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from udq import __version__
from udq.errors import InputError, UdqError
from udq.progress import Progress, silent

_TIMEOUT_S = 60
_STEP = 1 << 20
# What an address may hold as it is; "%" since it may be quoted already.
_SAFE = "/?%:@!$&'()*+,;=~"


class _CutError(Exception):
    """The server or the line failed, not the disk."""


def checked(url: str) -> str:
    """Return an address as it is asked for: its scheme in small letters, what is not ASCII quoted.

    Raises:
        InputError: not an address of http, https or ftp.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url}: not an address ({error}); check the spelling") from error
    if parts.scheme not in ("http", "https", "ftp") or not host:
        raise InputError(f"{url}: expected an address that begins with https://, http:// or ftp://, and a server")
    if not all("!" <= character <= "~" for character in parts.netloc):
        raise InputError(f"{url}: expected the server's name in ASCII, found '{parts.netloc}'; check the spelling")
    path, query = (
        quote(parts.path, safe=_SAFE, errors="replace"),
        quote(parts.query, safe=_SAFE + "?", errors="replace"),
    )
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def mark_of(part: Path) -> Path:
    """Return where the server's mark of a part is; a part without one begins anew."""
    return part.with_name(part.name + ".version")


def fetch(url: str, part: Path, *, progress: Progress = silent) -> None:
    """Download a file to ``part``, going on where an earlier try was cut.

    The mark stays beside the part, so that a whole part is known as one: remove it when the part has its own name.

    Args:
        url: an address of http, https or ftp.
        part: the file to make; complete when this returns.
        progress: is told of each megabyte.

    Raises:
        InputError: another kind of address.
        UdqError: the server has no such file, cannot be reached, or the line was cut, and what came is kept; or the
            disk cannot take it.
    """
    url = checked(url)
    try:
        if _receive(url, part, progress):
            return
        # The server refuses what is behind the part: it is of something else.
        part.unlink(missing_ok=True)
        if _receive(url, part, progress):
            return
    except urllib.error.HTTPError as error:
        raise UdqError(
            f"{url}: the server says {error.code} {error.reason}; check the data set's page, or use --mirror or --from"
        ) from error
    except _CutError as error:
        raise UdqError(f"{url}: {error}; {_then(part)}") from error
    except OSError as error:
        raise UdqError(
            f"{part}: cannot be written ({error.strerror or error}); "
            "make room or choose another folder, and run the command again"
        ) from error
    raise UdqError(f"{url}: the server refuses the whole file; check the data set's page, or use --mirror or --from")


def _then(part: Path) -> str:
    """Say what the same command will do."""
    kept = part.stat().st_size if part.exists() else 0
    if not kept:
        return "try again, or use --mirror or --from"
    if not _version(part):
        return (
            f"{_megabytes(kept)} came, but this server cannot go on from there: the same command begins the file anew; "
            "or use --mirror or --from"
        )
    return f"{_megabytes(kept)} are kept, and the same command goes on from there"


def _version(part: Path) -> str:
    """Return the mark of a part; empty where there is none."""
    mark = mark_of(part)
    return mark.read_text(encoding="utf-8") if mark.exists() else ""


def _receive(url: str, part: Path, progress: Progress) -> bool:
    """Receive what a part lacks; return False where the server has nothing behind it, and it is not the whole."""
    version = _version(part)
    start = part.stat().st_size if part.exists() and version else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"udq/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return error.headers.get("Content-Range", "").strip() == f"bytes */{start}"
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: sent on to what is no address
        raise _CutError(_reason(error)) from error
    with response:
        place = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
        if response.status == http.client.PARTIAL_CONTENT:
            # Only an answer that continues the part at its end is of use: any other would be taken for the whole.
            if not (start and place and int(place[1]) == start):
                return False
        else:
            start, place = 0, None
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        if place and place[2] != "*":
            total = int(place[2])
        count = None if total is None else -(-(total - start) // _STEP)
        with part.open("ab" if start else "wb") as file, progress(f"{part.stem}, MB", count) as step:
            if not start:  # now that the part is empty: a mark never stands beside bytes of another version
                _write_mark(mark_of(part), response.headers)
            while block := _read(response):
                file.write(block)
                step()
            received = file.tell()
    if total is not None and received != total:
        raise _CutError(f"cut after {_megabytes(received)} of {_megabytes(total)}")
    return True


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_STEP))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _CutError(_reason(error)) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
    return " ".join(str(reason).split()) or type(error).__name__


def _write_mark(mark: Path, headers: Message) -> None:
    """Keep what tells versions of the file apart; without it, a part is never continued."""
    etag = headers.get("ETag", "")
    # A weak tag does not promise equal bytes, which is what continuing needs.
    version = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    if version.isprintable() and version:
        mark.write_text(version, encoding="utf-8", newline="\n")
    else:
        mark.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
