"""What post-processing is worth, and what it costs: stages of ``--rerank`` beside the plain ranking.

    python benchmarks/decisions/rerank.py --collection NAME PATH GROUND_TRUTH... [--json OUT]

Each query of a benchmark (dataset ``boxes``) is ranked plainly and by each stage, its own photo left out. That is done
with all of its right photos and with FEW and FEWER of them, drawn separately for each query, in the collection: the
neighbours of an object that few photos show are other things, and what is tuned to the one case harms the other.
Milliseconds are medians over queries of the stages alone, of the 20 first photos, with one thread; "none" is the scan.
Rows with "verify" are of every fourth query, beside the plain ranking of the same ones.

Two tables beside it say how much the neighbours of diffusion matter, and what is not built: database-side augmentation,
which replaces each feature by the weighted mean of itself and its nearest in other photos before it is encoded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.datasets import REGISTRY, Query
from udq.evaluation import scoring
from udq.search import confidence, rerank
from udq.search.ranking import Ranking
from udq.search.rerank import diffusion, query_expansion
from udq.search.rerank.ranked import RankedQuery
from udq.search.scan import exhaustive
from udq.training import refinement
from udq.types import Codes, Example, Features

FEW, FEWER = 6, 2
WANTED = 20
# Queries that stages of a second a query are timed by.
TIMED = 10
# Stages that take a second per query rank one in this many queries, beside the plain ranking of the same.
EACH = 4
ROWS: tuple[tuple[str, ...], ...] = (
    (),
    ("average-qe",),
    ("alpha-qe",),
    ("diffusion",),
    ("alpha-qe", "diffusion"),
    ("verify",),
    ("diffusion", "verify"),
)
NEIGHBOURS = (5, 10, 20, 50)
DEPTHS = (5, 10, 20)
AUGMENTED = ((2, 3.0), (2, 6.0), (5, 6.0))


@dataclass(frozen=True)
class Asked:
    """A query of the benchmark.

    Attributes:
        query: its answers, some perhaps taken from the collection.
        vector: (d,) its feature f.
        examples: its photo and box.
        without: places of photos that no ranking holds.
    """

    query: Query
    vector: NDArray[np.float32]
    without: tuple[int, ...]
    examples: tuple[Example, ...]


def ask(collection: Collection, queries: Sequence[Query]) -> list[Asked]:
    """Encode the queries of a benchmark."""
    places = {name: place for place, name in enumerate(collection.names)}
    photos = collection.images
    asked = []
    for query in queries:
        own = places[query.image]
        feature = collection.extractor.describe(photos[own].path, query.box)[1]
        vector = collection.model.head.apply(Features(feature[None])).vectors[0]
        asked.append(Asked(query, vector, (own,), (Example(photos[own].path, query.box),)))
    return asked


def with_few(asked: Sequence[Asked], names: Sequence[str], count: int) -> list[Asked]:
    """Keep ``count`` right photos of each query, drawn at random, and remove the others from the collection."""
    rng = np.random.default_rng(0)
    places = {name: place for place, name in enumerate(names)}
    found = []
    for each in asked:
        positives = sorted(each.query.positives - {each.query.image} & set(places))
        kept = {positives[i] for i in rng.permutation(len(positives))[:count].tolist()}
        gone = tuple(places[name] for name in positives if name not in kept and name in places)
        query = replace(each.query, positives=frozenset(kept))
        found.append(replace(each, query=query, without=(*each.without, *gone)))
    return found


def measure(
    collection: Collection, asked: Sequence[Asked], stage: Callable[[RankedQuery], RankedQuery]
) -> dict[str, Any]:
    """Rank every query and return the means."""
    names = collection.names
    ids = {name: place for place, name in enumerate(names)}
    photos = collection.images
    outcomes = []
    for each in asked:
        ranked = RankedQuery.search(
            collection.database, each.vector, wanted=None, without=each.without, examples=each.examples
        )
        ranking = stage(ranked).ranking
        outcomes.append(
            scoring.score(each.query, photos[ids[each.query.image]].path, ranking, names, ids, keep_query=False)
        )
    means = scoring.summary(outcomes)
    return {
        **{name: round(means[name], 4) for name in ("mAP", "mP@5", "mP@10")},
        "iou_of_the_first_20": means["localisation"]["top_20"]["mean_iou"],
    }


def milliseconds(collection: Collection, asked: Sequence[Asked], names: Sequence[str]) -> float:
    """Return the median time of stages; of the scan if there are no stages."""
    taken = []
    wanted = max(WANTED, rerank.depth(names), confidence.DEPTH)
    collection.database.calibration.photos  # noqa: B018  learned once
    with threadpool_limits(1):
        for each in asked:
            given = {"without": each.without, "examples": each.examples}
            started = time.perf_counter()
            ranked = RankedQuery.search(collection.database, each.vector, wanted=wanted, **given)
            scanned = time.perf_counter()
            rerank.apply_stages(ranked, names)
            taken.append(time.perf_counter() - scanned if names else scanned - started)
    return round(1e3 * float(np.median(taken)), 2)


def reordered(ranked: RankedQuery, neighbours: int) -> RankedQuery:
    """Diffusion with a constant number of neighbours, also without sure matches."""
    regions = ranked.best_regions(ranked.stacks(diffusion.DEPTH))
    flow = diffusion.diffusion_scores(ranked.query, regions, neighbours=neighbours)
    return ranked.reordered(np.argsort(-flow, kind="stable"))


def expanded(ranked: RankedQuery, depth: int, alpha: float, least: float = confidence.THRESHOLD) -> RankedQuery:
    """Query expansion by another number of photos, those of at least a confidence."""
    first = [stack for stack in ranked.stacks(depth) if ranked.confidence(stack.places[0]) >= least]
    return ranked.search_again(query_expansion.expanded(ranked.query, ranked.best_regions(first), alpha))


def augmented(collection: Collection, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return the mean average precision with augmented codes, scanned as one part."""
    quantizer = collection.model.quantizer
    living = [(segment, row) for segment in collection.segments for row in segment.living.tolist()]
    codes = [segment.codes[segment.offsets[row] : segment.offsets[row + 1]] for segment, row in living]
    offsets = np.cumsum([0, *map(len, codes)])
    owner = np.repeat(np.arange(len(codes)), np.diff(offsets))
    features = quantizer.reconstruct(Codes(np.concatenate(codes), quantizer.codewords)).unit()
    nearest = refinement.neighbours(features, owner, count=max(count for count, _ in AUGMENTED), elsewhere=True)
    names = collection.names
    ids = {name: place for place, name in enumerate(names)}
    rows = []
    for count, alpha in AUGMENTED:
        total = features.vectors.copy()
        for column in nearest[:, :count].T:
            others = features.vectors[column]
            weight = np.maximum((features.vectors * others).sum(axis=1), 0) ** np.float32(alpha) * (column >= 0)
            total += weight[:, None] * others
        encoded = quantizer.encode(Features(total).unit()).values
        outcomes = []
        for each in asked:
            best = exhaustive.best_regions(quantizer.lookup_tables(each.vector), encoded, offsets)
            order = np.argsort(best.distance, kind="stable")
            ranking = Ranking(order, best.distance, lambda _: np.array([0, 0, 1, 1], np.float32))
            path = collection.images[ids[each.query.image]].path
            outcomes.append(scoring.score(each.query, path, ranking, names, ids, keep_query=False))
        rows.append({"neighbours": count, "alpha": alpha, "mAP": round(scoring.summary(outcomes)["mAP"], 4)})
    return rows


