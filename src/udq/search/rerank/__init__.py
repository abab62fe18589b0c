"""Post-processing: a search ranks again by what its first photos show, in stages that it names, one after another.

``STAGES`` are those that measured well (docs/rerank.md); ``udq search --rerank alpha-qe,diffusion`` runs two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from udq.errors import InputError
from udq.search.rerank import diffusion, query_expansion, verify
from udq.search.rerank.ranked import Ranked


class Stage(NamedTuple):
    """One way to rank again.

    Attributes:
        apply: takes a ranking and returns another.
        depth: photos that it looks at, the first ones.
    """

    apply: Callable[[Ranked], Ranked]
    depth: int


STAGES = {
    "average-qe": Stage(query_expansion.average, query_expansion.DEPTH),
    "alpha-qe": Stage(query_expansion.alpha, query_expansion.DEPTH),
    "diffusion": Stage(diffusion.diffuse, diffusion.DEPTH),
    "verify": Stage(verify.verify, verify.DEPTH),
}


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of stages; raises InputError where one is none."""
    for name in names:
        if name not in STAGES:
            raise InputError(f"rerank: expected some of {', '.join(STAGES)}, found {name!r}")
    return tuple(names)


def depth(names: Sequence[str]) -> int:
    """Return how many photos the first ranking must hold for these stages."""
    return max((STAGES[name].depth for name in names), default=0)


def rerank(ranked: Ranked, names: Sequence[str]) -> Ranked:
    """Rank again by each of the stages, in their order."""
    for name in names:
        ranked = STAGES[name].apply(ranked)
    return ranked
