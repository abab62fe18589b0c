"""Processes that train one network together: each computes its parts of a step, and all take the same step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

_Value = TypeVar("_Value")


class ProcessGroup(Protocol):
    """Processes that run the same code, each on its own data.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the group."""

    def broadcast(self, value: _Value) -> _Value:
        """Return the value that the process of rank 0 passed."""


class SingleProcess:
    """A group of this process alone."""

    rank, size = 0, 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing: the sum over one process is the tensor itself."""

    def broadcast(self, value: _Value) -> _Value:
        """Return the value."""
        return value
