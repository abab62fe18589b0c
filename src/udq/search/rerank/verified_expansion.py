"""Query expansion by verified photos: search again by the query and the object in photos that surely show it.

    q' = unit(q + sum_i f_i)

where f_i is the best region of the i-th photo that surely shows the object, decoded from its code. Without such a photo
the ranking stays as it is. Verified photos keep the factors that their scores are raised by, and the smaller of their
distances to q and q'. Otherwise the query's own photo, nearest to q but not to q', would come after others.

O. Chum et al.: Total recall: automatic query expansion with a generative feature model for object retrieval. ICCV 2007.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from udq.search.confidence import THRESHOLD
from udq.search.ranking import Verified
from udq.search.rerank import verify
from udq.search.rerank.query_expansion import expanded
from udq.search.rerank.ranked import RankedQuery

# Photos that expand a query at most.
PHOTOS = 10


def expand(ranked: RankedQuery) -> RankedQuery:
    """Search again by the query and what verified photos show, and order photos by their new, raised scores."""
    verified = ranked.ranking.verified
    stacks = ranked.stacks(verify.DEPTH)
    sure = [stack for stack in stacks if stack.places[0] in verified and _expands(verified[stack.places[0]])][:PHOTOS]
    if not sure:
        return ranked
    again = ranked.search_again(expanded(ranked.query, ranked.best_regions(sure), alpha=0.0))
    places = np.array(sorted(verified), np.int64)
    again, count = again.including(places, verify.DEPTH)
    distance = again.ranking.distance.copy()
    distance[places] = np.fmin(distance[places], ranked.ranking.distance[places])
    ranking = replace(again.ranking, distance=distance)
    kept = {}
    for place, each in verified.items():
        score = verify.raised(ranking.score_by_index(place), each.verification.coverage, crowd=each.crowd)
        kept[place] = replace(each, score=score)
    again = replace(again, ranking=replace(ranking, verified=kept))
    scores = np.array([again.ranking.score(stack.places[0]) for stack in again.stacks(count)])
    return again.reordered(np.argsort(-scores, kind="stable"))


def _expands(found: Verified) -> bool:
    """Whether a photo surely shows the object: sister products would lead the query away."""
    return found.verification.inliers >= verify.SURE and found.confidence >= THRESHOLD
