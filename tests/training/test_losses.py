"""Eq. 7-9 against NumPy in float64, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from udq.training import losses

BATCH, SUBSPACES, CODEWORDS, LENGTH = 7, 3, 5, 4


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "logits": rng.standard_normal((BATCH, SUBSPACES, CODEWORDS)) * 3,
        "labels": rng.integers(0, CODEWORDS, (BATCH, SUBSPACES)),
        "features": rng.standard_normal((BATCH, SUBSPACES * LENGTH)),
        "quantized": rng.standard_normal((BATCH, SUBSPACES * LENGTH)),
        "codebooks": rng.standard_normal((SUBSPACES, CODEWORDS, LENGTH)),
    }


def tensors(arrays, *names, grad=False):
    return [torch.tensor(arrays[name], requires_grad=grad and name in ("logits", "features")) for name in names]


def by_the_formula(logits, labels):
    """-sum_m log(e^(logit of h_m) / sum over l = 1..K of e^(logit of l)), mean over the batch."""
    total = 0.0
    for t in range(BATCH):
        for m in range(SUBSPACES):
            total -= np.log(np.exp(logits[t, m, labels[t, m]]) / np.exp(logits[t, m]).sum())
    return total / BATCH


def test_separability_is_equation_8(arrays):
    found = losses.separability(*tensors(arrays, "logits", "labels")).item()

    assert found == pytest.approx(by_the_formula(arrays["logits"], arrays["labels"]), rel=1e-12)


def test_discriminability_is_equation_9(arrays):
    found = losses.discriminability(*tensors(arrays, "features", "quantized")).item()

    assert found == pytest.approx(((arrays["features"] - arrays["quantized"]) ** 2).sum() / BATCH, rel=1e-12)


def test_joint_is_equation_7():
    assert losses.joint(torch.tensor(3.0), torch.tensor(8.0), weight=0.25).item() == 5.0


def test_gradients_are_those_of_finite_differences(arrays):
    logits, labels, features, quantized = tensors(arrays, "logits", "labels", "features", "quantized", grad=True)

    def loss(one, other):
        return losses.joint(losses.separability(one, labels), losses.discriminability(other, quantized), weight=0.01)

    assert torch.autograd.gradcheck(loss, (logits, features))


def test_no_gradient_flows_into_the_supervision(arrays):
    features, quantized = tensors(arrays, "features", "quantized")
    quantized.requires_grad_(True)
    features.requires_grad_(True)
    losses.discriminability(features, quantized).backward()

    assert quantized.grad is None
    assert features.grad is not None


def test_classifiers_from_codebooks_are_the_softmax_of_distances(arrays):
    codebooks, features = arrays["codebooks"], arrays["features"].reshape(BATCH, SUBSPACES, LENGTH)
    weights, biases = losses.classifiers_from(torch.tensor(codebooks), sharpness=2.5)
    logits = torch.einsum("bml,mlk->bmk", torch.tensor(features), weights) + biases
    distance = ((features[:, :, None] - codebooks[None]) ** 2).sum(axis=3)
    expected = np.exp(-2.5 * distance)
    expected /= expected.sum(axis=2, keepdims=True)

    assert weights.shape == (SUBSPACES, LENGTH, CODEWORDS)
    assert torch.softmax(logits, dim=2).numpy() == pytest.approx(expected, rel=1e-9)
