"""What marks are worth: a visitor marks results right and wrong, and asks again.

    python benchmarks/decisions/refine_query.py COLLECTION GROUND_TRUTH [--json OUT]

Each query of a benchmark (dataset ``boxes``) is asked once; of its first 20 photos, the visitor marks the first three
that are right and the first three that are not, each with the box that was found, and asks again with these marks.
Photos that were marked are then left out of both rankings: what counts is what the marks did for the rest. A row is a
weight GAMMA of wrong marks (``udq.search.query``); 0 is right marks alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.datasets import REGISTRY, Query
from udq.evaluation import metrics
from udq.search import query as searching
from udq.search.ranking import ranking_by_feature, ranking_by_tables
from udq.types import Features

PAGE, MARKS = 20, 3
GAMMAS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)


@dataclass(frozen=True)
class Marked:
    """A query with what a visitor said of its results.

    Attributes:
        query: its answers.
        own: place of its own photo, which no ranking counts.
        right, wrong: places of the photos that were marked.
        vectors: (1 + right + wrong, d) unit features: of the query's box, then of the marked boxes.
    """

    query: Query
    own: int
    right: list[int]
    wrong: list[int]
    vectors: NDArray[np.float32]


def mark(collection: Collection, query: Query, places: dict[str, int]) -> Marked:
    """Ask a query, and mark its first results."""
    photos, own = collection.images, places[query.image]
    _, feature = collection.extractor.describe(photos[own].path, query.box)
    ranking = ranking_by_feature(collection.database, feature)
    page = [place for place in ranking.order.tolist() if place != own][:PAGE]
    right = [place for place in page if photos[place].name in query.positives][:MARKS]
    wrong = [place for place in page if photos[place].name not in query.positives | query.junk][:MARKS]
    features = [feature]
    for place in [*right, *wrong]:
        features.append(collection.extractor.describe(photos[place].path, ranking.box(place))[1])
    return Marked(query, own, right, wrong, collection.model.head.apply(Features(np.stack(features))).vectors)


def average_precision(
    collection: Collection, marked: Marked, vectors: NDArray[np.float32], wrong: int, gamma: float
) -> float | None:
    """Return the average precision over unmarked photos; None if no right one is left."""
    signs = np.arange(len(vectors)) >= len(vectors) - wrong
    query = searching.combined(vectors, signs, gamma=gamma)
    ranking = ranking_by_tables(collection.database, collection.model.quantizer.lookup_tables(query))
    left_out = {marked.own, *marked.right, *marked.wrong}
    names = [collection.images[place].name for place in ranking.order.tolist() if place not in left_out]
    positives = marked.query.positives & set(names)
    return metrics.average_precision(names, positives, marked.query.junk) if positives else None


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    collection = Collection.open(arguments.collection, device="cpu")
    places = {name: place for place, name in enumerate(collection.names)}
    every = [mark(collection, query, places) for query in REGISTRY["boxes"](arguments.ground_truth).queries]

    def figures(some: list[Marked], name: str, gamma: float) -> float | None:
        rights = {"before": 0, "wrong marks alone": 0}.get(name, MARKS)
        wrongs = {"before": 0, "right marks alone": 0}.get(name, MARKS)
        found = []
        for each in some:
            right, wrong = each.right[:rights], each.wrong[:wrongs]
            first_wrong = 1 + len(each.right)
            rows = [*range(1 + len(right)), *range(first_wrong, first_wrong + len(wrong))]
            found.append(average_precision(collection, each, each.vectors[rows], len(wrong), gamma))
        known = [value for value in found if value is not None]
        return round(float(np.mean(known)), 4) if known else None

    # A first page without errors gives no reason to mark anything.
    hard = [each for each in every if each.wrong]
    rows = []
    for name, gammas in (
        ("before", (0.0,)),
        ("right marks alone", (0.0,)),
        ("wrong marks alone", GAMMAS[1:]),
        ("right and wrong marks", GAMMAS[1:]),
    ):
        for gamma in gammas:
            row = {
                "marks": name,
                "gamma": gamma,
                "mAP_of_the_rest": figures(every, name, gamma),
                "mAP_of_the_rest_where_some_are_wrong": figures(hard, name, gamma),
            }
            rows.append(row)
            print("{mAP_of_the_rest}  {mAP_of_the_rest_where_some_are_wrong}  {marks}, gamma {gamma}".format(**row))
    facts = {
        "setting": {"page": PAGE, "marks": MARKS, "gamma": searching.GAMMA},
        "queries": len(every),
        "queries_where_some_are_wrong": len(hard),
        "right_marks": sum(len(each.right) for each in every),
        "wrong_marks": sum(len(each.wrong) for each in every),
        "rows": rows,
        "provenance": provenance(seed=0),
    }
    print({name: facts[name] for name in facts if name.endswith(("queries", "wrong", "marks"))})
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
