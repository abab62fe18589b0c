"""Reranking: stages that reorder a ranking by what its first photos show, applied one after another.

``STAGES`` are those that improved accuracy in docs/rerank.md; ``udq search --rerank alpha-qe,diffusion`` runs two,
``--rerank none`` no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from udq.errors import InputError
from udq.search.database import Database
from udq.search.rerank import diffusion, query_expansion, verified_expansion, verify
from udq.search.rerank.ranked import RankedQuery


class Stage(NamedTuple):
    """One way to rerank.

    Attributes:
        apply: takes a ranked query and returns it with another ranking.
        depth: number of first photos that it processes.
    """

    apply: Callable[[RankedQuery], RankedQuery]
    depth: int


STAGES = {
    "average-qe": Stage(query_expansion.average, query_expansion.DEPTH),
    "alpha-qe": Stage(query_expansion.alpha, query_expansion.DEPTH),
    "diffusion": Stage(diffusion.diffuse, diffusion.DEPTH),
    "verify": Stage(verify.verify, verify.DEPTH),
    "verify-mirrored": Stage(partial(verify.verify, mirrored=True), verify.DEPTH),
    "verified-qe": Stage(verified_expansion.expand, verify.DEPTH),
}


DEFAULT = ("verify", "verified-qe", "diffusion")
"""Stages of a search in a collection that stores local features, unless others are named."""


def resolve(names: Sequence[str] | None, database: Database) -> tuple[str, ...]:
    """Return the stages to apply: those that are named, or the default of a collection for None."""
    if names is None:
        return DEFAULT if database.has_points else ()
    return check(names)


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple; raises InputError if one is not the name of a stage."""
    for name in names:
        if name not in STAGES:
            raise InputError(f"rerank: expected some of {', '.join(STAGES)}, found {name!r}")
    return tuple(names)


def depth(names: Sequence[str]) -> int:
    """Return the number of photos that a ranking must have for these stages."""
    return max((STAGES[name].depth for name in names), default=0)


def apply_stages(ranked: RankedQuery, names: Sequence[str]) -> RankedQuery:
    """Rerank by each of the named stages, in this order."""
    for name in names:
        ranked = STAGES[name].apply(ranked)
    return ranked
