"""What a verification is worth beside what the index says: the score of a photo, and the box in it.

Both were chosen by measuring (benchmarks/verification.py): photos ordered by inliers alone lose what the index knows
of those that cannot be verified, and of the two boxes each is off in a way of its own.
"""

from __future__ import annotations

import math

from udq.rerank.verification import LEAST, Verification
from udq.types import Box

# How much inliers raise a score.
WEIGHT = 0.2


def raised(score: float, inliers: int, *, weight: float = WEIGHT, least: int = LEAST) -> float:
    """Return the score of a photo once it was looked at: score (1 + weight log(2 + inliers - least)).

    Args:
        score: of the index, eq. 2.
        inliers: of its verification; 0 where there is none, and then the score is left as it is.
        weight: how much inliers raise it.
        least: inliers of a photo that is only just verified.
    """
    return score if inliers < least else score * (1 + weight * math.log(2 + inliers - least))


def merged(box: Box, verification: Verification) -> Box:
    """Return the box half-way between that of the index and the verified one."""
    x1, y1, x2, y2 = ((one + other) / 2 for one, other in zip(box, verification.box, strict=True))
    return x1, y1, x2, y2
