"""Arrays as .npy files and .npz archives, never unpickled and never larger than their file.

NumPy writes them. They are read here, because ``numpy.load`` evaluates the header as Python source: the parser of
CPython 3.11 and 3.12 can fail when two threads use it at the same time (cpython issue 106905), and a damaged header
may ask for more memory than there is. Here a header is matched by a pattern, and must describe exactly the bytes that
follow it.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udq.common.files import open_regular
from udq.common.text import one_line

_MAGIC = b"\x93NUMPY"
# The length of the header in each version of the format, little-endian.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_ENTRY = b"PK\x01\x02"  # begins the entry of each member in the directory of an archive
_MAX_MEMBERS = 10_000  # ours have some hundreds
_MAX_HEADER = 4096  # bytes; the longest of ours, of the photos of a segment, has 200
_TYPE = r"'[<>|=]?[a-zA-Z]\d*'"
_FIELD = rf"\('(\w+)', ({_TYPE})\)"
_HEADER = re.compile(
    rf"\{{'descr': (?P<type>{_TYPE}|\[(?:{_FIELD},? ?)+\]), 'fortran_order': (?P<order>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,18},? ?)*)\),? ?\} *\n?"
)


class _Header(NamedTuple):
    """What an .npy file says of its array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int  # of the values, in bytes


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as an uncompressed archive; ``from_bytes`` reads it back exactly."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; raises ValueError if ``to_bytes`` did not make the bytes."""
    try:
        # Before zipfile lists them: a member takes 46 bytes of the archive, and ten times as much memory.
        if data.count(_ENTRY) > _MAX_MEMBERS:
            raise ValueError(f"more than {_MAX_MEMBERS:,} arrays")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            # Ours are not compressed. A small archive of compressed or overlapping members may exceed the memory.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("compressed arrays")
            if sum(member.file_size for member in members) > len(data):
                raise ValueError("members that are larger than their file")
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names) or not all(member.filename.endswith(".npy") for member in members):
                raise ValueError("members that are not arrays")
            return {
                name: read_array(io.BytesIO(archive.read(member))) for name, member in zip(names, members, strict=True)
            }
    except Exception as error:  # untrusted bytes lead zipfile to exceptions of many types
        raise ValueError(one_line(error)) from error


def read_array(file: Path | IO[bytes], *, mapped: bool = False) -> NDArray[Any]:
    """Return the array of an .npy file, never unpickled; raises ValueError if it is not one.

    Args:
        file: a path, which must be a regular file and no link, or an open file.
        mapped: whether to memory-map the array instead of reading it; for a path alone.
    """
    try:
        if not isinstance(file, Path):
            return _read(file)
        with open_regular(file) as opened:
            return _map(opened) if mapped else _read(opened)
    except (OSError, OverflowError, MemoryError, TypeError) as error:
        raise ValueError(one_line(error)) from error


def _read(file: IO[bytes]) -> NDArray[Any]:
    header = _header(file)
    values = np.empty(math.prod(header.shape) * header.dtype.itemsize, np.uint8)
    if file.readinto(values) != values.nbytes:  # type: ignore[attr-defined]
        raise ValueError("cut short")
    return np.ndarray(header.shape, header.dtype, values.data, order=header.order)  # type: ignore[call-overload,no-any-return]


def _map(file: IO[bytes]) -> NDArray[Any]:
    header = _header(file)
    if not math.prod(header.shape):
        return np.empty(header.shape, header.dtype)
    return np.memmap(file, header.dtype, "r", header.start, header.shape, order=header.order)  # type: ignore[call-overload,no-any-return]


def _header(file: IO[bytes]) -> _Header:
    """Read the header, and compare what it describes with the size of the file."""
    start = file.read(len(_MAGIC) + 2)
    if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + 2 or start[-2] not in _LENGTHS:
        raise ValueError("expected an array (.npy), found other bytes")
    form = _LENGTHS[start[-2]]
    length = file.read(struct.calcsize(form))
    if len(length) < struct.calcsize(form) or struct.unpack(form, length)[0] > _MAX_HEADER:
        raise ValueError("damaged header")
    found = _HEADER.fullmatch(file.read(struct.unpack(form, length)[0]).decode("latin1"))
    if found is None:
        raise ValueError("expected an array of numbers, found another header")
    shape = tuple(int(side) for side in re.findall(r"\d+", found["shape"]))
    dtype = _dtype(found["type"])
    first = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(first)
    if first + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"expected an array of shape {shape} and type {dtype}, found {size - first} bytes")
    return _Header(dtype, shape, "F" if found["order"] == "True" else "C", first)


def _dtype(written: str) -> np.dtype[Any]:
    if written.startswith("["):
        dtype = np.dtype([(name, kind.strip("'")) for name, kind in re.findall(_FIELD, written)])
    else:
        dtype = np.dtype(written.strip("'"))
    if dtype.hasobject or (dtype.itemsize == 0 and dtype.kind not in "US"):
        raise ValueError(f"expected an array of numbers, found type {written}")
    return dtype
