"""Query expansion: what the first photos show joins the query, and all photos are ranked by that.

    q' = unit(q + sum_i w_i f_i),    w_i = 1 (average) or (q . f_i) ** ALPHA (alpha)

where f_i is the best region of the i-th photo, decoded from its code. Photos that are less sure than LEAST are left
out: an object that two photos show would drown in what others are of. Costs a second search.

O. Chum et al.: Total recall: automatic query expansion with a generative feature model for object retrieval. ICCV 2007.
F. Radenovic, G. Tolias, O. Chum: Fine-tuning CNN image retrieval with no human annotation. TPAMI 2019.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.search.rerank.ranked import Ranked, unit

# Measured by benchmarks/decisions/rerank.py: more photos gain more where an object is in many, and lose where it is in few.
DEPTH = 10
ALPHA = 3.0
LEAST = 0.5


def average(ranked: Ranked) -> Ranked:
    """Rank by the mean of the query and what the first photos show."""
    return ranked.again(expanded(ranked.query, ranked.found(DEPTH, least=LEAST), 0.0))


def alpha(ranked: Ranked) -> Ranked:
    """Rank by their mean, in which what resembles the query weighs more."""
    return ranked.again(expanded(ranked.query, ranked.found(DEPTH, least=LEAST), ALPHA))


def expanded(query: NDArray[np.float32], found: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Return the expanded query (d,), of unit length.

    Args:
        query: (d,) of unit length.
        found: (n, d) of unit length.
        alpha: exponent of the similarity as a weight; 0 weighs all alike.
    """
    weights = np.maximum(found @ query, 0) ** np.float32(alpha)
    return unit(query + weights @ found)
