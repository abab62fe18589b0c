"""What marks are worth: a visitor marks results right and wrong, and asks again.

    python benchmarks/decisions/refine_query.py DATA [--sets NAME ...] [--every N] [--cache FOLDER] [--json OUT]

Each set is built by default. A query is asked once; of its first 20 photos by codes, the visitor marks the first three
that are right and the first three that are not, each with the box that was found, and asks again with these marks.
Photos that were marked are then left out of both rankings: what counts is what the marks did for the rest. A row is a
weight GAMMA of wrong marks (``udq.search.query``); 0 is right marks alone.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import per_set
from accuracy.measure import Setup, kept, protocol_queries
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.collection import Collection
from udq.datasets import Query
from udq.evaluation import metrics
from udq.search import query as searching
from udq.search.ranking import ranking_by_feature, ranking_by_tables
from udq.types import Box, Features

SETS = "instre_dev", "landmarks", "logos_dev", "covers_dev", "packages_dev"  # a painting is in one or two photos
PAGE, MARKS = 20, 3
GAMMAS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
ROWS = (
    ("before", 0, 0, (0.0,)),
    ("right marks alone", MARKS, 0, (0.0,)),
    ("wrong marks alone", 0, MARKS, GAMMAS),
    ("right and wrong marks", MARKS, MARKS, GAMMAS),
)
"""Name, right and wrong marks that are used, weights of wrong ones."""


@dataclass(frozen=True)
class Marked:
    """A query with what a visitor said of its results.

    Attributes:
        query: its answers.
        own: place of its own photo, which no ranking counts; none if it is not in the collection.
        right, wrong: places of the photos that were marked.
        vectors: (1 + right + wrong, d) unit features: of the query's box, then of the marked boxes.
    """

    query: Query
    own: list[int]
    right: list[int]
    wrong: list[int]
    vectors: NDArray[np.float32]


def mark(collection: Collection, query: Query, photo: Path, box: Box | None, places: dict[str, int]) -> Marked:
    """Ask a query, and mark its first results."""
    photos = collection.images
    own = [places[query.image]] if query.image in places else []
    _, feature = collection.extractor.describe(photo, box)
    ranking = ranking_by_feature(collection.database, feature)
    page = [place for place in ranking.order.tolist() if place not in own][:PAGE]
    right = [place for place in page if photos[place].name in query.positives][:MARKS]
    wrong = [place for place in page if photos[place].name not in query.positives | query.junk][:MARKS]
    features = [feature]
    for place in [*right, *wrong]:
        features.append(collection.extractor.describe(photos[place].path, ranking.box(place))[1])
    return Marked(query, own, right, wrong, collection.model.head.apply(Features(np.stack(features))).vectors)


def average_precision(collection: Collection, marked: Marked, right: int, wrong: int, gamma: float) -> float | None:
    """Return the average precision over unmarked photos with so many marks; None if no right photo is left."""
    after_right = 1 + len(marked.right)
    vectors = np.concatenate([marked.vectors[:after_right][: 1 + right], marked.vectors[after_right:][:wrong]])
    signs = np.arange(len(vectors)) >= min(1 + right, after_right)
    query = searching.combined(vectors, signs, gamma=gamma)
    ranking = ranking_by_tables(collection.database, collection.model.quantizer.lookup_tables(query))
    left_out = {*marked.own, *marked.right, *marked.wrong}
    names = [collection.images[place].name for place in ranking.order.tolist() if place not in left_out]
    positives = marked.query.positives & set(names)
    return metrics.average_precision(names, positives, marked.query.junk) if positives else None


def measure(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> dict[str, Any]:
    """Return the figures of one set."""
    collection, _ = kept(found, setup, folder, seed=0, progress=progress)
    queries = protocol_queries(found, collection)
    places = {name: place for place, name in enumerate(collection.names)}
    marked = []
    asked = range(0, len(queries.boxes), every)
    with progress("marking", len(asked)) as step:
        for row in asked:
            query = queries.truth.queries[row]
            marked.append(mark(collection, query, queries.paths[query.image], queries.boxes[row], places))
            step()
    # A first page without errors gives no reason to mark anything.
    hard = [each for each in marked if each.wrong]

    def mean(some: list[Marked], right: int, wrong: int, gamma: float) -> float | None:
        values = [average_precision(collection, each, right, wrong, gamma) for each in some]
        known = [value for value in values if value is not None]
        return round(statistics.fmean(known), 4) if known else None

    return {
        "queries": len(marked),
        "queries_where_some_are_wrong": len(hard),
        "right_marks": sum(len(each.right) for each in marked),
        "wrong_marks": sum(len(each.wrong) for each in marked),
        "rows": [
            {
                "marks": name,
                "gamma": gamma,
                "mAP_of_the_rest": mean(marked, right, wrong, gamma),
                "mAP_of_the_rest_where_some_are_wrong": mean(hard, right, wrong, gamma),
            }
            for name, right, wrong, gammas in ROWS
            for gamma in gammas
        ],
    }


def main() -> None:
    """Print figures of each set; write JSON where asked."""
    setting = {"page": PAGE, "marks": MARKS, "gamma": searching.GAMMA}
    per_set.run(__doc__, SETS, measure, every=2, facts={"setting": setting})


if __name__ == "__main__":
    main()
