# src/native/scan.cpp. It checks nothing: udq.scan does.

from numpy import bool_, float32, int64, uint8, uint16, uint64, void
from numpy.typing import NDArray

def kernels() -> list[str]: ...
def nearest(
    kernel: str,
    lookup: NDArray[float32],
    subspaces: int,
    codes: NDArray[uint8] | NDArray[uint16],
    itemsize: int,
    offsets: NDArray[int64],
    keep: NDArray[bool_] | None,
    first: int,
    last: int,
    number: int,
    found: NDArray[void],
    count: int,
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
def sort_by_high_half(keys: NDArray[uint64], /) -> None: ...
