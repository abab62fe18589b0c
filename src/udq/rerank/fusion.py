"""What a verification is worth beside what the index says: the score of a photo, and the box in it.

Both were chosen by measuring (benchmarks/verification.py): photos ordered by inliers alone lose what the index knows
of those that cannot be verified, and of the two boxes each is off in a way of its own.
"""

from __future__ import annotations

import math

from udq.rerank.verification import LEAST
from udq.types import Box, Verification

# How much inliers raise a score.
WEIGHT = 0.2
# Part of the verified box in a merged one.
SHARE = 2 / 3


def raised(score: float, inliers: int, *, weight: float = WEIGHT, least: int = LEAST) -> float:
    """Return the score of a photo once it was looked at: score (1 + weight log(2 + inliers - least)).

    Args:
        score: of the index, eq. 2.
        inliers: of its verification; 0 where there is none, and then the score is left as it is.
        weight: how much inliers raise it.
        least: inliers of a photo that is only just verified.
    """
    return score if inliers < least else score * (1 + weight * math.log(2 + inliers - least))


def merged(box: Box, verification: Verification, *, share: float = SHARE) -> Box:
    """Return the box between that of the index and the verified one; ``share`` of the way, 1 is the verified one."""
    sides = zip(box, verification.box, strict=True)
    x1, y1, x2, y2 = ((1 - share) * one + share * other for one, other in sides)
    return x1, y1, x2, y2
