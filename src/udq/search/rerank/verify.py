"""The ``verify`` stage: the score of a verified photo is raised, and its box is merged with the verified one.

Both were chosen by measuring (benchmarks/decisions/verification.py). Ordering photos by inliers alone ignores what the
index says about photos that cannot be verified, and the two boxes are inaccurate in different ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.search.ranking import Verified
from udq.search.rerank.ranked import RankedQuery
from udq.search.rerank.verifier import LEAST, Verifier
from udq.types import Box, Verification

# Number of first photos that are verified.
DEPTH = 50
# How much inliers raise a score.
WEIGHT = 0.2
# Weight of the verified box in the merged one.
SHARE = 2 / 3


def verify(ranked: RankedQuery) -> RankedQuery:
    """Verify the first photos, one of each content, and reorder them by their raised scores; others stay behind."""
    ranking = ranked.ranking
    stacks = ranked.stacks(DEPTH)
    first = [stack.places[0] for stack in stacks]
    photos = [(stack.photos[0].image.file, ranking.box(stack.places[0])) for stack in stacks]
    right = [(number, example) for number, example in enumerate(ranked.examples) if not example.wrong]
    by_example = []
    threads = ranked.database.threads
    with ranked.progress("verifying", len(right) * len(photos)) as step:
        for number, example in right:
            verifier = Verifier(Path(example.photo), example.box, decoder=ranked.decoder)
            by_photo = verifier.verify(photos, threads=threads, step=step)
            by_example.append([each and replace(each, example=number) for each in by_photo])
    verified = {}
    for row, (place, (_, box)) in enumerate(zip(first, photos, strict=True)):
        best = _best([verifications[row] for verifications in by_example])
        if best is not None:
            verified[place] = Verified(raised(ranking.score(place), best.inliers), merged(box, best), best)
    # After diffusion, photos are not in the order of their scores. The scores are then assigned to the photos in their
    # present order, so that a verification moves a photo up from there.
    factors = np.array([raised(1.0, verified[p].verification.inliers) if p in verified else 1.0 for p in first])
    scores = np.sort([ranking.score(place) for place in first])[::-1]
    ranked = replace(ranked, ranking=replace(ranking, verified={**ranking.verified, **verified}))
    return ranked.reordered(np.argsort(-factors * scores, kind="stable"))


def raised(score: float, inliers: int, *, weight: float = WEIGHT, least: int = LEAST) -> float:
    """Return the score of a photo after verification: score (1 + weight log(2 + inliers - least)).

    Args:
        score: by the index, eq. 2.
        inliers: of the verification; the score is unchanged if they are fewer than ``least``, as for a photo that is
            not verified (0).
        weight: how much inliers raise it.
        least: smallest number of inliers of a verified photo.
    """
    return score if inliers < least else score * (1 + weight * math.log(2 + inliers - least))


def merged(box: Box, verification: Verification, *, share: float = SHARE) -> Box:
    """Return the mean of the box by the index and the verified box, in which ``share`` is the weight of the latter."""
    sides = zip(box, verification.box, strict=True)
    x1, y1, x2, y2 = ((1 - share) * one + share * other for one, other in sides)
    return x1, y1, x2, y2


def _best(verifications: Sequence[Verification | None]) -> Verification | None:
    """Return the verification with the most inliers; the first of equals."""
    return max((each for each in verifications if each is not None), key=lambda each: each.inliers, default=None)
