"""Whether "nothing found" can be believed: objects that are absent, what of the present ones is lost, and calibration.

    python benchmarks/decisions/absent.py --collection NAME COLLECTION TRUTH...
        [--foreign NAME PHOTOS TRUTH] [--json OUT]

TRUTH is a CSV of the dataset ``boxes``, or ``places`` for photos in folders, a place a folder. Each query is ranked
twice without its own photo, with its positives and without them. Without them, whatever is found is a false alarm; with
them, positives of a lower confidence than the threshold are lost. Rows are thresholds on the confidence of
``udq.search.confidence``, and the default one comes first.

``reliability``  photos of the first page by confidence: how many, its mean, the share of true matches among them, and
                 among all photos that score at least as high as each of them, which is what confidence says.
``small``        the same collections with some of their photos, drawn several times.
``foreign``      a collection built without the photos of every second object, which the model then has never seen;
                 queries for those are absent as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from places import answers

from udq import datasets
from udq.collection import Collection
from udq.common.provenance import provenance
from udq.datasets import Query
from udq.search.confidence import THRESHOLD, Calibration
from udq.search.database import LocalDatabase
from udq.search.ranking import ranking_by_tables
from udq.search.scan import kernels

THRESHOLDS = (THRESHOLD, 0.99, 0.97, 0.9, 0.8, 0.7, 0.5)
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
PAGE = 20
SMALL, DRAWS = (20, 50, 100, 400), 20
# Queries: of all photos that could ask for others of their place, these are enough.
QUERIES = 250


@dataclass(frozen=True)
class Asked:
    """A query, encoded and compared with every photo.

    Attributes:
        lookup: (M, K) tables.
        distance: (N,) float32, squared, of each photo.
        counts: (N,) bool, neither the query's own photo nor junk.
        right: (N,) bool, positives.
    """

    lookup: NDArray[np.float32]
    distance: NDArray[np.float32]
    counts: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def confidence(
        self, calibration: Calibration, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the confidence of some photos, nearest first, and whether each is right."""
        places = np.flatnonzero(among)
        places = places[np.argsort(self.distance[places], kind="stable")]
        return calibration.confidence(self.lookup, self.distance[places]), self.right[places]


def ask(collection: Collection, query: Query, photo: Path) -> Asked:
    """Encode a query and compare it with every photo."""
    names = collection.names
    lookup = collection.model.lookup_tables(collection.extractor.describe(photo, query.box)[1])
    out = query.junk | {query.image}
    counts = np.array([name not in out for name in names])
    right = counts & np.array([name in query.positives for name in names])
    return Asked(lookup, ranking_by_tables(collection.database, lookup).distance, counts, right)


def figures(every: Sequence[tuple[Asked, Calibration, NDArray[np.bool_]]]) -> dict[str, Any]:
    """Return what thresholds find of queries among some photos each (N,), and how true confidences are."""
    absent = []
    present = []
    for asked, calibration, among in every:
        without = asked.confidence(calibration, among & asked.counts & ~asked.right)[0]
        absent.append(float(without[0]) if len(without) else 0.0)
        if (asked.right & among).any():
            present.append(asked.confidence(calibration, among & asked.counts))
    confidence = np.concatenate([np.empty(0, np.float32), *(found for found, _ in present)])
    right = np.concatenate([np.empty(0, np.bool_), *(rights for _, rights in present)])
    rows = []
    for threshold in THRESHOLDS:
        shares = [float(rights[found >= threshold].mean()) for found, rights in present if found[0] >= threshold]
        rows.append(
            {
                "threshold": threshold,
                "false_alarms": rounded(np.array(absent) >= threshold),
                "positives_lost": rounded(confidence[right] < threshold),
                "queries_with_positives_that_find_nothing": rounded(np.array([c[0] < threshold for c, _ in present])),
                "right_share_of_found_mean_over_queries": rounded(np.array(shares)),
            }
        )
    return {"absent": len(absent), "present": len(present), "thresholds": rows, "reliability": reliability(present)}


def rounded(values: NDArray[Any]) -> float | None:
    """Return a mean; None of nothing."""
    return round(float(values.mean()), 4) if len(values) else None


