"""An inverted index that scans some of the codes: what it finds depends on the codes alone."""

from __future__ import annotations

import numpy as np
import pytest

from udq.search.scan import kernels
from udq.search.scan.exhaustive import Part
from udq.search.scan.inverted import InvertedIndex


@pytest.mark.skipif(kernels.kernels() == ("numba",), reason="the extension was not built")
@pytest.mark.parametrize("looked_at", [0.001, 0.01, 0.1])
def test_an_index_that_scans_some_of_the_codes_finds_the_same_with_any_number_of_threads(looked_at):
    rng = np.random.default_rng(9)
    # Codes of the kinds that photos have: cells are filled very differently.
    codes = rng.integers(0, 256, (200, 8))[rng.integers(0, 200, 100_000)]
    codes = np.where(rng.random(codes.shape) < 0.5, rng.integers(0, 256, codes.shape), codes).astype(np.uint8)
    index = InvertedIndex.build([Part(codes, np.arange(0, len(codes) + 1, 50))], 256)
    for lookup in rng.random((10, 8, 256), np.float32):
        one, *others = [index.nearest_images(lookup, 20, looked_at=looked_at, threads=n) for n in (1, 2, 3, 5)]
        for other in others:
            for name in ("image", "region", "distance"):
                np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
