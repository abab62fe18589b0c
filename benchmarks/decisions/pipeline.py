"""The default pipeline: is it sure of the right photos, and does it help however many there are?

    python benchmarks/decisions/pipeline.py DATA [--sets NAME ...] [--every N] [--cache FOLDER] [--json OUT]

Each set is built by default. ``sure`` says how often a search counts photos as found (confidence of 0.95 or more): with
the object absent, after the query's own photo and every right one are left out, and with all of them but its own photo
present; ``bound`` is the share of right photos that the best threshold for this very set finds with 5 % of false
alarms. ``verified`` has the share of right photos among those with 8 inliers, by the cells of the query's box that have
inliers, for queries with few such photos and for those with a crowd of them. ``positives`` has mAP with 1, 2, 3, 6, 12
and 24 right photos left in the collection, for the ranking by codes and for stages of reranking; few right photos are
drawn three times for each query.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
PAGE = 50
_ALARMS = 0.05


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


class Sureness:
    """How sure a ranking is of photos, over queries.

    Attributes:
        absent: the largest confidence in a photo of the first page, of each query without its right photos.
        present: the confidence in each right photo, of each query.
        precision: share of right photos among those that count as found, of each query that finds any.
    """

    def __init__(self) -> None:
        self.absent: list[float] = []
        self.present: list[list[float]] = []
        self.precision: list[float] = []

    def add(self, absent: RankedQuery, present: RankedQuery, positives: Sequence[int]) -> None:
        """Add a query, ranked without its right photos and with them."""
        self.absent.append(max(map(absent.sureness, _page(absent)), default=0.0))
        self.present.append(list(map(present.sureness, positives)))
        if certain := [place for place in _page(present) if present.sureness(place) >= THRESHOLD]:
            self.precision.append(statistics.fmean(place in positives for place in certain))

    def found(self, threshold: float) -> float:
        """Return the share of right photos of at least this confidence, mean over queries."""
        return statistics.fmean(statistics.fmean(each >= threshold for each in query) for query in self.present)

    def figures(self) -> dict[str, float | None]:
        """Return what ``THRESHOLD`` finds, and what the best threshold for these queries would."""
        return {
            "false_alarms_object_absent": round(statistics.fmean(each >= THRESHOLD for each in self.absent), 4),
            "positives_found": round(self.found(THRESHOLD), 4),
            "bound": round(self.found(threshold(self.absent)), 4),
            "precision_of_found": round(statistics.fmean(self.precision), 4) if self.precision else None,
        }


def _page(ranked: RankedQuery) -> list[int]:
    places: list[int] = ranked.ranking.order[:PAGE].tolist()
    return places


@dataclass(frozen=True)
class Asked:
    """A query of a set, encoded.

    Attributes:
        database: the searched photos.
        vector: (d,) float32, its feature f.
        example: its photo and box.
        out: places of its own photo and of junk, which are left out of every ranking.
        positives: places of the right photos.
    """

    database: Database
    vector: NDArray[np.float32]
    example: Example
    out: list[int]
    positives: list[int]

    def rankings(self, without: Sequence[int] = ()) -> Rankings:
        """Return the rankings of the other photos, without those at some places too."""
        return Rankings(self.database, self.vector, self.example, [*self.out, *without])


def ask(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> Iterator[Asked]:
    """Yield every n-th query of a set, of the collection that is built by default."""
    collection, workers = kept(found, setup, folder, seed=0, progress=progress)
    queries = protocol_queries(found, collection)
    features = describe(workers, queries, progress)
    database = collection.database
    vectors = database.model.head.apply(Features(features)).vectors
    places = {name: place for place, name in enumerate(collection.names)}
    rows = range(0, len(vectors), every)
    with progress("queries", len(rows)) as step:
        for row in rows:
            query = queries.truth.queries[row]
            out = sorted(places[name] for name in {query.image} | query.junk if name in places)
            positives = sorted(places[name] for name in query.positives - {query.image} if name in places)
            yield Asked(database, vectors[row], Example(queries.paths[query.image], queries.boxes[row]), out, positives)
            step()


def threshold(absent: Sequence[float]) -> float:
    """Return the threshold beyond which 5 % of the queries without right photos find something.

    Args:
        absent: the largest value of a photo of the first page, of each query without its right photos.
    """
    return sorted(absent, reverse=True)[int(_ALARMS * len(absent))] + 1e-9


def few(asked: Asked, rng: np.random.Generator) -> Iterator[tuple[int, str, float]]:
    """Yield the number of right photos that are left, the name of a ranking and its average precision."""
    for count in COUNTS:
        if count > len(asked.positives):
            return
        for _ in range(_DRAWS if count <= _FEW else 1):
            left = set(rng.permutation(asked.positives)[:count].tolist())
            rankings = asked.rankings([place for place in asked.positives if place not in left])
            for name, stages in STAGES.items():
                order = [str(place) for place in rankings.after(stages).ranking.order.tolist()]
                yield count, name, metrics.average_precision(order, {str(place) for place in left})


def measure(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> dict[str, Any]:
    """Return the figures of one set."""
    rng = np.random.default_rng(_SEED)
    photos = queries = 0
    sure = {"codes": Sureness(), "default": Sureness()}
    verified: dict[str, list[list[bool]]] = {name: [[] for _ in CELLS[1:]] for name in ("few", "crowd")}
    scores: dict[int, dict[str, list[float]]] = {count: {name: [] for name in STAGES} for count in COUNTS}
    for asked in ask(found, setup, folder, every):
        photos, queries = len(asked.database), queries + 1
        none, every_one = asked.rankings(asked.positives), asked.rankings()
        for name, each in sure.items():
            each.add(none.after(STAGES[name]), every_one.after(STAGES[name]), asked.positives)
        for place, photo in every_one.after(STAGES["default"]).ranking.verified.items():
            if photo.verification.inliers >= verify.SURE:
                cells = int(np.digitize(round(36 * photo.verification.coverage), CELLS)) - 1
                verified["crowd" if photo.crowd > _CROWD else "few"][cells].append(place in asked.positives)
        for count, name, average in few(asked, rng):
            scores[count][name].append(average)
    return {
        "photos": photos,
        "queries": queries,
        "sure": {name: each.figures() for name, each in sure.items()},
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
