"""The trainable part of fig. 2: fully connected layers up to FC_S, and FC_cls on top of it.

The paper's other output, FC_reg, is f itself: eq. 9 compares f with the quantized feature.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from udq.common.threads import ALONE, Pool
from udq.config import TrainConfig
from udq.quantization.head import Head, Layer
from udq.training import losses
from udq.types import Features


class TrainableHead(nn.Module):
    """Pooled features -> f and the logits of M classifiers.

    Attributes:
        layers: the fully connected layers of a ``Head``, FC_S last.
        classifier_weights: (M, d/M, K), W of eq. 8; set by ``classify``.
        classifier_biases: (M, K), b of eq. 8.
    """

    classifier_weights: nn.Parameter
    classifier_biases: nn.Parameter

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.load(head)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.layers.parameters()).device

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute f (B, d), of unit length, of pooled features (B, D)."""
        *hidden, last = self.layers
        for layer in hidden:
            pooled = layer(pooled).relu()
        return normalize(last(pooled), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the output (B, M, K) of FC_cls for f (B, d)."""
        subspaces, length, _ = self.classifier_weights.shape
        parts = features.view(len(features), subspaces, length)
        return torch.einsum("bml,mlk->bmk", parts, self.classifier_weights) + self.classifier_biases

    def classify(self, codebooks: NDArray[np.float32], training: TrainConfig, *, seed: int) -> None:
        """Initialise FC_cls from codebooks (M, K, d/M) in the space of f, or at random; ``seed`` is of the latter."""
        if training.classifiers == "random":
            weights, biases = losses.random_classifiers(codebooks.shape, seed=seed)
        else:
            weights, biases = losses.classifiers_from(torch.tensor(codebooks), sharpness=training.sharpness)
        self.classifier_weights = nn.Parameter(weights.to(self.device))
        self.classifier_biases = nn.Parameter(biases.to(self.device))

    def load(self, head: Head) -> None:
        """Replace the layers by those of a head."""
        device = self.device if len(self.layers) else None
        self.layers = nn.ModuleList()
        for layer in head.layers:
            linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], device=device)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(layer.weight))
                linear.bias.copy_(torch.tensor(layer.bias))
            self.layers.append(linear)

    def head(self) -> Head:
        """Return a copy of the current layers."""
        arrays = [part.detach().cpu().numpy().copy() for part in self.layers.parameters()]
        return Head(tuple(Layer(weight, bias) for weight, bias in zip(arrays[::2], arrays[1::2], strict=True)))

    def apply_to(self, pooled: Features, *, workers: Pool = ALONE, batch: int = 4096) -> Features:
        """Compute f of pooled features (G, D) in batches."""

        @torch.inference_mode()
        def part(start: int) -> NDArray[np.float32]:
            vectors = torch.tensor(pooled.vectors[start : start + batch], device=self.device)
            result: NDArray[np.float32] = self(vectors).cpu().numpy()
            return result

        return Features(np.concatenate(list(workers.map(part, range(0, len(pooled), batch)))))
