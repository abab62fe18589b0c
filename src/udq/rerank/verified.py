"""Spatial verification: a second look at the first photos, which moves those up that show the very object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udq.ranking import LookedAt
from udq.rerank import fusion
from udq.rerank.ranked import Ranked
from udq.rerank.verification import Verifier
from udq.types import Verification

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
            score = fusion.raised(ranking.score(place), best.inliers)
            looked_at[place] = LookedAt(score, fusion.merged(box, best), best)
    # After diffusion photos are not in the order of scores: what was seen then moves a photo up among those alone.
    raised = np.array([fusion.raised(1.0, looked_at[p].verified.inliers) if p in looked_at else 1.0 for p in first])
    plain = np.sort([ranking.score(place) for place in first])[::-1]
    ranked = replace(ranked, ranking=replace(ranking, looked_at={**ranking.looked_at, **looked_at}))
    return ranked.reordered(np.argsort(-raised * plain, kind="stable"))


def _best(found: Sequence[Verification | None]) -> Verification | None:
    """Return the one of most inliers; the first of equals."""
    return max((each for each in found if each is not None), key=lambda each: each.inliers, default=None)
