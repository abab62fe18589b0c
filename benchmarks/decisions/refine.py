"""What the neighbours of a refinement cost: exact search, and the inverted file of `refinement.neighbours`.

    python benchmarks/decisions/refine.py [--sizes 100000 1000000] [--json OUT]

Features are made up: unit vectors of d = 304 whose dimensions matter less and less, as principal components do; each
photo has 27 regions and a light of its own that all of them share, and shows four of many objects. Spread and noise
are such that similarities of neighbours, and what the inverted file misses of them, are near those of 39,000 regions
of INSTRE.

BFR's settings: S = 10, neighbours of other photos alone. Exact search over all pairs takes hours at 1,000,000: beyond
--whole both look for the neighbours of a fixed part of the regions among all of them, and their time is scaled up to
all (``seconds_scaled``, never ``seconds``). Recall is the share of the exact neighbours that the inverted file finds.
At the smallest size, whole refinements as training runs them, too.

Each measurement is a process of its own; its peak memory, as the system reports it, includes the features.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udq.common.provenance import provenance
from udq.config import TrainConfig
from udq.training import algorithm, refinement
from udq.types import Features

DIMENSIONS, REGIONS_A_PHOTO, OBJECTS_A_PHOTO, PHOTOS_AN_OBJECT = 304, 27, 4, 20
COUNT = 10
EXACT, INVERTED = "exact search", "inverted file"
REFINEMENTS = {
    "UDQ-BFR (default)": TrainConfig(),
    "UDQ-PBR": TrainConfig(refine="pbr", neighbours=50),
    "UDQ-CBR": TrainConfig(refine="cbr"),
}


def synthetic(regions: int, seed: int) -> tuple[Features, NDArray[np.int64]]:
    """Features (G, d) and the photo of each (G,)."""
    rng = np.random.default_rng(seed)
    images = np.arange(regions) // REGIONS_A_PHOTO
    photos = int(images[-1]) + 1
    spectrum = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.36
    objects = max(OBJECTS_A_PHOTO, photos * OBJECTS_A_PHOTO // PHOTOS_AN_OBJECT)
    centres = rng.standard_normal((objects, DIMENSIONS), dtype=np.float32)
    lights = rng.standard_normal((photos, DIMENSIONS), dtype=np.float32)
    shown = rng.integers(0, objects, (photos, OBJECTS_A_PHOTO))
    which = shown[images, rng.integers(0, OBJECTS_A_PHOTO, regions)]
    vectors = np.empty((regions, DIMENSIONS), np.float32)
    for start in range(0, regions, 4096):  # so that the peak is that of the search, not of making features up
        part = slice(start, start + 4096)
        noise = rng.standard_normal((len(which[part]), DIMENSIONS), dtype=np.float32)
        made = (centres[which[part]] + 0.6 * lights[images[part]] + noise) * spectrum
        vectors[part] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return Features(vectors), images


def search(how: str, regions: int, seed: int, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Find neighbours of ``rows`` among all regions, exactly or by the inverted file."""
    features, images = synthetic(regions, seed)

    def timed(asked: NDArray[np.int64] | None) -> tuple[float, NDArray[np.int64]]:
        started = time.perf_counter()
        found = refinement.neighbours(
            features, images, count=COUNT, elsewhere=True, exhaustive=how == EXACT, rows=asked
        )  # fmt: skip
        return time.perf_counter() - started, found

    if len(rows) == regions:
        seconds, found = timed(None)
        return {"seconds": round(seconds, 2), "peak_mib": peak_mib(), "found": found}
    # What does not grow with the queries, such as copying the features into an index, is not scaled up.
    once, _ = timed(rows[:1])
    seconds, found = timed(rows)
    scaled = once + (seconds - once) * regions / len(rows)
    return {"seconds_scaled": round(scaled), "queries_timed": len(rows), "seconds_timed": round(seconds, 2),
            "peak_mib": peak_mib(), "found": found}  # fmt: skip


def whole(name: str, regions: int, seed: int) -> dict[str, Any]:
    """Refine all features as training does, k-means included where a refinement has one."""
    features, images = synthetic(regions, seed)
    started = time.perf_counter()
    algorithm.refined_features(features, images, REFINEMENTS[name], seed)
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mib": peak_mib()}


def peak_mib() -> float:
    """The most memory this process has held so far (Linux counts it in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def apart(work: Any, *arguments: Any) -> dict[str, Any]:
    """Call in a new process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        result: dict[str, Any] = process.submit(work, *arguments).result()
        return result


def main() -> None:
    """Print a table; write JSON where asked, after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], metavar="REGIONS")
    parser.add_argument(
        "--whole", type=int, default=100_000, help="regions up to which search is exhaustive (%(default)s)"
    )
    parser.add_argument("--queries", type=int, default=5000, help="queries of larger sets (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def note(regions: int, what: str, figures: dict[str, Any]) -> None:
        rows.append({"regions": regions, "what": what} | figures)
        seconds = figures.get("seconds", figures.get("seconds_scaled"))
        line = f"{regions:>9,} regions  {what:18} {seconds:10,.1f} s  peak {figures['peak_mib']:8,.0f} MiB"
        if "queries_timed" in figures:
            line += f"  scaled up from {figures['queries_timed']:,} queries in {figures['seconds_timed']:,.1f} s"
        if "recall_at_10" in figures:
            line += f"  recall@10 {figures['recall_at_10']:.3f} of {figures['recall_queries']:,} queries"
        print(line, flush=True)
        if options.json:
            facts = {
                "setting": {
                    "dimensions": DIMENSIONS, "regions_a_photo": REGIONS_A_PHOTO, "neighbours": COUNT,
                    "elsewhere": True, "features": "synthetic",
                },
                "threads": faiss.omp_get_max_threads(),
                "rows": rows,
                "provenance": provenance(seed=options.seed),
            }  # fmt: skip
            options.json.write_text(json.dumps(facts, indent=1) + "\n")

    for regions in options.sizes:
        queries = regions if regions <= options.whole else min(options.queries, regions)
        asked = np.sort(np.random.default_rng(options.seed).permutation(regions)[:queries])
        exact = apart(search, EXACT, regions, options.seed, asked)
        nearest = exact.pop("found")
        note(regions, EXACT, exact)
        inverted = apart(search, INVERTED, regions, options.seed, asked)
        found = inverted.pop("found")
        hits = (found[:, :, None] == np.where(nearest >= 0, nearest, -2)[:, None, :]).any(axis=1).sum()
        inverted |= {"recall_at_10": round(float(hits / (nearest >= 0).sum()), 4), "recall_queries": queries}
        note(regions, INVERTED, inverted)
    for name in REFINEMENTS:
        note(min(options.sizes), name, apart(whole, name, min(options.sizes), options.seed))


if __name__ == "__main__":
    main()
