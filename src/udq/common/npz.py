"""Named arrays as the bytes of an .npz archive, never unpickled: models, trained convolutions, training states."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from udq.common.text import one_line


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as an uncompressed archive; ``from_bytes`` reads it back exactly."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; raises ValueError if ``to_bytes`` did not make the bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            # Ours are not compressed. A small compressed archive may expand to more than the memory.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise ValueError("compressed arrays")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = dict(arrays)
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise ValueError("members that are not arrays")
    except Exception as error:  # untrusted bytes lead NumPy and zipfile to exceptions of many types
        raise ValueError(one_line(error)) from error
    return found


def read_array(file: Path | IO[bytes], *, mapped: bool = False) -> NDArray[Any]:
    """Return the array of an .npy file, never unpickled; raises ValueError if it is not one.

    Args:
        file: a path, or an open file.
        mapped: whether to memory-map the array instead of reading it.
    """
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as error:  # as above
        raise ValueError(one_line(error)) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("expected one array, found an archive")
    return array
