"""Checks of the arrays of a scan, so that a kernel never reads out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.errors import InputError

MAX_CODEWORDS = 512
"""Largest K: the tables of M = 8 subspaces then take 16 KiB and stay in the L1 cache."""


def columns(codes: NDArray[Any]) -> int:
    """Return the number of codewords that a code can name: a power of two."""
    return 256 if codes.itemsize == 1 else MAX_CODEWORDS


def expect(holds: bool | np.bool_, expected: str, found: object) -> None:
    """Raise InputError with both if a condition does not hold."""
    if not holds:
        raise InputError(f"expected {expected}, found {found}")


def expect_array(name: str, array: NDArray[Any], dtype: type, shape: tuple[int | None, ...]) -> None:
    """Raise InputError if the dtype or shape of an array differs (None: any length)."""
    fits = array.ndim == len(shape) and all(n in (None, found) for n, found in zip(shape, array.shape, strict=True))
    if not (fits and array.dtype == dtype):
        wanted = f"{np.dtype(dtype)} ({', '.join('*' if n is None else str(n) for n in shape)})"
        raise InputError(f"expected {name} {wanted}, found {array.dtype} {array.shape}")


def check_lookup(lookup: NDArray[Any]) -> None:
    """Raise InputError if tables are not finite float32 (M, K)."""
    expect_array("lookup", lookup, np.float32, (None, None))
    expect(min(lookup.shape) >= 1, "a lookup (M, K) with M and K of at least 1", lookup.shape)
    expect(np.isfinite(lookup).all(), "a finite lookup", "inf or nan")


def check(lookup: NDArray[Any], codes: NDArray[Any], offsets: NDArray[Any]) -> None:
    """Raise InputError if tables, codes and offsets are not as ``best_regions`` takes them."""
    check_lookup(lookup)
    expect_fitting(lookup.shape, codes)
    check_codes(codes, offsets)


def expect_fitting(shape: tuple[int, ...], codes: NDArray[Any]) -> None:
    """Raise InputError if codes do not fit tables of shape (M, K)."""
    subspaces, codewords = shape
    expect_array("codes", codes, np.uint8 if codes.itemsize == 1 else np.uint16, (None, subspaces))
    limit = columns(codes)
    expect(codewords <= limit, f"at most {limit} codewords for codes of {codes.itemsize} bytes", codewords)


def check_codes(codes: NDArray[Any], offsets: NDArray[Any]) -> None:
    """Raise InputError if codes and offsets are not as ``best_regions`` takes them."""
    expect_array("codes", codes, np.uint8 if codes.itemsize == 1 else np.uint16, (None, None))
    expect(codes.flags.c_contiguous, "C-contiguous codes", codes.strides)
    expect_array("offsets", offsets, np.int64, (None,))
    expect(len(offsets) >= 1, "N + 1 offsets", "none")
    expect(offsets[0] == 0 and offsets[-1] == len(codes), f"offsets from 0 to {len(codes)}", offsets)
    expect((offsets[1:] >= offsets[:-1]).all(), "non-decreasing offsets", "one that decreases")


def refuse_codes_from(codewords: int, codes: NDArray[Any]) -> None:
    """Raise InputError with the first code out of range, if there is one: a sum of finite terms can be inf as well."""
    beyond = np.argwhere(codes >= codewords)
    if len(beyond):
        row, m = beyond[0].tolist()
        expect(False, f"codes below the {codewords} codewords", f"{codes[row, m]} in row {row}, subspace {m}")
