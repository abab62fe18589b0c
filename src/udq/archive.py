"""Named arrays as the bytes of an .npz archive, never unpickled: models, trained convolutions, states of training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the archive; ``from_bytes`` reads it back exactly."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; raises ValueError, EOFError or zipfile.BadZipFile where the bytes are no archive."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
