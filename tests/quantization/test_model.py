"""The file of a model comes from elsewhere: what would scan wrongly is refused."""

from __future__ import annotations

import numpy as np
import pytest

from udq.errors import CollectionError
from udq.quantization.head import Head, Layer
from udq.quantization.model import Model
from udq.quantization.quantizer import Quantizer


def model(codewords=32, residual=1.0):
    rng = np.random.default_rng(0)
    numbers = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    quantizer = Quantizer(numbers(8, 8), numbers(4, codewords, 2), np.full((4, codewords), residual, np.float32))
    return Model(Head((Layer(numbers(8, 10), numbers(8)),)), quantizer, "made up")


@pytest.mark.parametrize("codewords", [2, 4, 8, 16, 256, 512])
def test_codebooks_of_a_power_of_two_are_read(codewords):
    whole = model(codewords)
    assert Model.from_bytes(whole.to_bytes()).to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("codewords", [1, 3, 255, 257, 1024])
def test_codebooks_that_a_code_could_exceed_are_refused(codewords):
    with pytest.raises(CollectionError, match=r"model: expected the arrays of a udq model, found: codebooks of shape"):
        Model.from_bytes(model(codewords).to_bytes())


@pytest.mark.parametrize(
    ("residual", "found"), [(-1e-3, "negative residuals"), (np.nan, "not finite"), (3e38, "may overflow")]
)
def test_residuals_that_no_distance_has_are_refused(residual, found):
    with pytest.raises(CollectionError, match=found):
        Model.from_bytes(model(residual=residual).to_bytes())
    assert Model.from_bytes(model(residual=0).to_bytes()).quantizer.residuals.max() == 0
