"""Download one file, resuming an interrupted download. Callers ask the user first.

``NAME.part`` is the incomplete file, and ``NAME.part.version`` the version that the server gave it: a part is resumed
with bytes of the same version, or else downloaded from the beginning.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from udq.common.files import read_text
from udq.common.progress import Progress, silent
from udq.datasets.download import transfer
from udq.errors import InputError, UdqError

# Characters of an address that are not quoted; "%", since it may be quoted already.
_SAFE = "/?%:@!$&'()*+,;=~"


def checked(url: str) -> str:
    """Return a normalised address: scheme in lower case, other characters than ASCII quoted.

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


def version_file(part: Path) -> Path:
    """Return the file of a part's version; a part without it cannot be resumed."""
    return part.with_name(part.name + ".version")


def fetch(url: str, part: Path, *, progress: Progress = silent) -> None:
    """Download a file to ``part``, resuming an interrupted download.

    The version file stays, so that a complete part is recognised: delete it when the part has its final name.

    Args:
        url: an address of http, https or ftp.
        part: the file to write; complete when this returns.
        progress: called for each megabyte.

    Raises:
        InputError: another kind of address.
        UdqError: the server lacks the file or cannot be reached; or the connection was cut, and what was downloaded is
            kept; or the disk cannot be written.
    """
    url = checked(url)
    try:
        if _receive(url, part, progress):
            return
        # The part is not a beginning of the server's file.
        part.unlink(missing_ok=True)
        if _receive(url, part, progress):
            return
    except transfer.RefusedError as error:
        raise UdqError(
            f"{url}: the server says {error}; check the data set's page, or use --mirror or --from"
        ) from error
    except transfer.CutError as error:
        raise UdqError(f"{url}: {error}; {_remedy(part)}") from error
    except OSError as error:
        raise UdqError(
            f"{part}: cannot be written ({error.strerror or error}); "
            "make room or choose another folder, and run the command again"
        ) from error
    raise UdqError(f"{url}: the server refuses the whole file; check the data set's page, or use --mirror or --from")


def _remedy(part: Path) -> str:
    """Return what is kept, and what to do."""
    kept = part.stat().st_size if part.exists() else 0
    if not kept:
        return "try again, or use --mirror or --from"
    if not _version(part):
        return (
            f"{_megabytes(kept)} were downloaded, but this server cannot resume: run the same command to start the "
            "file over, or use --mirror or --from"
        )
    return f"{_megabytes(kept)} are kept; run the same command to continue"


def _version(part: Path) -> str:
    """Return the version of a part; empty if it is unknown."""
    file = version_file(part)
    return read_text(file) if file.exists() else ""


def _receive(url: str, part: Path, progress: Progress) -> bool:
    """Download the rest of a part; return False if the server's file does not continue it."""
    version = _version(part)
    start = part.stat().st_size if part.exists() and version else 0
    with transfer.request(url, start, version) as response:
        if response is None:
            return False
        start, total = response.start, response.total
        count = None if total is None else -(-(total - start) // transfer.STEP)
        with part.open("ab" if start else "wb") as file, progress(f"{part.stem}, MB", count) as step:
            if not start:  # only now that the part is empty, so it never has bytes of another version
                _write_version(version_file(part), response.version)
            while block := response.read():
                file.write(block)
                step()
            received = file.tell()
    if total is not None and received != total:
        raise transfer.CutError(f"cut after {_megabytes(received)} of {_megabytes(total)}")
    return True


def _write_version(file: Path, version: str) -> None:
    """Store the version of a part; delete the file if it is unknown, so that the part is never resumed."""
    if version:
        file.write_text(version, encoding="utf-8", newline="\n")
    else:
        file.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
