"""The input of training: pooled features of the sample's regions, in memory, and the protocol of any other source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from udq.common.threads import ALONE, Pool
from udq.types import Arrays, Features

# Parts of a batch, which threads compute at the same time; the same for every number of threads, because the sum of
# their gradients is rounded. More parts take more time in all.
_PARTS = 4


class PooledFeatures(Protocol):
    """Input of the fully connected layers: pooled features of the sample's regions.

    Either in memory (``CachedFeatures``), or computed by convolutions that are trained too (``end_to_end.EndToEnd``).

    Attributes:
        at_once: whether threads compute the parts of a step at the same time, each on one thread; otherwise they are
            computed one after the other, on all threads.
    """

    at_once: bool

    @property
    def steps_of_all(self) -> int:
        """How often ``all`` calls its argument."""

    def all(self, step: Callable[[], None], workers: Pool) -> Features:
        """Return the current pooled features (G, D).

        Args:
            step: called after each part of the work.
            workers: as for ``ahead``.
        """

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch: for each step of the optimiser the rows of its parts."""

    def ahead(self, parts: Iterable[Tensor], workers: Pool) -> Iterator[Callable[[], Tensor]]:
        """Yield for each part a function that returns its features (B, D), with a gradient if convolutions are trained.

        Args:
            parts: rows of each part, in the order in which they are needed.
            workers: threads that read files ahead of the caller, if there are any to read.
        """

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters to train besides the fully connected layers."""

    def state(self) -> Arrays:
        """Return a copy of these parameters by name; empty if there are none."""

    def load(self, state: Arrays) -> None:
        """Replace the parameters by a state."""


class CachedFeatures:
    """Pooled features in memory, for training with frozen convolutions."""

    at_once = True
    steps_of_all = 0

    def __init__(self, features: Features, device: torch.device, *, parts: int | None = None) -> None:
        """Keep features in memory.

        Args:
            features: (G, D).
            device: the device to train on.
            parts: parts of a step, one per process of a group; as many as suit the device if None.
        """
        self._features = features
        self._device = device
        self._parts = parts or (_PARTS if device.type == "cpu" else 1)

    def all(self, step: Callable[[], None] = lambda: None, workers: Pool = ALONE) -> Features:
        """Return the pooled features (G, D)."""
        del step, workers
        return self._features

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch of random batches."""
        order = torch.randperm(len(self._features), generator=generator)
        return [list(torch.chunk(rows, self._parts)) for rows in torch.split(order, batch)]

    def ahead(self, parts: Iterable[Tensor], workers: Pool) -> Iterator[Callable[[], Tensor]]:
        """Yield for each part, by its rows, a function that returns its features (B, D)."""
        return (partial(self.pooled, rows) for rows in parts)

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one part."""
        return torch.from_numpy(self._features.vectors[rows.numpy()]).to(self._device)

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: only the fully connected layers train."""
        return []

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def load(self, state: Arrays) -> None:
        """Do nothing."""
