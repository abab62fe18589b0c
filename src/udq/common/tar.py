"""Read tar archives from strangers: every header is checked before anything is done with its member.

The standard library's ``tarfile`` is not used: it follows headers without limits (recursion, negative sizes, sizes
beyond the file), and its filter against links out of the target folder is not enforced by Python 3.11.4 to 3.11.12
(CVE-2025-4517). This reader knows ustar, PAX and GNU headers, follows no link and expands no sparse file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from udq.common.text import shown

_BLOCK: Final = 512
# Extension headers hold names, dates and attributes: a few hundred bytes, and one of each kind before a member.
_MAX_EXTENSION = 2**20
_MAX_EXTENSIONS = 16
# What Linux accepts, in bytes; other systems accept less.
_MAX_NAME = 4096
_MAX_PART = 255
# Largest time in seconds since 1970 that fits 64 bits as nanoseconds; anything above is not a real date.
_LATEST = 9e9
_STEP = 2**20

Kind: TypeAlias = Literal["file", "folder", "link", "device", "sparse file", "member of unknown kind"]

_KINDS: dict[bytes, Kind] = {
    **dict.fromkeys((b"0", b"\0", b"7"), "file"),
    **dict.fromkeys((b"1", b"2"), "link"),
    **dict.fromkeys((b"3", b"4", b"6"), "device"),
    b"5": "folder",
    b"S": "sparse file",
}
_WITHOUT_DATA = b"123456"
_PAX, _GLOBAL, _LONG_NAME = b"xX", b"g", b"L"
_EXTENSIONS = b"xXgLK"
# Records of a global header that would change every later member. No program writes them.
_NOT_GLOBAL = ("path", "size", "linkpath", "GNU.sparse.")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class DamagedTarError(ValueError):
    """Where the next member begins cannot be told: not a tar archive, cut short, or an impossible size."""


class _FaultError(ValueError):
    """An extension header that cannot be used, although its length is known."""


@dataclass(frozen=True)
class Member:
    """A member of an archive, as its headers describe it.

    Attributes:
        name: relative path with ``/``, without ``.``, ``..`` and NUL; if ``fault`` is set, for messages only.
        kind: "file" for a regular file; a sparse file is a kind of its own, which cannot be read.
        header: offset of the member's first header, in bytes.
        offset: offset of its content, in bytes.
        size: bytes of its content, 0 or more; they lie within the archive.
        modified: nanoseconds since 1970; 0 if the header gives no possible time.
        fault: why the member must not be used, whatever its kind; empty if there is no reason.
    """

    name: str
    kind: Kind
    header: int
    offset: int
    size: int
    modified: int
    fault: str = ""


@dataclass
class _Header:
    """A header of 512 bytes, and what the extension headers before it say.

    ``size`` is None if the field is not a number from 0.
    """

    start: int
    kind: bytes
    name: str
    size: int | None
    modified: float
    extended: bool
    fault: str = ""
    sparse: bool = False


def why_refused(name: str) -> str:
    """Return why a path from an archive or a storage is refused as the name of a photo or file; empty if it is not."""
    parts = name.split("/")
    if "\0" in name:
        return "its name contains a NUL"
    if ".." in parts:
        return "its name contains '..'"
    if os.sep != "/" and (os.sep in name or ":" in name):
        return "its name is not possible on this system"
    try:
        if len(os.fsencode(name)) > _MAX_NAME or max(len(os.fsencode(part)) for part in parts) > _MAX_PART:
            return f"its name is longer than {_MAX_NAME:,} bytes, or a part of it than {_MAX_PART}"
    except UnicodeEncodeError:
        return "its name is not text"
    return ""


class TarReader:
    """Members of a tar archive, in order; the content of the current one can be read."""

    def __init__(self, file: _Readable, end: int, *, seeks: bool) -> None:
        """Read an archive from the start of a file.

        Args:
            file: the archive, not compressed; a file that decompresses on the fly will do.
            end: bytes of the archive, or the most that are read.
            seeks: whether content that is not read can be skipped by ``seek``; otherwise it is read.
        """
        self._file, self._end, self._seeks = file, end, seeks
        self._at = self._next = 0
        self._left = 0
        self._complete = False

    def __iter__(self) -> Iterator[Member]:
        """Yield members up to the end mark, or the end of the file.

        Raises:
            DamagedTarError: where the next member begins cannot be told.
            OSError: the file cannot be read.
        """
        while (header := self._described()) is not None:
            member = self._member(header)
            self._next = _whole_blocks(member.offset + member.size)
            self._left = member.size
            yield member

    @property
    def complete(self) -> bool:
        """Whether the end mark was read: without it, the archive may be cut short between two members."""
        return self._complete

    def read(self, most: int) -> bytes:
        """Return up to ``most`` of the bytes of the current member that were not read yet; empty at its end.

        Raises:
            DamagedTarError: the archive ends before the member does.
        """
        data = self._take(min(most, self._left))
        self._left -= len(data)
        return data

    def finish(self) -> None:
        """Read what follows the end mark, so that a compressed file is checked up to its own end."""
        while self._at < self._end and (data := self._file.read(min(_STEP, self._end - self._at))):
            self._at += len(data)

    def _take(self, size: int) -> bytes:
        """Return the next ``size`` bytes of the file."""
        self._check_end(self._at + size)
        data = self._file.read(size)
        self._at += len(data)
        if len(data) != size:
            raise DamagedTarError(f"it is cut short at byte {self._at:,}")
        return data

    def _check_end(self, to: int) -> None:
        """Raise DamagedTarError if an offset is beyond the end of the archive."""
        if to > self._end:
            raise DamagedTarError(
                f"it is cut short: it has {self._end:,} bytes, and a header describes {to:,}"
                if self._seeks
                else f"a header describes more than the limit of {self._end:,} bytes unpacked"
            )

    def _skip(self, to: int) -> None:
        """Go on to a later offset."""
        self._check_end(to)
        if self._seeks:
            self._file.seek(to)
            self._at = to
        while self._at < to:
            self._take(min(_STEP, to - self._at))

    def _header(self) -> _Header | None:
        """Read the next header; None at the end mark, or at the end of the file."""
        self._skip(self._next)
        start = self._at
        block = self._file.read(min(_BLOCK, self._end - start))
        self._at += len(block)
        self._complete = block == bytes(_BLOCK)
        if self._complete or (not block and start):
            return None
        if len(block) < _BLOCK:
            raise DamagedTarError("it is cut short" if start else "it is shorter than a tar header")
        if not _has_checksum(block):
            raise DamagedTarError(f"the header at byte {start:,} is damaged" if start else "it has no tar header")
        self._next = self._at
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        size = _number(block[124:136])
        if size is not None and size < 0:
            size = None
        return _Header(start, block[156:157], name, size, _number(block[136:148]) or 0, extended=block[482] != 0)

    def _described(self) -> _Header | None:
        """Read the headers of the next member; return its own with what the extension headers before it say."""
        start, count = None, 0
        path, fault = "", ""
        records: dict[str, str] = {}
        while (header := self._header()) is not None:
            start = header.start if start is None else start
            if header.kind not in _EXTENSIONS:
                header.start = start
                header.fault = fault
                _apply(records, path, header)
                return header
            count += 1
            end = self._data_end(header)
            try:
                if count > _MAX_EXTENSIONS:
                    raise _FaultError(f"it has more than {_MAX_EXTENSIONS} extension headers")
                path = self._extension(header, end - self._next, path, records)
            except _FaultError as error:
                fault = str(error)
            self._next = _whole_blocks(end)
        if start is not None:
            raise DamagedTarError(f"it ends after the extension header at byte {start:,}")
        return None

    def _extension(self, header: _Header, size: int, path: str, records: dict[str, str]) -> str:
        """Read an extension header into ``records``; return the long name so far."""
        if size > _MAX_EXTENSION:
            raise _FaultError(f"it has an extension header of {size:,} bytes; at most {_MAX_EXTENSION:,} are read")
        data = self._take(size)
        if header.kind == _LONG_NAME:
            return _text(data)
        if header.kind in _PAX:
            records |= _records(data)
        elif header.kind == _GLOBAL and any(key.startswith(_NOT_GLOBAL) for key in _records(data)):
            raise DamagedTarError(f"the global header at byte {header.start:,} changes all later members")
        return path

    def _member(self, header: _Header) -> Member:
        """Return the member of a header, after checking that its content lies within the archive."""
        kind = _KINDS.get(header.kind, "member of unknown kind")
        if header.kind == b"\0" and header.name.endswith("/"):  # how archives before POSIX mark folders
            kind = "folder"
        if header.kind == b"S":
            while header.extended:  # the rest of its map, which is not used
                header.extended = self._take(_BLOCK)[504] != 0
                self._next = self._at
        name = "/".join(part for part in header.name.split("/") if part not in ("", "."))
        fault = header.fault or why_refused(name) or ("it has no name" if not name and kind != "folder" else "")
        size = 0 if header.kind in _WITHOUT_DATA else self._data_end(header) - self._next
        modified = int(header.modified * 10**9) if 0 <= header.modified < _LATEST else 0
        return Member(
            abridged(name) if fault else name,
            "sparse file" if header.sparse else kind,
            header.start,
            self._next,
            size,
            modified,
            fault,
        )

    def _data_end(self, header: _Header) -> int:
        """Return the offset at which the content of a header ends; raises DamagedTarError if it is impossible."""
        if header.size is None:
            raise DamagedTarError(f"the header at byte {header.start:,} has an impossible size")
        end = self._next + header.size
        self._check_end(end)
        return end


def abridged(name: str) -> str:
    """Return a name that may be of any length and content, as messages show it."""
    text = shown(name if len(name) <= 120 else f"{name[:60]}…{name[-40:]}")
    return text or "(no name)"


def _apply(records: dict[str, str], path: str, header: _Header) -> None:
    """Let the records of PAX headers and a GNU long name override the fields of a header."""
    header.name = records.get("GNU.sparse.name") or records.get("path") or path or header.name
    header.sparse = any(key.startswith("GNU.sparse.") for key in records)
    if size := records.get("size"):
        if size.isascii() and size.isdigit() and len(size) <= 20:
            header.size = int(size)
        else:
            header.fault = header.fault or "its PAX header gives an impossible size"
    if modified := records.get("mtime"):
        try:
            header.modified = float(modified)
        except ValueError:
            header.modified = 0


def _records(data: bytes) -> dict[str, str]:
    """Return the records of a PAX header: each is its own length in decimal, a space, ``key=value`` and a newline."""
    data = data.rstrip(b"\0")  # padding of some programs
    found = {}
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 8].partition(b" ")
        size = int(length) if length.isdigit() else 0
        key, equals, value = data[at + len(length) + 1 : at + size - 1].partition(b"=")
        if not space or not key or not equals or data[at + size - 1 : at + size] != b"\n":
            raise _FaultError("its PAX header is damaged")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += size
    return found


def _has_checksum(block: bytes) -> bool:
    """Whether a header has the sum of its bytes; some old programs summed them as signed numbers."""
    rest = block[:148] + b" " * 8 + block[156:]
    expected = _number(block[148:156])
    return expected == sum(rest) or expected == sum(memoryview(rest).cast("b"))


def _number(field: bytes) -> int | None:
    """Return the number in a field: octal digits, or GNU's binary for large and negative ones; None for neither."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        return None
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    """Return the text before the first NUL; bytes that are not UTF-8 as in file names."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
