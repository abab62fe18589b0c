"""The ``verify`` stage: the score of a verified photo is raised, and its box is merged with the verified one.

If the collection stores local features, candidates are the first photos of the ranking and those that the query's local
features vote for, wherever they are in the ranking. Otherwise the first photos are decoded.

How the score is raised was chosen by measuring (benchmarks/decisions/verification.py). Ordering photos by inliers alone
ignores what the index says about photos that cannot be verified. What counts is the share of the query's box that has
inliers: a sister package or another film of the same publisher shares a logo with as many points as the right one, but
not the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.common.progress import silent
from udq.keypoints import extraction
from udq.search.copies import Stack
from udq.search.ranking import Verified
from udq.search.rerank.ranked import RankedQuery
from udq.search.rerank.verifier import Candidate, Verifier
from udq.types import Verification

# Number of first photos that are verified, and of photos that local features vote for.
DEPTH, VOTED = 200, 100
# The same if photos have to be decoded.
_DECODED = 50
# Inliers from which on a photo very likely shows a part of the object at least, and the number of such photos beyond
# which one object does not explain them: half of packages_dev's queries share their print with more photos.
SURE, CROWD = 8, 40
# How much a covered box raises a score.
WEIGHT = 0.4


def verify(ranked: RankedQuery, *, mirrored: bool = False) -> RankedQuery:
    """Verify candidates, one of each content, and reorder them by their raised scores; others stay behind.

    Args:
        ranked: the query and its ranking.
        mirrored: verify the mirror image of the query, too.
    """
    database = ranked.database
    views = [
        (number, example, flipped)
        for number, example in enumerate(ranked.examples)
        if not example.wrong
        for flipped in ((False, True) if mirrored else (False,))
    ]
    verifiers = [
        Verifier(Path(example.photo), example.box, mirrored=flipped, decoder=ranked.decoder)
        for _, example, flipped in views
    ]
    count = DEPTH if database.has_points else _DECODED
    if database.has_points:
        voted = [database.most_voted(verifier.features.descriptors, VOTED) for verifier in verifiers]
        ranked, count = ranked.including(np.concatenate([each.image for each in voted]), count)
        ranked = ranked.lacking(max(each.missing for each in voted))
    stacks = ranked.stacks(count)
    photos = _candidates(ranked, stacks)
    by_example = []
    progress = silent if database.has_points else ranked.progress  # without decoding, it takes a fraction of a second
    with progress("verifying", len(views) * len(photos)) as step:
        for (number, _, _), verifier in zip(views, verifiers, strict=True):
            by_photo = verifier.verify(photos, threads=database.threads, step=step)
            by_example.append([each and replace(each, example=number) for each in by_photo])
    ranking = ranked.ranking
    best = {stack.places[0]: _best(each) for stack, *each in zip(stacks, *by_example, strict=True)}
    crowded = sum(each is not None and each.inliers >= SURE for each in best.values()) > CROWD
    verified = {
        place: Verified(raised(ranking.score_by_index(place), each.coverage), each, crowded)
        for place, each in best.items()
        if each is not None
    }
    ranked = replace(ranked, ranking=replace(ranking, verified={**ranking.verified, **verified}))
    return raise_verified(ranked, count)


def raise_verified(ranked: RankedQuery, count: int) -> RankedQuery:
    """Order the first ``count`` stacks by their scores, of which those of verified photos are raised.

    After diffusion, photos are not in the order of their scores by the index. These are then assigned to the photos in
    their present order, so that a verification moves a photo up from there.
    """
    ranking = ranked.ranking
    first = [stack.places[0] for stack in ranked.stacks(count)]
    factors = np.array([_factor(ranking.verified.get(place)) for place in first])
    by_index = np.sort([ranking.score_by_index(place) for place in first])[::-1]
    return ranked.reordered(np.argsort(-factors * by_index, kind="stable"))


def _factor(verified: Verified | None) -> float:
    """Return what the score of a photo is raised by."""
    return 1.0 if verified is None else raised(1.0, verified.verification.coverage)


def _candidates(ranked: RankedQuery, stacks: Sequence[Stack]) -> list[Candidate]:
    """Return what is to be verified of stacks of photos: the first photo of each."""
    candidates = []
    stored = ranked.database.has_points
    for stack in stacks:
        photo = stack.photos[0]
        image = photo.image
        box = None if stored else ranked.ranking.box(stack.places[0])
        step = extraction.step(image.width, image.height) if stored else 0.0
        candidates.append(Candidate(image.file, box, image.width, image.height, photo.points, step))
    return candidates


def raised(score: float, coverage: float, *, weight: float = WEIGHT) -> float:
    """Return the score of a verified photo: score (1 + weight log(2 + max(0, 36 coverage - 5))).

    Args:
        score: by the index, eq. 2.
        coverage: share of the query's box that has inliers.
        weight: how much it raises the score.
    """
    return score * (1 + weight * math.log(2 + max(0.0, 36 * coverage - 5)))


def _best(verifications: Sequence[Verification | None]) -> Verification | None:
    """Return the verification of the largest coverage; the first of equals."""
    return max((each for each in verifications if each is not None), key=lambda each: each.coverage, default=None)
