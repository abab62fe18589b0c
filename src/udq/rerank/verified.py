"""Spatial verification: a second look at the first photos, which moves those up that show the very object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.ranking import LookedAt
from udq.rerank import fusion
from udq.rerank.ranked import Ranked
from udq.rerank.verification import Verification, Verifier
from udq.types import Verified

DEPTH = 50


def verify(ranked: Ranked) -> Ranked:
    """Look at the first photos, and order them by scores that what was seen raises; the others stay behind them."""
    ranking = ranked.ranking
    first = ranking.order[:DEPTH].tolist()
    photos = [(ranked.collection.images[place].path, ranking.box(place)) for place in first]
    seen = []
    for number, example in enumerate(ranked.examples):
        if not example.wrong:
            verifier = Verifier(Path(example.photo), example.box, load_crop=ranked.load_crop)
            seen.append((number, verifier.verify(photos)))
    looked_at = {}
    for row, (place, (_, box)) in enumerate(zip(first, photos, strict=True)):
        found = _best([(number, each[row]) for number, each in seen])
        if found is not None:
            number, best = found
            verified = Verified(best.inliers, best.polygon, number, best.query_points, best.photo_points)
            score = fusion.raised(ranking.score(place), best.inliers)
            looked_at[place] = LookedAt(score, fusion.merged(box, best), verified)
    ranking = replace(ranking, looked_at={**ranking.looked_at, **looked_at})
    # After diffusion photos are not in the order of scores: what was seen then moves a photo up among those alone.
    raised = np.array([fusion.raised(1.0, looked_at[p].verified.inliers) if p in looked_at else 1.0 for p in first])
    plain = _in_order([ranked.ranking.score(place) for place in first])
    return replace(ranked, ranking=ranking).reordered(np.argsort(-raised * plain, kind="stable"))


def _best(found: Sequence[tuple[int, Verification | None]]) -> tuple[int, Verification] | None:
    """Return what the example shows that agrees best; the first of equals."""
    known = [(number, each) for number, each in found if each is not None]
    return max(known, key=lambda pair: pair[1].inliers, default=None)


def _in_order(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the scores as the ranking orders them: the best of all for its first photo, and so on."""
    return np.sort(np.array(scores, np.float64))[::-1]
