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
from accuracy.measure import Setup
from pipeline import PAGE, SETS, STAGES, Asked, ask, threshold

from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import preset
from udq.search.rerank.ranked import RankedQuery

CLASSIFIERS: dict[str, Any] = {
    "trees": lambda: HistGradientBoostingClassifier(max_depth=4, max_iter=80, random_state=0),
    "logistic regression": lambda: LogisticRegression(max_iter=2000),
}
_RANK, _CELLS = 400, 30
"""Ranks (and crowds) and cells beyond these are the same to a classifier."""


@dataclass(frozen=True)
class Known:
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


def known(asked: Asked) -> Known:
    """Return the signals of a query."""
    none, every_one = asked.rankings(asked.positives), asked.rankings()
    absent, present = (each.after(STAGES["default"]) for each in (none, every_one))
    page = present.ranking.order[:PAGE].tolist()
    return Known(
        signals(none.after(()), absent, absent.ranking.order[:PAGE].tolist()),
        signals(every_one.after(()), present, page),
        np.isin(page, asked.positives),
        signals(every_one.after(()), present, asked.positives),
    )


def fit(classifier: Any, by_set: list[list[Known]]) -> Any:
    """Return a classifier fitted to sets, each query of which counts the same and each set too."""
    inputs, right, weights = [], [], []
    for queries in by_set:
        for each in queries:
            inputs += [each.absent, each.present]
            right += [np.zeros(len(each.absent), np.bool_), each.right]
            weights.append(np.full(len(each.absent) + len(each.present), 1 / len(queries)))
    return classifier.fit(np.concatenate(inputs), np.concatenate(right), sample_weight=np.concatenate(weights))


def alarms(fitted: Any, queries: list[Known]) -> list[float]:
    """Return the largest probability of each query without its right photos."""
    return [float(fitted.predict_proba(each.absent)[:, 1].max()) for each in queries]


def figures(fitted: Any, queries: list[Known], least: float) -> dict[str, float]:
    """Return false alarms and found photos."""
    shares = [(fitted.predict_proba(each.positives)[:, 1] >= least).mean() for each in queries]
    return {
        "false_alarms_object_absent": round(statistics.fmean(each >= least for each in alarms(fitted, queries)), 4),
        "positives_found": round(float(np.mean(shares)), 4),
    }


def judge(asked: dict[str, list[Known]]) -> dict[str, Any]:
    """Return the figures of each set and classifier."""
    judged: dict[str, Any] = {}
    for name, queries in asked.items():
        judged[name] = {"queries": len(queries)}
        others = [each for other, each in asked.items() if other != name]
        for title, classifier in CLASSIFIERS.items():
            own = fit(classifier(), [queries])
            judged[name][title] = {"own": figures(own, queries, threshold(alarms(own, queries)))}
            if others:
                fitted = fit(classifier(), others)
                least = statistics.median(threshold(alarms(fitted, each)) for each in others)
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
            found.name: [known(each) for each in ask(found, setup, given.cache / "collections", given.every)]
            for found in sets.load(given.data, given.sets, given.cache / "sets")
        }
    judged = judge(asked)
    print(json.dumps(judged, indent=1))
    if given.json:
        facts = {"every": given.every, "sets": judged, "provenance": provenance(seed=0)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
