"""Reader of MATLAB files, version 5 to 7: numbers, text, cell arrays and structures.

Ground truths are small files from the network, and SciPy's reader crashes the process on some damaged ones. This reader
supports only the kinds of array that they contain, checks every bound and executes nothing. Layout: "MAT-File Format",
The MathWorks, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)  # classes of double, single and the integers
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
# Limits against damaged or hostile files. The largest official ground truth has 2 MB and 30,000 arrays.
_MOST_BYTES = 64_000_000
_MOST_ARRAYS = 1_000_000
_MOST_DIMENSIONS = 32
_DEEPEST = 16


def loads(content: bytes) -> dict[str, Any]:
    """Return the variables of a MATLAB file.

    Returns:
        Name -> value: numbers as a flat array in column-major order, text as str, a cell array as a list, a structure
        array as a list of dicts.

    Raises:
        ValueError: not a MATLAB file, a damaged file, or an unsupported kind of array; with the reason.
    """
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[:10] == b"MATLAB 7.3":
        raise ValueError("a file of version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None or len(content) <= _HEADER:
        raise ValueError("not a MATLAB file of version 5 to 7, or cut short")
    variables: dict[str, Any] = {}
    budget = _Budget()
    try:
        reader = _Bytes(memoryview(content), order, budget, _HEADER)
        while reader.at < len(content):
            kind, data = reader.element(padded=False)
            if kind == _COMPRESSED:
                kind, data = _Bytes(memoryview(_inflated(data, budget)), order, budget).element()
            if kind != _MATRIX:
                raise ValueError(f"expected an array, found data of type {kind}")
            name, value = _array(_Bytes(data, order, budget), 0)
            variables[name] = value
    except (struct.error, zlib.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"damaged: {error}") from error
    return variables


@dataclass
class _Budget:
    """Remaining inflated bytes and arrays, over all variables of a file."""

    inflated: int = _MOST_BYTES
    arrays: int = _MOST_ARRAYS

    def take(self, arrays: int) -> None:
        self.arrays -= arrays
        if self.arrays < 0:
            raise ValueError("damaged, or with more arrays than any ground truth")


@dataclass
class _Bytes:
    """Consecutive elements: each has a type, a size and its data, padded to a multiple of eight bytes."""

    content: memoryview
    order: str
    budget: _Budget
    at: int = 0

    def element(self, *, padded: bool = True) -> tuple[int, memoryview]:
        """Return type and bytes of the next element."""
        kind, size = struct.unpack_from(self.order + "II", self.content, self.at)
        start = self.at + 8
        if kind >> 16:  # a short element: at most four bytes, stored after type and size of two bytes each
            kind, size, start = kind & 0xFFFF, kind >> 16, self.at + 4
            end, after = start + size, self.at + 8
            if size > 4:
                raise ValueError(f"damaged: a short element of {size} bytes")
        else:
            end = start + size
            after = end + (-size % 8 if padded and kind != _COMPRESSED else 0)
        if end > len(self.content):
            raise ValueError("damaged: cut short")
        self.at = after
        return kind, self.content[start:end]

    def numbers(self) -> Any:
        """Return the next element as numbers."""
        kind, data = self.element()
        if kind not in _DTYPES:
            raise ValueError(f"damaged: expected numbers, found data of type {kind}")
        dtype = np.dtype(self.order + _DTYPES[kind])
        if len(data) % dtype.itemsize:
            raise ValueError("damaged: half a number")
        return np.frombuffer(data, dtype)

    def text(self) -> str:
        """Return the next element as text."""
        kind, data = self.element()
        if kind not in _ENCODINGS:
            raise ValueError(f"damaged: expected text, found data of type {kind}")
        encoding = _ENCODINGS[kind]
        if encoding not in ("latin-1", "utf-8"):
            encoding += "-le" if self.order == "<" else "-be"
        return str(data, encoding)


def _array(reader: _Bytes, depth: int) -> tuple[str, Any]:
    """Return the name and the value of an array."""
    reader.budget.take(1)
    if not reader.content:  # an empty array inside another may have no content
        return "", np.zeros(0)
    if depth > _DEEPEST:
        raise ValueError("damaged: arrays too deep inside one another")
    flags, shape = reader.numbers(), reader.numbers()
    if len(flags) != 2 or not 0 < len(shape) <= _MOST_DIMENSIONS or int(shape.min()) < 0:
        raise ValueError("damaged: an array without kind or size")
    name = reader.text()
    kind, count = int(flags[0]) & 0xFF, math.prod(map(int, shape))
    if kind in _NUMBERS:
        values = reader.numbers() if count else np.zeros(0)
        if len(values) != count:
            raise ValueError(f"damaged: {len(values)} numbers of {count}")
        return name, values
    if kind == _CHAR:
        return name, reader.text() if count else ""
    if kind == _CELL:
        return name, [_inner(reader, depth) for _ in range(_checked_count(count, reader))]
    if kind == _STRUCT:
        width = reader.numbers()
        if len(width) != 1 or int(width[0]) < 1:
            raise ValueError("damaged: a structure without field names")
        joined = bytes(reader.element()[1])
        reader.budget.take(len(joined) // int(width[0]))
        names = [joined[i : i + int(width[0])] for i in range(0, len(joined), int(width[0]))]
        fields = [field.split(b"\0")[0].decode("utf-8") for field in names]
        rows = range(_checked_count(count * len(fields), reader) // max(len(fields), 1))
        return name, [{field: _inner(reader, depth) for field in fields} for _ in rows]
    raise ValueError(f"an array of class {kind}, which no ground truth has")


def _inner(reader: _Bytes, depth: int) -> Any:
    kind, data = reader.element()
    if kind != _MATRIX:
        raise ValueError(f"damaged: expected an array, found data of type {kind}")
    return _array(_Bytes(data, reader.order, reader.budget), depth + 1)[1]


def _checked_count(count: int, reader: _Bytes) -> int:
    """Return a count of arrays; raises ValueError if fewer fit, at eight bytes each or more."""
    if count > (len(reader.content) - reader.at) // 8:
        raise ValueError("damaged: cut short")
    return count


def _inflated(data: memoryview, budget: _Budget) -> bytes:
    decompressor = zlib.decompressobj()
    inflated = decompressor.decompress(data, budget.inflated + 1)  # 0 would mean no limit
    budget.inflated -= len(inflated)
    if not decompressor.eof or budget.inflated < 0:
        raise ValueError("damaged: cut short, or larger than any ground truth")
    return inflated
