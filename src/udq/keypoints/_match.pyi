# src/native/match.cpp. It checks no arguments: udq.keypoints.matching does.

from numpy import float32, int32, int64, uint8
from numpy.typing import NDArray

def kernels() -> list[str]: ...
def neighbours(
    kernel: str,
    query: NDArray[float32],
    photo: NDArray[float32],
    extent: float,
    nearest: NDArray[int64],
    first: NDArray[int32],
    second: NDArray[int32],
    best: NDArray[int32],
    /,
) -> None: ...
def stored_neighbours(
    kernel: str,
    query: NDArray[float32],
    codewords: NDArray[float32],
    records: NDArray[uint8],
    bytes: int,
    starts: NDArray[int64],
    extent: float,
    nearest: NDArray[int64],
    first: NDArray[int32],
    second: NDArray[int32],
    best: NDArray[int32],
    /,
) -> None: ...
