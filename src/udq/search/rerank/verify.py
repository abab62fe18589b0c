"""What a verification is worth beside what the index says: the score of a photo, and the box in it.

Both were chosen by measuring (benchmarks/decisions/verification.py): photos ordered by inliers alone lose what the index knows
of those that cannot be verified, and of the two boxes each is off in a way of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.search.ranking import Verified
from udq.search.rerank.ranked import Ranked
from udq.search.rerank.verifier import LEAST, Verifier
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


DEPTH = 50


def verify(ranked: Ranked) -> Ranked:
    """Look at the first photos, and order them by scores that what was seen raises; the others stay behind them."""
    ranking = ranked.ranking
    first = ranking.order[:DEPTH].tolist()
    kept = ranked.database.photos(first)
    photos = [(photo.image.path, ranking.box(place)) for place, photo in zip(first, kept, strict=True)]
    seen = []
    for number, example in enumerate(ranked.examples):
        if not example.wrong:
            verifier = Verifier(Path(example.photo), example.box, load_crop=ranked.load_crop)
            seen.append([each and replace(each, example=number) for each in verifier.verify(photos)])
    looked_at = {}
    for row, (place, (_, box)) in enumerate(zip(first, photos, strict=True)):
        best = _best([each[row] for each in seen])
        if best is not None:
            score = raised(ranking.score(place), best.inliers)
            looked_at[place] = Verified(score, merged(box, best), best)
    # After diffusion photos are not in the order of scores: what was seen then moves a photo up among those alone.
    rises = np.array([raised(1.0, looked_at[p].verified.inliers) if p in looked_at else 1.0 for p in first])
    plain = np.sort([ranking.score(place) for place in first])[::-1]
    ranked = replace(ranked, ranking=replace(ranking, looked_at={**ranking.looked_at, **looked_at}))
    return ranked.reordered(np.argsort(-rises * plain, kind="stable"))


def _best(found: Sequence[Verification | None]) -> Verification | None:
    """Return the one of most inliers; the first of equals."""
    return max((each for each in found if each is not None), key=lambda each: each.inliers, default=None)
