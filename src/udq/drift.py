"""Whether a collection has outgrown its model: how well its codes say what newer photos show, beside older ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from udq.segments import Segment

# Fewer newer photos than these say nothing, whatever their error.
_LEAST = 30
# By so much the error of newer photos exceeds that of older ones before retraining is worth it (docs/reliability.md).
LIMIT = 1.15


@dataclass(frozen=True)
class Drift:
    """Mean squared quantization errors (eq. 6) of photos that a model was fitted to, and of those that came later.

    Attributes:
        older, newer: errors, each the mean over photos.
        photos: how many are newer.
    """

    older: float
    newer: float
    photos: int

    @property
    def ratio(self) -> float:
        """Error of newer photos in that of older ones."""
        return self.newer / self.older

    @property
    def outgrown(self) -> bool:
        """Whether the model should be trained anew."""
        return self.photos >= _LEAST and self.ratio > LIMIT

    def to_json(self) -> dict[str, Any]:
        """Return what ``udq info --json`` says of it."""
        return {**asdict(self), "ratio": self.ratio, "outgrown": self.outgrown}


def measure(segments: Iterable[Segment], fitted_before: int) -> Drift | None:
    """Compare the photos of a collection by their ids; None where there are not both kinds, or errors are not known.

    Args:
        segments: of the collection.
        fitted_before: photos of lower ids were there when the model was fitted.
    """
    rows = [segment.photos[segment.living] for segment in segments]
    if not rows:
        return None
    photos = np.concatenate(rows)
    known = photos[np.isfinite(photos["error"])]
    newer = known["id"] >= fitted_before
    if newer.all() or not newer.any():
        return None
    older = float(known["error"][~newer].mean())
    return Drift(older, float(known["error"][newer].mean()), int(newer.sum())) if older > 0 else None
