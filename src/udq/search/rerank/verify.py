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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.common.progress import silent
from udq.keypoints import extraction
from udq.search.confidence import crowdedness
from udq.search.ranking import Verified
from udq.search.rerank.ranked import RankedQuery
from udq.search.rerank.verifier import Candidate, Verifier
from udq.store.segments import StoredPhoto
from udq.types import Verification

# Number of first photos that are verified, and of photos that local features vote for.
DEPTH, VOTED = 200, 100
# The same if photos have to be decoded.
_DECODED = 50
# Number of near copies that are verified, too: of pictures of a series that are one stack, one may be right.
_NEAR = 50
# Inliers from which on a photo very likely shows a part of the object at least.
SURE = 8
# How much a covered box raises a score, and how much in a crowd.
WEIGHT, CROWDED_WEIGHT = 0.4, 0.2


def verify(ranked: RankedQuery, *, mirrored: bool = False) -> RankedQuery:
    """Verify candidates, copies of one file once, and reorder them by their raised scores; others stay behind.

    Of near copies, the one with the largest coverage stands for all.

    Args:
        ranked: the query and its ranking.
        mirrored: verify the mirror image of the query, too.
    """
    database = ranked.database
    views = [
        (number, Verifier(Path(example.photo), example.box, mirrored=flipped, decoder=ranked.decoder))
        for number, example in enumerate(ranked.examples)
        if not example.wrong
        for flipped in ((False, True) if mirrored else (False,))
    ]
    count = DEPTH if database.has_points else _DECODED
    if database.has_points:
        voted = [database.most_voted(view.features.descriptors, VOTED) for _, view in views]
        ranked, count = ranked.including(np.concatenate([each.image for each in voted]), count)
        ranked = ranked.lacking(max(each.missing for each in voted))
    stacks = ranked.stacks(count)
    photos = {stack.places[0]: stack.photos[0] for stack in stacks}
    if database.has_points:
        photos |= [copy for stack in stacks for copy in stack.near()][:_NEAR]
    progress = silent if database.has_points else ranked.progress  # without decoding, it takes a fraction of a second
    with progress("verifying", len(views) * len(photos)) as step:
        found = _verifications(ranked, views, photos, step)
    ranking = ranked.ranking
    sure = {place for place, each in found.items() if each.inliers >= SURE}
    crowd = sum(not sure.isdisjoint(stack.places) for stack in stacks)
    verified = {
        place: Verified(raised(ranking.score_by_index(place), each.coverage, crowd=crowd), each, crowd)
        for place, each in found.items()
    }
    ranked = replace(ranked, ranking=replace(ranking, verified={**ranking.verified, **verified}))
    return _raise_verified(ranked, count)


def _raise_verified(ranked: RankedQuery, count: int) -> RankedQuery:
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
    return 1.0 if verified is None else raised(1.0, verified.verification.coverage, crowd=verified.crowd)


def _verifications(
    ranked: RankedQuery,
    views: Sequence[tuple[int, Verifier]],
    photos: Mapping[int, StoredPhoto],
    step: Callable[[], None],
) -> dict[int, Verification]:
    """Return the verifications of photos, by place, of those that have one: of several views, by the largest coverage.

    Args:
        ranked: the query and its ranking.
        views: number of an example and its verifier.
        photos: to verify, by place.
        step: called for each photo and view.
    """
    stored = ranked.database.has_points
    candidates = []
    for place, photo in photos.items():
        image = photo.image
        box = None if stored else ranked.ranking.box(place)
        scale = extraction.step(image.width, image.height) if stored else 0.0
        candidates.append(Candidate(image.file, box, image.width, image.height, photo.points, scale))
    best: dict[int, Verification] = {}
    for number, view in views:
        by_photo = view.verify(candidates, threads=ranked.database.threads, step=step)
        for place, each in zip(photos, by_photo, strict=True):
            if each is not None and (place not in best or each.coverage > best[place].coverage):
                best[place] = replace(each, example=number)
    return best


def raised(score: float, coverage: float, *, crowd: int = 0) -> float:
    """Return the score of a verified photo: score (1 + (1 - k) few + k many), where k is the crowdedness and

        few = WEIGHT log(2 + max(0, c - 5)),    many = CROWDED_WEIGHT log(1 + max(0, c - 6)),    c = 36 coverage:

    in a crowd, sister products are verified too, and a photo that is not may be the right one.

    Args:
        score: by the index, eq. 2.
        coverage: share of the query's box that has inliers.
        crowd: as in ``ranking.Verified``.
    """
    cells = 36 * coverage
    few = WEIGHT * math.log(2 + max(0.0, cells - 5))
    many = CROWDED_WEIGHT * math.log(1 + max(0.0, cells - 6))
    crowded = crowdedness(crowd)
    return score * (1 + (1 - crowded) * few + crowded * many)
