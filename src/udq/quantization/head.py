"""The fully connected layers of fig. 2, from a pooled feature to the feature f that is quantized; FC_S is the last.

Plain NumPy, so that encoding photos and queries does not need torch, which trains the layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.types import Arrays, Features

_PARTS: Sequence[str] = ("weight", "bias")


@dataclass(frozen=True)
class Layer:
    """x -> weight @ x + bias.

    Attributes:
        weight: (out, in) float32.
        bias: (out,) float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"layer: expected weight (out, in) and bias (out,), found {self.weight.shape} and {self.bias.shape}"
            )

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (R, out) of (R, in)."""
        result: NDArray[np.float32] = vectors @ self.weight.T + self.bias
        return result


@dataclass(frozen=True)
class Head:
    """f = unit(FC_S(relu(... relu(FC_1(x))))).

    Attributes:
        layers: first to last; the last one is FC_S and has no ReLU.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        widths = [layer.weight.shape for layer in self.layers]
        if not widths or any(after[1] != before[0] for before, after in itertools.pairwise(widths)):
            raise ValueError(f"head: expected layers that fit each other, found {widths}")

    @property
    def dimensions(self) -> int:
        """d, the length of f."""
        return len(self.layers[-1].bias)

    def apply(self, features: Features) -> Features:
        """Map pooled features (R, D) to features (R, d) of unit length."""
        vectors = features.vectors
        for layer in self.layers[:-1]:
            vectors = np.maximum(layer.apply(vectors), 0)
        return Features(self.layers[-1].apply(vectors)).unit()

    def rotated(self, rotation: NDArray[np.float32]) -> Head:
        """Return a head whose features are ``f @ rotation``: R of eq. 6 folded into FC_S."""
        last = self.layers[-1]
        rotated = Layer(np.ascontiguousarray(rotation.T @ last.weight), last.bias @ rotation)
        return Head((*self.layers[:-1], rotated))

    def deepened(self, layers: int) -> Head:
        """Return a head with ``layers`` more layers in front, initialised to the identity.

        Pooled features are >= 0, so identity and ReLU do not change them before training.
        """
        width = self.layers[0].weight.shape[1]
        identity = Layer(np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
        return Head((*(identity,) * layers, *self.layers))

    def averaged(self, other: Head, *, share: float) -> Head:
        """Return the weighted average of two heads: ``share`` (0..1) of the other, 1 - share of this one."""
        mine, theirs = self.arrays(), other.arrays()
        return Head.from_arrays({name: average(mine[name], theirs[name], share=share) for name in mine})

    def arrays(self) -> Arrays:
        """Return the weights by name; ``from_arrays`` reads them back."""
        return {f"{part}_{i}": getattr(layer, part) for i, layer in enumerate(self.layers) for part in _PARTS}

    @staticmethod
    def from_arrays(arrays: Arrays) -> Head:
        """Read the weights of a head; raises KeyError if one is missing."""
        count = max(1, sum(name.startswith(_PARTS[0]) for name in arrays))
        return Head(tuple(Layer(*(arrays[f"{part}_{i}"] for part in _PARTS)) for i in range(count)))


def average(one: NDArray[np.float32], other: NDArray[np.float32], *, share: float) -> NDArray[np.float32]:
    """Return the weighted average of two arrays: ``share`` (0..1) of the other, 1 - share of the first."""
    return np.float32(1 - share) * one + np.float32(share) * other
