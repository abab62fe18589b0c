"""Named arrays as the bytes of an .npz archive, never unpickled: models, trained convolutions, states of training."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the archive; ``from_bytes`` reads it back exactly."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; raises ValueError where the bytes are no archive that ``to_bytes`` made."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            # Ours are not compressed: what is may be small here and fill the memory.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise ValueError("compressed arrays")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = dict(arrays)
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise ValueError("something else than arrays")
    except Exception as error:  # strangers' bytes take NumPy and zipfile to errors of every kind
        raise ValueError(in_a_line(error)) from error
    return found


def read_array(file: Path | IO[bytes], *, mapped: bool = False) -> NDArray[Any]:
    """Return the array of an .npy file, never unpickled; raises ValueError where it is none.

    Args:
        file: where it is.
        mapped: whether it stays on the disk until it is looked at.
    """
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as error:  # as above
        raise ValueError(in_a_line(error)) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("expected one array, found an archive")
    return array


def in_a_line(error: Exception) -> str:
    """Return what an error says, for a message of one line."""
    return " ".join(str(error).split()) or type(error).__name__
