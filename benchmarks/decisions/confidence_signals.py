"""Whether a classifier would be surer than the confidence: python benchmarks/decisions/confidence_signals.py DATA.

    python benchmarks/decisions/confidence_signals.py DATA [--sets NAME ...] [--every N] [--cache FOLDER] [--json OUT]

Each set is built by default and searched as in pipeline.py, without the right photos of a query and with them. What is
known without labels about each photo of the first page (confidence and E-value by the codes, inliers and cells of the
verification, crowd, ranks) is the input of gradient-boosted trees and of a logistic regression. ``own`` is the share of
right photos that they find on the set that they were fitted to, at the threshold with 5 % of false alarms there: a
bound, since they have seen the answers. ``others`` is fitted to the other sets, with the median of their thresholds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.measure import Setup, describe, kept, protocol_queries
from accuracy.sets import DevelopmentSet
from pipeline import ALARMS, PAGE, SETS, STAGES, Rankings

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import preset
from udq.search.rerank.ranked import RankedQuery
from udq.types import Example, Features

CLASSIFIERS: dict[str, Any] = {
    "trees": lambda: HistGradientBoostingClassifier(max_depth=4, max_iter=80, random_state=0),
    "logistic regression": lambda: LogisticRegression(max_iter=2000),
}
_RANK, _CELLS = 400, 30
"""Ranks and cells beyond these are the same to a classifier."""


@dataclass(frozen=True)
class Asked:
    """The signals of a query.

    Attributes:
        absent: (n, f), of the first page without right photos.
        present: (m, f), of the first page with them.
        right: (m,) bool, which of these are right.
        positives: (p, f), of all right photos.
    """

    absent: NDArray[np.float64]
    present: NDArray[np.float64]
    right: NDArray[np.bool_]
    positives: NDArray[np.float64]


def signals(codes: RankedQuery, ranked: RankedQuery, places: list[int]) -> NDArray[np.float64]:
    """Return what is known about photos (n, f) by a ranking by codes and that of the default pipeline."""
    expected = codes.database.calibration.expected(codes.lookup, codes.ranking.distance[places])
    rank = {place: i for i, place in enumerate(codes.ranking.order.tolist())}
    then = {place: i for i, place in enumerate(ranked.ranking.order.tolist())}
    crowd = max((each.crowd for each in ranked.ranking.verified.values()), default=0)
    rows = []
    for place, chance in zip(places, expected.tolist(), strict=True):
        sure = min(max(codes.confidence(place), 1e-4), 1 - 1e-4)
        found = ranked.ranking.verified.get(place)
        cells = 0.0 if found is None else 36 * found.verification.coverage
        inliers = 0 if found is None else found.verification.inliers
        ranks = (min(order.get(place, _RANK), _RANK) for order in (rank, then))
        by_codes = np.log(sure / (1 - sure)), np.log(max(chance, 1e-300))
        verified = found is not None, min(cells, _CELLS), np.log1p(inliers), min(crowd, _RANK)
        rows.append([*by_codes, *verified, *map(np.log1p, ranks)])
    return np.array(rows, np.float64).reshape(len(rows), 8)


def ask(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> list[Asked]:
    """Return the signals of the queries of a set."""
    collection, workers = kept(found, setup, folder, seed=0, progress=progress)
    queries = protocol_queries(found, collection)
    vectors = collection.model.head.apply(Features(describe(workers, queries, progress))).vectors
    places = {name: place for place, name in enumerate(collection.names)}
    asked = []
    for row in range(0, len(vectors), every):
        query = queries.truth.queries[row]
        example = Example(queries.paths[query.image], queries.boxes[row])
        out = [places[name] for name in {query.image} | query.junk if name in places]
        positives = sorted(places[name] for name in query.positives if name in places and places[name] not in out)
        none = Rankings(collection.database, vectors[row], example, [*out, *positives])
        every_one = Rankings(collection.database, vectors[row], example, out)
        first, present = (each.after(STAGES["default"]) for each in (none, every_one))
        page = present.ranking.order[:PAGE].tolist()
        asked.append(
            Asked(
                signals(none.after(()), first, first.ranking.order[:PAGE].tolist()),
                signals(every_one.after(()), present, page),
                np.isin(page, positives),
                signals(every_one.after(()), present, positives),
            )
        )
    return asked


def fit(classifier: Any, known: list[list[Asked]]) -> Any:
    """Return a classifier fitted to sets, each query of which counts the same and each set too."""
    inputs, right, weights = [], [], []
    for queries in known:
        for asked in queries:
            inputs += [asked.absent, asked.present]
            right += [np.zeros(len(asked.absent), np.bool_), asked.right]
            weights.append(np.full(len(asked.absent) + len(asked.present), 1 / len(queries)))
    return classifier.fit(np.concatenate(inputs), np.concatenate(right), sample_weight=np.concatenate(weights))


def alarms(fitted: Any, queries: list[Asked]) -> NDArray[np.float64]:
    """Return the largest probability (n,) of each query without its right photos."""
    return np.array([fitted.predict_proba(asked.absent)[:, 1].max() for asked in queries])


def threshold(fitted: Any, queries: list[Asked]) -> float:
    """Return the threshold beyond which 5 % of the queries without right photos find something."""
    return float(np.sort(alarms(fitted, queries))[::-1][int(ALARMS * len(queries))]) + 1e-9


def figures(fitted: Any, queries: list[Asked], least: float) -> dict[str, float]:
    """Return false alarms and found photos."""
    shares = [(fitted.predict_proba(asked.positives)[:, 1] >= least).mean() for asked in queries]
    return {
        "false_alarms_object_absent": round(float((alarms(fitted, queries) >= least).mean()), 4),
        "positives_found": round(float(np.mean(shares)), 4),
    }


def judge(asked: dict[str, list[Asked]]) -> dict[str, Any]:
    """Return the figures of each set and classifier."""
    judged: dict[str, Any] = {}
    for name, queries in asked.items():
        judged[name] = {"queries": len(queries)}
        others = [each for other, each in asked.items() if other != name]
        for title, classifier in CLASSIFIERS.items():
            own = fit(classifier(), [queries])
            judged[name][title] = {"own": figures(own, queries, threshold(own, queries))}
            if others:
                fitted = fit(classifier(), others)
                least = statistics.median(threshold(fitted, each) for each in others)
                judged[name][title]["others"] = figures(fitted, queries, least)
    return judged


def main() -> None:
    """Print figures of each set; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME")
    parser.add_argument("--every", type=int, default=2, metavar="N", help="every N-th query; default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    setup = Setup(preset("default"), None, None, None, "cpu", given.cache / "features")
    with one_core_each():
        asked = {
            found.name: ask(found, setup, given.cache / "collections", given.every)
            for found in sets.load(given.data, given.sets, given.cache / "sets")
        }
    judged = judge(asked)
    print(json.dumps(judged, indent=1))
    if given.json:
        facts = {"every": given.every, "sets": judged, "provenance": provenance(seed=0)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
