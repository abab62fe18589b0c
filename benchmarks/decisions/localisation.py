"""Where in a photo the object is: mean IoU of the rule, of simpler ones, and of the rule with other constants.

    python benchmarks/decisions/localisation.py DATA [--sets NAME ...] [--cache FOLDER] [--json OUT]

Collections are those of benchmarks/accuracy with the default preset and seed 0, whose features and collections are kept
in --cache. A figure is the mean intersection over union of the reported and the true box over the right photos among
the first 20 of each query, on the development sets that have true boxes. The constants of ``udq.search.localisation``
were chosen on these sets together, so no set is a check of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.measure import Setup, describe, kept, protocol_queries

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.evaluation import benchmark
from udq.evaluation.metrics import intersection_over_union
from udq.evaluation.scoring import TOP
from udq.search import localisation
from udq.search.scan import exhaustive
from udq.types import Box, Features

SETS = ("instre_dev", "instre_dev-2x2", "instre_dev-4x4", "logos_dev", "covers_dev", "paintings_dev", "demo")
_ALL = 10**9
CHANGES: tuple[tuple[str, str, Sequence[float]], ...] = (
    ("_WHOLE", "weight of the whole photo", (3.6, 14.6)),
    ("_LARGE", "quantile for objects of the size of the photo", (0.1, 0.3)),
    ("_SMALL", "quantile for small objects", (0.45,)),
    ("_NEAR", "least IoU with the best supported region", (0.1, 0.3)),
    ("_TEMPERATURE", "T", (0.05, 0.2)),
    ("_HEAVIEST", "regions of which one is the best supported", (_ALL,)),
)
"""Constants of the rule, what they are, and other values."""
# Of the former rule: share of the weight outside each edge, T, and the exponent of the rank.
_QUANTILE, _TEMPERATURE, _RANK = 0.35, 0.1, 0.5

Rule = Callable[[NDArray[np.float32], NDArray[Any], bool], NDArray[Any]]


class Case(NamedTuple):
    """A right photo among the first ``TOP`` of a query.

    Attributes:
        distance: (R,) float32, of each region from the query.
        boxes: (R, 4), of the regions.
        ranked: whether the regions are in the order of the proposer.
        truth: the true box.
    """

    distance: NDArray[np.float32]
    boxes: NDArray[Any]
    ranked: bool
    truth: Box


def cases(found: sets.DevelopmentSet, setup: Setup, collections: Path) -> Iterator[Case]:
    """Yield the right photos with a known box among the first ones of each query of a set."""
    collection, workers = kept(found, setup, collections, seed=0, progress=progress)
    queries, database = protocol_queries(found, collection), collection.database
    vectors = database.model.head.apply(Features(describe(workers, queries, progress))).vectors
    names = [image.name for image in database.images]
    rankings = benchmark.rankings(database, queries, vectors)
    for query, vector, ranking in zip(queries.truth.queries, vectors, rankings, strict=True):
        lookup = database.model.quantizer.lookup_tables(vector)
        for place in ranking.order[:TOP].tolist():
            if names[place] in query.positives and names[place] in query.boxes:
                (photo,) = database.photos([place])
                distance = exhaustive.distances(lookup, photo.codes)
                yield Case(distance, photo.boxes, database.ranked, query.boxes[names[place]])


def best(distance: NDArray[np.float32], boxes: NDArray[Any], ranked: bool) -> NDArray[Any]:
    """Return the box of the nearest region, which ranks the photo (eq. 1)."""
    return boxes[distance.argmin()]


def quantiles(distance: NDArray[np.float32], boxes: NDArray[Any], ranked: bool) -> NDArray[Any]:
    """Return the box of the former rule: the 0.35 quantiles from outside of the edges of all regions."""
    weights = np.exp((float(distance.min()) - distance.astype(np.float64)) / _TEMPERATURE)
    if ranked:
        weights *= (1.0 + np.arange(len(boxes))) ** -_RANK
    order = np.argsort(boxes, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0)
    shares = np.array([_QUANTILE, _QUANTILE, 1 - _QUANTILE, 1 - _QUANTILE])
    return np.take_along_axis(boxes, order, axis=0)[(reached >= shares * reached[-1]).argmax(axis=0), np.arange(4)]


def rule(distance: NDArray[np.float32], boxes: NDArray[Any], ranked: bool) -> NDArray[Any]:
    """Return the box of ``localise``, with its constants as they are now."""
    return localisation.localise(distance[None], boxes, ranked=ranked)[0]


@contextmanager
def changed(name: str, value: float) -> Iterator[None]:
    """Change a constant of the rule for a while."""
    before = getattr(localisation, name)
    setattr(localisation, name, value)
    try:
        yield
    finally:
        setattr(localisation, name, before)


def mean_iou(rule: Rule, some: Sequence[Case]) -> float:
    """Return the mean IoU of the boxes of a rule with the true boxes."""
    return statistics.fmean(
        intersection_over_union(tuple(map(float, rule(case.distance, case.boxes, case.ranked))), case.truth)
        for case in some
    )


def row(name: str, rule: Rule, of_sets: dict[str, list[Case]]) -> dict[str, Any]:
    """Return the figures of a rule: of each set, and their mean."""
    found = {name: round(mean_iou(rule, some), 4) for name, some in of_sets.items()}
    print(f"{name:60} " + "  ".join(f"{value:.3f}" for value in found.values()), flush=True)
    return {
        "rule": name,
        "mean_iou": found,
        "mean": round(statistics.fmean(found.values()), 4),
    }


def rows(of_sets: dict[str, list[Case]]) -> list[dict[str, Any]]:
    """Return the figures of all rules."""
    found = [
        row("the nearest region", best, of_sets),
        row("0.35 quantiles over all regions, the former rule", quantiles, of_sets),
        row("default", rule, of_sets),
    ]
    for constant, title, values in CHANGES:
        usual = getattr(localisation, constant)
        for value in values:
            with changed(constant, value):
                shown = "all" if value == _ALL else f"{value:g}"
                found.append(row(f"{title}: {shown} instead of {usual:g}", rule, of_sets))
    return found


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    loaded = sets.load(given.data, given.sets, given.cache / "sets")
    setup = Setup(IndexConfig(), (), None, None, "cpu", given.cache / "features")
    of_sets = {found.name: list(cases(found, setup, given.cache / "collections")) for found in loaded}
    measured = rows(of_sets)
    if given.json:
        facts = {
            "benchmark": "localisation",
            "top": TOP,
            "smallest": setup.config.images.smallest,
            "sets": {name: {"boxes": len(some), "fitted": True} for name, some in of_sets.items()},
            "rows": measured,
            "provenance": provenance(seed=0),
        }
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
