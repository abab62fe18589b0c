"""One file from an address, resumed where an earlier try was cut. Nothing here is called without a person's consent.

Beside ``NAME`` grow ``NAME.part`` and ``NAME.part.version``, the server's mark of which version the part is of: a part
is only ever continued with bytes of the same version, or begun anew.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from udq.common.progress import Progress, silent
from udq.datasets.download import transfer
from udq.errors import InputError, UdqError

# What an address may hold as it is; "%" since it may be quoted already.
_SAFE = "/?%:@!$&'()*+,;=~"


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
    except transfer.RefusedError as error:
        raise UdqError(
            f"{url}: the server says {error}; check the data set's page, or use --mirror or --from"
        ) from error
    except transfer.CutError as error:
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
    with transfer.ask(url, start, version) as answer:
        if answer is None:
            return False
        start, total = answer.start, answer.total
        count = None if total is None else -(-(total - start) // transfer.STEP)
        with part.open("ab" if start else "wb") as file, progress(f"{part.stem}, MB", count) as step:
            if not start:  # now that the part is empty: a mark never stands beside bytes of another version
                _write_mark(mark_of(part), answer.version)
            while block := answer.read():
                file.write(block)
                step()
            received = file.tell()
    if total is not None and received != total:
        raise transfer.CutError(f"cut after {_megabytes(received)} of {_megabytes(total)}")
    return True


def _write_mark(mark: Path, version: str) -> None:
    """Keep what tells versions of the file apart; without it, a part is never continued."""
    if version:
        mark.write_text(version, encoding="utf-8", newline="\n")
    else:
        mark.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