def study(name: str, path: Path, truth: Path) -> dict[str, Any]:
    """Measure one collection, and print it."""
    collection = Collection.open(path, device="cpu")
    every = ask(collection, REGISTRY["boxes"](truth).queries)
    cases = {
        "all": every,
        f"{FEW}": with_few(every, collection.names, FEW),
        f"{FEWER}": with_few(every, collection.names, FEWER),
    }
    rows = []
    for stages in ROWS:
        row: dict[str, Any] = {
            "stages": list(stages),
            "ms": milliseconds(collection, every[: TIMED if "verify" in stages else None], stages),
        }
        # To look closer takes a second a query: some of them say enough.
        some = every[::EACH] if "verify" in stages else every
        row["queries"] = len(some)
        row["all"] = measure(collection, some, partial(rerank.apply_stages, names=stages))
        if len(some) < len(every):
            row["none_of_these"] = measure(collection, some, partial(rerank.apply_stages, names=()))
        else:
            for case in (f"{FEW}", f"{FEWER}"):
                row[case] = measure(collection, cases[case], partial(rerank.apply_stages, names=stages))
        rows.append(row)
        print(
            name,
            ",".join(stages) or "none",
            row["ms"],
            "ms",
            *(row[case]["mAP"] for case in cases if case in row),
            flush=True,
        )
    sweeps = {}
    for what, values, stage in (
        ("diffusion, neighbours", NEIGHBOURS, lambda ranked, value: reordered(ranked, value)),
        ("alpha-qe, photos", DEPTHS, lambda ranked, value: expanded(ranked, value, query_expansion.ALPHA)),
        (
            "alpha-qe, photos, however unsure",
            DEPTHS,
            lambda ranked, value: expanded(ranked, value, query_expansion.ALPHA, 0),
        ),
        ("average-qe, photos", DEPTHS, lambda ranked, value: expanded(ranked, value, 0.0)),
    ):
        sweeps[what] = {
            str(value): {
                case: measure(collection, asked, partial(stage, value=value))["mAP"] for case, asked in cases.items()
            }
            for value in values
        }
        print(name, what, sweeps[what], flush=True)
    augmentation = augmented(collection, every)
    print(name, "database-side augmentation", augmentation, flush=True)
    return {
        "collection": name,
        "photos": len(collection),
        "model": collection.model.origin,
        "queries": len(every),
        "rows": rows,
        "sweeps": sweeps,
        "database_side_augmentation": augmentation,
    }


def main() -> None:
    """Print a line a row; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--collection", nargs=3, metavar=("NAME", "PATH", "GROUND_TRUTH"), action="append", required=True
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    studies = [study(name, Path(path), Path(truth)) for name, path, truth in options.collection]
    setting = {"wanted": WANTED, "few": FEW, "fewer": FEWER}
    facts = {"benchmark": "rerank", **provenance(seed=0), "setting": setting, "collections": studies}
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
