"""At which scales a query is seen, and what the surroundings of its box would bring: mAP of each choice.

    python benchmarks/decisions/views.py DATA [--sets NAME ...] [--queries N] [--cache FOLDER] [--json OUT]

Collections are those of benchmarks/accuracy with the default preset and seed 0, whose features and collections are kept
in --cache; they are built once, because photos do not depend on the choice. Only the queries are described again. The
last row enlarges each box by a tenth of its width and height on every side, within the photo. The protocol of object
instance search forbids that: the row says what it would bring, and is not an option of udq. Queries without a box, as
those of landmarks, are the same in all rows. With --queries, only some of a set's queries are measured, at equal steps
over its ground truth. JSON is written after each set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.measure import Setup, kept, protocol_queries, summary_of

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.evaluation.benchmark import ProtocolQueries
from udq.features import extractor as extraction
from udq.features.extractor import Extractor
from udq.photos.decoding import shown_size
from udq.types import Box


class Choice(NamedTuple):
    """How queries are seen.

    Attributes:
        name: for the table.
        views: ``images.query_views``.
        side: ``QUERY_SIDE``, in pixels.
        margin: that a box is enlarged by on every side, as a share of its width and height.
    """

    name: str
    views: int
    side: int
    margin: float = 0.0


CHOICES = (
    Choice("at the scale of its photo", 0, 192),
    Choice("192", 1, 192),
    Choice("192 and 384: default", 2, 192),
    Choice("192, 384 and 768", 3, 192),
    Choice("128 and 256", 2, 128),
    Choice("256 and 512", 2, 256),
    Choice("192 and 384, with a margin of 10 % round the box", 2, 192, margin=0.1),
)
NAMES = tuple(name for name in sets.NAMES if name != sets.COMPOSITES)


def some_queries(found: sets.DevelopmentSet, most: int) -> sets.DevelopmentSet:
    """Return a set with at most this number of its queries, at equal steps over them."""
    queries = found.truth.queries
    kept_ones = [queries[i] for i in np.linspace(0, len(queries) - 1, min(most, len(queries))).round().astype(int)]
    return replace(found, truth=replace(found.truth, queries=type(queries)(kept_ones)))


@contextmanager
def query_side(side: int) -> Iterator[None]:
    """Change the scale of a query's first view for a while."""
    before = extraction.QUERY_SIDE
    extraction.QUERY_SIDE = side
    try:
        yield
    finally:
        extraction.QUERY_SIDE = before


def enlarged(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """Return a box enlarged by a share of its width and height on every side, within a photo of a size in pixels."""
    x, y = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    return max(0.0, box[0] - x), max(0.0, box[1] - y), min(size[0], box[2] + x), min(size[1], box[3] + y)


def described(extractor: Extractor, queries: ProtocolQueries, choice: Choice) -> tuple[NDArray[np.float32], float]:
    """Return the pooled features (Q, D) of queries, and the median milliseconds that one took."""
    features, took = [], []
    with query_side(choice.side), progress(choice.name, len(queries.boxes)) as step:
        for query, box in zip(queries.truth.queries, queries.boxes, strict=True):
            path = queries.paths[query.image]
            seen = enlarged(box, choice.margin, shown_size(path)) if box and choice.margin else box
            started = time.perf_counter()
            features.append(extractor.describe(path, seen)[1])
            took.append(1e3 * (time.perf_counter() - started))
            step()
    return np.stack(features), round(statistics.median(took), 1)


def measure(found: sets.DevelopmentSet, extractors: dict[int, Extractor], cache: Path) -> dict[str, dict[str, Any]]:
    """Return ``mAP`` and ``milliseconds`` of each choice on a set."""
    setup = Setup(IndexConfig(), (), None, None, "cpu", cache / "features")
    collection, _ = kept(found, setup, cache / "collections", seed=0, progress=progress)
    queries = protocol_queries(found, collection)
    rows = {}
    for choice in CHOICES:
        features, milliseconds = described(extractors[choice.views], queries, choice)
        rows[choice.name] = {"mAP": round(summary_of(collection, queries, features)["mAP"], 4), "ms": milliseconds}
        print(f"{found.name:16} {choice.name:50} mAP {rows[choice.name]['mAP']:.4f}  {milliseconds:.0f} ms", flush=True)
    return rows


def write(
    file: Path, measured: dict[str, dict[str, dict[str, Any]]], boxed: Sequence[str], counts: dict[str, int]
) -> None:
    """Write the figures of the sets so far, and the numbers of their queries."""
    rows = []
    for choice in CHOICES:
        of_choice = {name: rows[choice.name] for name, rows in measured.items()}
        rows.append(
            choice._asdict()
            | {
                "mAP": {name: each["mAP"] for name, each in of_choice.items()},
                "mean": round(statistics.fmean(each["mAP"] for each in of_choice.values()), 4),
                "milliseconds": statistics.median(of_choice[name]["ms"] for name in boxed) if boxed else None,
            }
        )
    of_sets = {name: {"queries": counts[name]} for name in measured}
    facts = {"benchmark": "views", "sets": of_sets, "rows": rows, "provenance": provenance(seed=0)}
    file.write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """Print figures; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("--sets", nargs="+", default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--queries", type=int, default=10**9, metavar="N", help="of a set, at most; default: all")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    extractors = {}
    for views in sorted({choice.views for choice in CHOICES}):
        config = IndexConfig().replace({"images": {"query_views": views}})
        extractors[views] = Extractor(config.images, config.features, device="cpu")
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    boxed = []
    for whole in sets.load(given.data, given.sets, given.cache / "sets"):
        found = some_queries(whole, given.queries)
        counts[found.name] = len(found.truth.queries)
        measured[found.name] = measure(found, extractors, given.cache)
        boxed += [found.name] * any(query.box for query in found.truth.queries)
        if given.json:
            write(given.json, measured, boxed, counts)


if __name__ == "__main__":
    main()
