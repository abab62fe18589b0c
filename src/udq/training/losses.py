"""The two losses of training and their weighted sum (eq. 7-9), as pure functions of torch tensors.

The paper sums over the G proposals; here every loss is the mean over a batch, so that the learning rate does not depend
on the size of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# Standard deviation of random weights of classifiers.
_SPREAD = 0.01


def separability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return eq. 8: M softmax classifiers of K codewords, summed over the subspaces.

    The denominator printed in the paper sums over l = 1..M; this one sums over l = 1..K, as a softmax over codewords.

    Args:
        logits: (B, M, K) float, ``W_m^T f^m + b_m``.
        labels: (B, M) int64, the codeword h^m of each sub-feature.

    Returns:
        Scalar, mean over the batch, >= 0.
    """
    batch, subspaces, codewords = logits.shape
    flat = cross_entropy(logits.reshape(batch * subspaces, codewords), labels.reshape(-1), reduction="sum")
    return flat / batch


def discriminability(features: Tensor, quantized: Tensor) -> Tensor:
    """Return eq. 9: the squared distance of features to their quantized features.

    Args:
        features: (B, d) float.
        quantized: (B, d) float, the supervision; no gradient flows into it.

    Returns:
        Scalar, mean over the batch, >= 0.
    """
    return (features - quantized.detach()).square().sum(dim=1).mean()


def joint(separability: Tensor, discriminability: Tensor, *, weight: float) -> Tensor:
    """Return eq. 7, ``L_sep + lambda * L_dis``; ``weight`` is lambda."""
    return separability + weight * discriminability


def classifiers_from(codebooks: Tensor, *, sharpness: float) -> tuple[Tensor, Tensor]:
    """Return weights and biases that make a classifier the softmax of ``-sharpness * ||f^m - c||^2``.

    The expanded square is linear in f, ``2 s c^T f - s ||c||^2``, except for a term that is the same for every codeword
    and cancels in the softmax.

    Args:
        codebooks: (M, K, d/M) float.
        sharpness: s, > 0.

    Returns:
        (M, d/M, K) weights and (M, K) biases.
    """
    weights = 2.0 * sharpness * codebooks.transpose(1, 2)
    biases = -sharpness * codebooks.square().sum(dim=2)
    return weights.contiguous(), biases


def random_classifiers(shape: Sequence[int], *, seed: int) -> tuple[Tensor, Tensor]:
    """Return weights drawn as those of a fully connected layer without knowledge, of spread 0.01, and biases of 0.

    Faster R-CNN, which the paper's network is built from, initialises its own new layers so.

    Args:
        shape: (M, K, d/M) of the codebooks.
        seed: of the weights.

    Returns:
        (M, d/M, K) weights and (M, K) biases.
    """
    subspaces, codewords, length = shape
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(subspaces, length, codewords).normal_(std=_SPREAD, generator=generator)
    return weights, torch.zeros(subspaces, codewords)
