"""What local features cost a search: votes in a growing collection, and verification from what is stored.

    python benchmarks/speed/verify.py PHOTOS [--photos 1000 10000 100000] [--queries 12] [--turns 5] [--json OUT]

A collection of the photos is built untrained. ``sizes``: its local features again and again, each with another cell and
code drawn from those of the collection, until there are as many photos; lists by cell are built once per process, and a
query's features then vote. ``verify``: the first 200 photos of a ranking are verified, on one thread and on all,
beside the same photos decoded and extracted again. ``search``: a whole search by the default pipeline and by codes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from udq.collection import Collection
from udq.common.progress import silent
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.keypoints.codebook import points
from udq.search.rerank.verifier import Candidate, Verifier
from udq.search.scan.votes import PointPart, votes
from udq.types import Box

PHOTOS_A_PART = 4096
FIRST = 200
"""Photos to verify."""


def milliseconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def grown(collection: Collection, photos: int) -> list[PointPart]:
    """Local features of that many photos, in parts as large as segments."""
    stored = np.concatenate([photo.points for photo in collection.database.photos(range(len(collection)))])
    rng = np.random.default_rng(0)
    each = max(1, round(len(stored) / len(collection)))
    parts = []
    for start in range(0, photos, PHOTOS_A_PART):
        held = min(PHOTOS_A_PART, photos - start)
        rows = rng.integers(0, len(stored), held * each)
        parts.append(PointPart(stored[rows], np.arange(held + 1, dtype=np.int64) * each))
    return parts


def measure_votes(parts: list[PointPart], verifiers: list[Verifier], turns: int) -> dict[str, float]:
    """Lists by cell, and votes of each query."""
    built = milliseconds(lambda: [(part.lists, part.photo_of) for part in parts])
    lists = sum(array.nbytes for part in parts for array in (*part.lists, part.photo_of))
    took = [
        milliseconds(lambda v=verifier: votes(parts, v.features.descriptors))  # type: ignore[misc]
        for _ in range(turns)
        for verifier in verifiers
    ]
    features = sum(len(part.points) for part in parts)
    return {
        "photos": sum(len(part.starts) - 1 for part in parts),
        "features": features,
        "cells": len(np.unique(np.concatenate([points(part.points)["cell"] for part in parts[:8]]))),
        "mib_features": sum(part.points.nbytes for part in parts) / 2**20,
        "mib_lists": lists / 2**20,
        "seconds_lists": built / 1e3,
        "median_ms": statistics.median(took),
    }


def measure_verify(
    collection: Collection, queries: list[tuple[Path, Box]], verifiers: list[Verifier], turns: int
) -> dict[str, float]:
    """Verification of the same photos from what is stored, and decoded again."""
    first = {}
    for verifier, (photo, box) in zip(verifiers, queries, strict=True):
        found = collection.search(photo, box=box, k=FIRST, rerank=[]).matches
        stored = collection.database.photos([collection.names.index(match.image) for match in found])
        first[verifier] = (
            [Candidate(p.image.file, None, p.image.width, p.image.height, p.points, 1.0) for p in stored],
            [Candidate(p.image.file) for p in stored],
        )
    ways = {
        "stored, one thread": lambda v: v.verify(first[v][0], threads=1),
        "stored, all threads": lambda v: v.verify(first[v][0]),
        "decoded, all threads": lambda v: v.verify(first[v][1]),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for verifier in verifiers[: None if turn == 0 else 3]:
            for name, way in ways.items():
                if turn == 0 or not name.startswith("decoded"):
                    took[name].append(milliseconds(lambda w=way, v=verifier: w(v)))  # type: ignore[misc]
    return {"photos": min(FIRST, len(collection)), **{name: statistics.median(each) for name, each in took.items()}}


def measure_search(collection: Collection, queries: list[tuple[Path, Box]], turns: int) -> dict[str, float]:
    """A whole search, by codes and by the default pipeline, in turn."""
    took: dict[str, list[float]] = {"codes": [], "default": [], "default, rerank": []}
    for turn in range(turns + 1):
        for photo, box in queries:
            codes = milliseconds(lambda p=photo, b=box: collection.search(p, box=b, k=20, rerank=[]))  # type: ignore[misc]
            started = time.perf_counter()
            result = collection.search(photo, box=box, k=20)
            if turn:  # the first turn loads and compiles
                took["codes"].append(codes)
                took["default"].append(1e3 * (time.perf_counter() - started))
                took["default, rerank"].append(result.elapsed_ms["rerank"])
    return {name: statistics.median(each) for name, each in took.items()}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="PHOTOS", type=Path, help="a folder of photos")
    parser.add_argument("--photos", nargs="+", type=int, default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--queries", type=int, default=12, metavar="N")
    parser.add_argument("--turns", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    config = IndexConfig().replace({"training": {"enabled": False}})
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection.build(given.images, Path(folder) / "photos.udq", config=config, progress=silent)
        every = max(1, len(collection) // given.queries)
        queries: list[tuple[Path, Box]] = [
            (image.path, (image.width / 4, image.height / 4, 3 * image.width / 4, 3 * image.height / 4))
            for image in collection.images[::every][: given.queries]
        ]
        verifiers = [Verifier(photo, box) for photo, box in queries]
        figures: dict[str, Any] = {
            "setting": {"photos": len(collection), "queries": len(queries), "turns": given.turns},
            "search": measure_search(collection, queries, given.turns),
            "verify": measure_verify(collection, queries, verifiers, given.turns),
            "sizes": [],
        }
        for size in given.photos:
            figures["sizes"].append(measure_votes(grown(collection, size), verifiers, given.turns))
            print(figures["sizes"][-1], flush=True)
    figures["provenance"] = provenance(seed=0)
    print(json.dumps({name: figures[name] for name in ("search", "verify")}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
