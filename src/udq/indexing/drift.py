"""Whether a collection has outgrown its model: how well its codes say what newer photos show, beside older ones.

A model has in part learnt by heart what it was fitted to: the fewer photos, the smaller their quantization error beside
that of any others, of the same kind or not. Fitted anew, it knows newer photos about as well as older ones. So the
difference of the two is what there is to win, and the older error need not be that of photos held out of the fit: with
that, newer photos of another kind compare no worse than of the same (docs/reliability.md has the measurements).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from udq.store.segments import Segment

# Fewer newer photos than these, or than this share of all, are not worth training anew, whatever their error.
_LEAST = 10
_SHARE = 0.03
# By so much the error of newer photos exceeds that of older ones before retraining is worth it. Features have unit
# length, so that this is no ratio: twice an error of almost nothing is almost nothing (docs/reliability.md).
LIMIT = 0.2


@dataclass(frozen=True)
class Drift:
    """Mean squared quantization errors (eq. 6) of photos that a model was fitted to, and of those that came later.

    Attributes:
        older, newer: errors, each the mean over photos.
        older_photos, newer_photos: how many these are.
    """

    older: float
    newer: float
    older_photos: int
    newer_photos: int

    @property
    def excess(self) -> float:
        """By how much the error of newer photos exceeds that of older ones."""
        return self.newer - self.older

    @property
    def outgrown(self) -> bool:
        """Whether the model should be trained anew."""
        enough = max(_LEAST, _SHARE * (self.older_photos + self.newer_photos))
        return self.newer_photos >= enough and self.excess > LIMIT

    def to_json(self) -> dict[str, Any]:
        """Return what ``udq info --json`` says of it."""
        return {**asdict(self), "excess": self.excess, "outgrown": self.outgrown}


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
    of_older, of_newer = known["error"][~newer], known["error"][newer]
    older = float(of_older.mean())
    return Drift(older, float(of_newer.mean()), len(of_older), len(of_newer)) if older > 0 else None
