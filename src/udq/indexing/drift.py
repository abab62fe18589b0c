"""Whether a collection has outgrown its model: the quantization error of newer photos, compared with older ones.

A model overfits the photos that it was fitted to: the fewer they are, the smaller is their quantization error compared
with any other photos, of the same kind or not. After retraining, the error of newer photos is about that of older ones,
so that the difference of the two is what retraining can gain. The error of older photos is therefore measured on the
photos of the fit, not on photos held out: compared with held-out photos, newer photos of another kind have no larger
error than newer photos of the same kind (docs/reliability.md has the measurements).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from udq.store.segments import Segment

# Fewer newer photos than this, or than this share of all photos, are not worth retraining, whatever their error.
_LEAST = 10
_SHARE = 0.03
# Retraining is worth it if the error of newer photos exceeds that of older ones by more than this. A difference, not a
# ratio: features have unit length, and twice a tiny error is still a tiny error (docs/reliability.md).
LIMIT = 0.2


@dataclass(frozen=True)
class Drift:
    """Mean squared quantization errors (eq. 6) of the photos that a model was fitted to and of later ones.

    Attributes:
        older, newer: the errors, each the mean over photos.
        older_photos, newer_photos: numbers of photos.
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
        """Whether the collection should be retrained."""
        enough = max(_LEAST, _SHARE * (self.older_photos + self.newer_photos))
        return self.newer_photos >= enough and self.excess > LIMIT

    def to_json(self) -> dict[str, Any]:
        """Return what ``udq info --json`` prints."""
        return {**asdict(self), "excess": self.excess, "outgrown": self.outgrown}


def measure(segments: Iterable[Segment], fitted_before: int) -> Drift | None:
    """Compare newer photos of a collection with older ones; None unless it has both and their errors are known.

    Args:
        segments: all segments of the collection.
        fitted_before: photos with lower ids were in the collection when its model was fitted.
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
    # float64: the sum of errors that are damaged may exceed float32.
    older = float(of_older.mean(dtype=np.float64))
    return Drift(older, float(of_newer.mean(dtype=np.float64)), len(of_older), len(of_newer)) if older > 0 else None
