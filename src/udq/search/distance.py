"""Squared distances -> distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def root(squared: NDArray[Any]) -> NDArray[Any]:
    """Return the root of squared distances, in their shape and precision.

    A squared distance is an estimate or a difference: residuals and rounding can make it slightly negative, which
    counts as 0. nan, for a photo that is not ranked, stays nan.
    """
    distance: NDArray[Any] = np.sqrt(np.maximum(squared, 0))
    return distance
