"""The default pipeline: is it sure of the right photos, and does it help however many there are?

    python benchmarks/decisions/pipeline.py DATA [--sets NAME ...] [--every N] [--cache FOLDER] [--json OUT]

Each set is built by default. ``sure`` says how often a search counts photos as found (confidence of 0.95 or more): with
the object absent, after the query's own photo and every right one are left out, and with all of them but its own photo
present. ``verified`` has the share of right photos among those with 8 inliers, by the cells of the query's box that
have inliers, for queries with few such photos and for those with a crowd of them. ``positives`` has mAP with 1, 2, 3,
6, 12 and 24 right photos left in the collection, for the ranking by codes and for stages of reranking; few right photos
are drawn three times for each query.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import per_set
from accuracy.measure import Setup, describe, kept, protocol_queries
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.evaluation import metrics
from udq.search import rerank
from udq.search.confidence import THRESHOLD
from udq.search.database import Database
from udq.search.rerank import verify
from udq.search.rerank.ranked import RankedQuery
from udq.types import Example, Features

SETS = ("instre_dev", "landmarks", "logos_dev", "covers_dev", "paintings_dev", "packages_dev")
COUNTS = (1, 2, 3, 6, 12, 24)
STAGES: dict[str, tuple[str, ...]] = {
    "codes": (),
    "alpha-qe": ("alpha-qe",),
    "diffusion": ("diffusion",),
    "verify": ("verify",),
    "verified-qe": ("verify", "verified-qe"),
    "default": rerank.DEFAULT,
}
_SEED = 5
_FEW, _DRAWS = 3, 3
"""How often up to so many right photos are drawn."""
CELLS = (0, 6, 9, 12, 15, 18, 37)
"""Borders of the numbers of cells that precision is measured at."""
_CROWD = 20
"""Photos with 8 inliers beyond which they are a crowd."""


class Rankings:
    """Rankings of all photos but some by one query, after each stage; what several have in common is applied once."""

    def __init__(self, database: Database, vector: Any, example: Example, without: Sequence[int]) -> None:
        """Rank by codes."""
        plain = RankedQuery.search(database, vector, wanted=None, without=tuple(without), examples=(example,))
        self._ranked: dict[tuple[str, ...], RankedQuery] = {(): plain}

    def after(self, stages: tuple[str, ...]) -> RankedQuery:
        """Return the ranking after some stages."""
        if stages not in self._ranked:
            self._ranked[stages] = rerank.apply_stages(self.after(stages[:-1]), stages[-1:])
        return self._ranked[stages]


def sure(ranked: RankedQuery, places: Sequence[int]) -> list[bool]:
    """Whether each of some photos counts as found."""
    return [ranked.sureness(place) >= THRESHOLD for place in places]


def few(
    database: Database,
    vector: Any,
    example: Example,
    without: Sequence[int],
    positives: Sequence[int],
    rng: np.random.Generator,
) -> Iterator[tuple[int, str, float]]:
    """Yield the number of right photos that are left, the name of a ranking and its average precision."""
    for count in COUNTS:
        if count > len(positives):
            return
        for _ in range(_DRAWS if count <= _FEW else 1):
            left = set(rng.permutation(positives)[:count].tolist())
            gone = [place for place in positives if place not in left]
            rankings = Rankings(database, vector, example, [*without, *gone])
            for name, stages in STAGES.items():
                order = [str(place) for place in rankings.after(stages).ranking.order.tolist()]
                yield count, name, metrics.average_precision(order, {str(place) for place in left})


def measure(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> dict[str, Any]:
    """Return the figures of one set."""
    collection, workers = kept(found, setup, folder, seed=0, progress=progress)
    queries = protocol_queries(found, collection)
    features = describe(workers, queries, progress)
    database = collection.database
    vectors = database.model.head.apply(Features(features)).vectors
    places = {name: place for place, name in enumerate(collection.names)}
    rng = np.random.default_rng(_SEED)
    alarms: dict[str, list[bool]] = {"codes": [], "default": []}
    shares: dict[str, list[float]] = {"codes": [], "default": []}
    precision: dict[str, list[float]] = {"codes": [], "default": []}
    verified: dict[str, list[list[bool]]] = {name: [[] for _ in CELLS[1:]] for name in ("few", "crowd")}
    scores: dict[int, dict[str, list[float]]] = {count: {name: [] for name in STAGES} for count in COUNTS}
    rows = range(0, len(vectors), every)
    with progress("queries", len(rows)) as step:
        for row in rows:
            query, vector = queries.truth.queries[row], vectors[row]
            example = Example(queries.paths[query.image], queries.boxes[row])
            own = [places[query.image]] if query.image in places else []
            junk = [places[name] for name in query.junk if name in places]
            positives = sorted(places[name] for name in query.positives if name in places and places[name] not in own)
            none = Rankings(database, vector, example, [*own, *junk, *positives])
            every_one = Rankings(database, vector, example, [*own, *junk])
            for name in alarms:
                absent = none.after(STAGES[name])
                alarms[name].append(any(sure(absent, absent.ranking.order[:50].tolist())))
                present = every_one.after(STAGES[name])
                shares[name].append(statistics.fmean(sure(present, positives)))
                for place, each in present.ranking.verified.items():
                    if each.verification.inliers >= verify.SURE:
                        cells = int(np.digitize(round(36 * each.verification.coverage), CELLS)) - 1
                        verified["crowd" if each.crowd > _CROWD else "few"][cells].append(place in positives)
                first = present.ranking.order[:50].tolist()
                certain = [place for place, is_sure in zip(first, sure(present, first), strict=True) if is_sure]
                if certain:
                    precision[name].append(statistics.fmean(place in positives for place in certain))
            for count, name, average in few(database, vector, example, [*own, *junk], positives, rng):
                scores[count][name].append(average)
            step()
    return {
        "photos": len(places),
        "queries": len(rows),
        "sure": {
            name: {
                "false_alarms_object_absent": round(statistics.fmean(alarms[name]), 4),
                "positives_found": round(statistics.fmean(shares[name]), 4),
                "precision_of_found": round(statistics.fmean(precision[name]), 4) if precision[name] else None,
            }
            for name in alarms
        },
        "verified": {
            name: {
                f"{least} to {end - 1}": {"photos": len(right), "right": round(statistics.fmean(right), 4)}
                for least, end, right in zip(CELLS, CELLS[1:], by_cells, strict=False)
                if right
            }
            for name, by_cells in verified.items()
        },
        "positives": {
            str(count): {"queries": len(each["codes"]) // (_DRAWS if count <= _FEW else 1)}
            | {name: round(statistics.fmean(values), 4) for name, values in each.items()}
            for count, each in scores.items()
            if each["codes"]
        },
    }


def main() -> None:
    """Print figures of each set; write JSON where asked."""
    per_set.run(__doc__, SETS, measure, every=4, facts={}, seed=_SEED)


if __name__ == "__main__":
    main()