def reliability(present: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> list[dict[str, Any]]:
    """Compare confidences of first pages with what is right."""
    if not present:
        return []
    confidence = np.concatenate([found[:PAGE] for found, _ in present])
    right = np.concatenate([rights[:PAGE] for _, rights in present])
    above = np.concatenate([(np.cumsum(rights) / np.arange(1, len(rights) + 1))[:PAGE] for _, rights in present])
    rows = []
    for low, high in pairwise(BINS):
        some = (confidence >= low) & ((confidence < high) | (high == BINS[-1]))
        rows.append(
            {
                "from": low,
                "to": high,
                "photos": int(some.sum()),
                "mean_confidence": rounded(confidence[some]),
                "right_share": rounded(right[some]),
                "right_share_of_those_at_least_as_high": rounded(above[some]),
            }
        )
    return rows


def learn(collection: Collection, living: NDArray[np.bool_] | None = None) -> Calibration:
    """Calibrate a collection, or some of its photos (N,)."""
    segments = collection.segments
    if living is not None:
        parts = np.split(living, np.cumsum([len(segment.living) for segment in segments])[:-1])
        kept = []
        for segment, part in zip(segments, parts, strict=True):
            removed = segment.removed.copy()
            removed[segment.living[~part]] = True
            kept.append(dataclasses.replace(segment, removed=removed))
        segments = tuple(kept)
    return LocalDatabase(collection.model, segments, ranked=True).calibration


def measure(collection: Collection, queries: Sequence[Query], photos: Path | None = None) -> dict[str, Any]:
    """Measure one collection; query photos are its own, or in a folder."""
    paths = {image.name: image.path for image in collection.images}
    calibration = learn(collection)  # once before it is timed: files come into memory
    started = time.perf_counter()
    calibration = learn(collection)
    learned = time.perf_counter() - started
    asked = [ask(collection, query, photos / query.image if photos else paths[query.image]) for query in queries]
    whole = np.ones(len(collection), np.bool_)
    nearest = [np.sort(each.distance)[:100] for each in asked]
    started = time.perf_counter()
    for each, distance in zip(asked, nearest, strict=True):
        calibration.confidence(each.lookup, distance)
    took = (time.perf_counter() - started) / len(asked)
    small = []
    rng = np.random.default_rng(0)
    for size in (size for size in SMALL if size < len(collection) and photos is None):
        every = []
        for _ in range(DRAWS):
            some = np.zeros(len(collection), np.bool_)
            some[rng.choice(len(collection), size, replace=False)] = True
            drawn = learn(collection, some)
            every += [(each, drawn, some) for each in asked]
        small.append({"photos": size, "draws": DRAWS, **figures(every)["thresholds"][0]})
    return {
        "photos": len(collection),
        "queries": len(asked),
        "rate": round(calibration.rate, 3),
        "ms_to_learn": round(1e3 * learned, 1),
        "ms_a_query": round(1e3 * took, 3),
        **figures([(each, calibration, whole) for each in asked]),
        "small": small,
    }


def foreign(photos: Path, truth: Path) -> dict[str, Any]:
    """Build without every second object, and measure queries for what is there no more and for what is."""
    queries = datasets.load("boxes", truth).queries
    labels = sorted({query.label for query in queries})[::2]
    gone = [query for query in queries if query.label in labels]
    names = {name for query in gone for name in (query.image, *query.positives)}
    with tempfile.TemporaryDirectory() as scratch:
        held = Path(scratch, "photos")
        held.mkdir()
        for photo in photos.iterdir():
            if photo.name not in names:
                (held / photo.name).symlink_to(photo.resolve())
        collection = Collection.build(held, Path(scratch, "x.udq"), device="cpu")
        others = [query for query in queries if query.label not in labels]
        outside = measure(collection, gone, photos)
        return {"removed_objects": labels, "removed": outside, "others": measure(collection, others, photos)}


def show(name: str, found: dict[str, Any]) -> None:
    """Print the default threshold's figures."""
    row = found["thresholds"][0]
    print(
        f"{name}: {found['photos']:,} photos, rate {found['rate']}, learned in {found['ms_to_learn']} ms, "
        f"{found['ms_a_query']} ms a query; at {row['threshold']}: false alarms {row['false_alarms']}, positives lost "
        f"{row['positives_lost']}, nothing found {row['queries_with_positives_that_find_nothing']}",
        flush=True,
    )


def main() -> None:
    """Print the default threshold's figures; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = {"nargs": 3, "action": "append", "default": []}
    parser.add_argument("--collection", metavar=("NAME", "COLLECTION", "TRUTH"), **named)
    parser.add_argument("--foreign", metavar=("NAME", "PHOTOS", "TRUTH"), **named)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    collections, built_anew = {}, {}
    for name, path, truth in arguments.collection:
        collection = Collection.open(path, device="cpu")
        known = answers(collection.names) if truth == "places" else datasets.load("boxes", Path(truth))
        collections[name] = measure(collection, known.queries[:: 1 + len(known.queries) // QUERIES])
        show(name, collections[name])
    for name, photos, truth in arguments.foreign:
        built_anew[name] = foreign(Path(photos), Path(truth))
        for part in ("removed", "others"):
            show(f"{name}, {part}", built_anew[name][part])
    facts = {
        "default_threshold": THRESHOLD,
        "scan": kernels.kernel(),
        "collections": collections,
        "foreign": built_anew,
        "provenance": provenance(seed=0),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
