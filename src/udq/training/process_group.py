"""Processes that train one network together: each sees its parts of a step, and all take the same step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

_Value = TypeVar("_Value")


class ProcessGroup(Protocol):
    """Processes that do the same, each with data of its own.

    Attributes:
        rank: which of them this is, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the group."""

    def broadcast(self, value: _Value) -> _Value:
        """Return the value of the first of the group."""


class SingleProcess:
    """A group of this process."""

    rank, size = 0, 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing."""

    def broadcast(self, value: _Value) -> _Value:
        """Return the value."""
        return value
