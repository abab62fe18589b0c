"""Query expansion: search again by a mean of the query and the best regions of the first photos.

    q' = unit(q + sum_i w_i f_i),    w_i = 1 (average) or (q . f_i) ** ALPHA (alpha)

where f_i is the best region of the i-th of the photos that count as found, decoded from its code. Others are left out:
an object that only two photos show would otherwise be outweighed by photos of other things. Costs a second search.

O. Chum et al.: Total recall: automatic query expansion with a generative feature model for object retrieval. ICCV 2007.
F. Radenovic, G. Tolias, O. Chum: Fine-tuning CNN image retrieval with no human annotation. TPAMI 2019.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.search.rerank.ranked import RankedQuery, unit

# Chosen by benchmarks/decisions/rerank.py: more photos help if the object is in many photos, and hurt if it is in few.
DEPTH = 10
ALPHA = 3.0


def average(ranked: RankedQuery) -> RankedQuery:
    """Search again by the mean of the query and the best regions of the first sure photos."""
    return _search_again(ranked, 0.0)


def alpha(ranked: RankedQuery) -> RankedQuery:
    """Search again by the mean in which regions weigh more the more similar they are to the query."""
    return _search_again(ranked, ALPHA)


def _search_again(ranked: RankedQuery, alpha: float) -> RankedQuery:
    again = ranked.search_again(expanded(ranked.query, _sure_regions(ranked), alpha))
    # The photos that the examples come from are nearest to the query, but need not be to the expanded one.
    return again.reordered(np.arange(len(again.stacks(DEPTH))))


def _sure_regions(ranked: RankedQuery) -> NDArray[np.float32]:
    """Return the best regions of those of the first photos that count as found."""
    return ranked.best_regions(stack for stack in ranked.stacks(DEPTH) if ranked.is_sure(stack))


def expanded(query: NDArray[np.float32], regions: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Return the expanded query (d,), of unit length.

    Args:
        query: (d,) of unit length.
        regions: (n, d) of unit length.
        alpha: exponent of the similarity in the weight of a region; 0 gives all the same weight.
    """
    weights = np.maximum(regions @ query, 0) ** np.float32(alpha)
    return unit(query + weights @ regions)
