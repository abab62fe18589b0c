# src/native/scan.cpp. It checks no arguments: udq.search.scan.exhaustive and inverted do.

from numpy import bool_, float32, int64, uint8, uint16, uint32, uint64, void
from numpy.typing import NDArray

def kernels() -> list[str]: ...
def nearest(
    kernel: str,
    lookups: NDArray[float32],
    queries: int,
    subspaces: int,
    itemsize: int,
    # codes, offsets, keep; the first image to scan, the end of the range, and the number of image 0
    parts: list[tuple[NDArray[uint8] | NDArray[uint16], NDArray[int64], NDArray[bool_] | None, int, int, int]],
    found: NDArray[void],
    counts: NDArray[int64],
    /,
) -> int: ...
def best(
    lookup: NDArray[float32],
    subspaces: int,
    codes: NDArray[uint8] | NDArray[uint16],
    itemsize: int,
    offsets: NDArray[int64],
    first: int,
    last: int,
    distance: NDArray[float32],
    region: NDArray[int64],
    /,
) -> bool: ...
def sort_by_cell(
    codes: NDArray[uint8] | NDArray[uint16],
    itemsize: int,
    subspaces: int,
    codewords: int,
    first: int,
    following: NDArray[int64],
    sorted_codes: NDArray[uint8] | NDArray[uint16],
    regions: NDArray[uint32],
    /,
) -> bool: ...
def nearest_by_cell(
    kernel: str,
    lookup: NDArray[float32],
    subspaces: int,
    codes: NDArray[uint8] | NDArray[uint16],
    itemsize: int,
    starts: NDArray[int64],
    regions: NDArray[uint32],
    offsets: NDArray[int64],
    keep: NDArray[bool_],
    share: int,
    shares: int,
    looked_at: float,
    found: NDArray[void],
    /,
) -> int: ...
def vote(
    cells: NDArray[uint16],
    visited: NDArray[int64],
    limits: NDArray[float32],
    tables: NDArray[float32],
    subspaces: int,
    rows: NDArray[uint32],
    keys: NDArray[uint8],
    starts: NDArray[uint32],
    photo_of: NDArray[uint32],
    stored: NDArray[uint8],
    farthest: float,
    total: NDArray[float32],
    /,
) -> None: ...
def sort_by_high_half(keys: NDArray[uint64], /) -> None: ...
