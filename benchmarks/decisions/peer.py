"""udq beside the peer, an exhaustive matcher of SIFT features: python benchmarks/decisions/peer.py DATA [--json OUT].

    python benchmarks/decisions/peer.py DATA --sets covers_dev paintings_dev logos_dev

What VISE and similar tools do at heart: RootSIFT features of every photo, all of them, matched with those of the query
by brute force, the ratio test, and a homography by RANSAC; photos are ranked by its inliers. The peer's features are in
memory before it is timed, and it draws no box. udq searches a collection that was built by default, as ``udq search``
does after its first query: encoding the query, scan, verification, the first 20 photos with their boxes. Both run on
one thread, query by query in turn; the mean average precision is of all photos.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import per_set
from accuracy.measure import Setup, kept, protocol_queries
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.evaluation import metrics
from udq.photos import decoding
from udq.types import Box

SETS = ("covers_dev", "paintings_dev", "logos_dev")
RATIO, NEAR = 0.8, 5.0
# Longer side in pixels of photos and queries, and largest enlargement of a query, as in udq.
LONGER, QUERY, ENLARGED = 800, 448, 2.0


@dataclass(frozen=True)
class Points:
    """Features of a photo: places (n, 2) and RootSIFT descriptors (n, 128)."""

    places: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def extract(path: Path, box: Box | None, longer: int, enlarged: float) -> Points:
    """Return all features of a photo, or of what is in a box."""
    view = decoding.load_window(path, box, margin=0.0, longer=longer, enlarged=enlarged, most=10_000)
    found, descriptors = cv2.SIFT_create().detectAndCompute(cv2.cvtColor(view.pixels, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        return Points(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7))
    return Points(np.array([each.pt for each in found], np.float32), roots)


def inliers(query: Points, photo: Points) -> int:
    """Return the number of matches that one homography explains."""
    if len(query.places) < 4 or len(photo.places) < 4:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(query.descriptors, photo.descriptors, k=2)
    good = [one for one, two in pairs if one.distance < RATIO * two.distance]
    if len(good) < 4:
        return 0
    start = np.array([query.places[each.queryIdx] for each in good])
    end = np.array([photo.places[each.trainIdx] for each in good])
    homography, mask = cv2.findHomography(start, end, cv2.RANSAC, NEAR)
    return 0 if homography is None else int(mask.sum())


def compare(found: DevelopmentSet, setup: Setup, folder: Path, every: int) -> dict[str, Any]:
    """Return accuracy and milliseconds a query of both on one set, of every ``every``-th query."""
    collection, _ = kept(found, setup, folder, seed=0, progress=progress)
    collection.database.ready()
    queries = protocol_queries(found, collection)
    names = collection.names
    with progress("features of the peer", len(names)) as step:
        photos = []
        for image in collection.images:
            photos.append(extract(image.path, None, LONGER, 1.0))
            step()
    rows: dict[str, list[float]] = {"peer": [], "udq": []}
    times: dict[str, list[float]] = {"peer": [], "udq": []}
    chosen = list(zip(queries.truth.queries, queries.boxes, strict=True))[::every]
    with progress("queries", len(chosen)) as step:
        for query, box in chosen:
            path = queries.paths[query.image]
            started = time.perf_counter()
            asked = extract(path, box, QUERY, ENLARGED)
            counts = np.array([inliers(asked, photo) for photo in photos])
            times["peer"].append(time.perf_counter() - started)
            ranked = {"peer": [names[i] for i in np.argsort(-counts, kind="stable")]}
            started = time.perf_counter()
            collection.search(path, box)
            times["udq"].append(time.perf_counter() - started)
            result = collection.search(path, box, k=len(names), stack=False)
            ranked["udq"] = [match.image for match in result.matches]
            for name, order in ranked.items():
                counted = [each for each in order if each != query.image and each not in query.junk]
                rows[name].append(metrics.average_precision(counted, query.positives - {query.image}))
            step()
    median = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return {
        "photos": len(names),
        "queries": len(chosen),
        "features_a_photo": round(statistics.fmean(len(photo.places) for photo in photos)),
        "mAP": {name: round(statistics.fmean(values), 4) for name, values in rows.items()},
        "ms": {name: round(value, 1) for name, value in median.items()},
        "times_as_fast": round(median["peer"] / median["udq"], 1),
    }


def main() -> None:
    """Print a table; write JSON where asked."""
    cv2.setNumThreads(1)
    per_set.run(__doc__, SETS, compare, every=4, facts={"opencv": cv2.__version__})


if __name__ == "__main__":
    main()
