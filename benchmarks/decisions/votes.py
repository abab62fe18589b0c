"""Candidates by local features in a large collection: python benchmarks/decisions/votes.py DATA [--json OUT].

    python benchmarks/decisions/votes.py DATA [--sets covers_dev paintings_dev] [--photos 0 20000 100000]
                                         [--every 3] [--cache FOLDER] [--json OUT]

The photos of a set stand among photos with the local features of instre_dev, drawn again and again, each feature with
its cell and code. Of the right photos of a query, how many are among the 100 that its local features vote for: if all
features of the nearest cells vote, and if those of cells with more than a feature visits are limited to the nearest by
the first bytes of their codes, as a search does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))  # for verify

from accuracy import sets
from accuracy.measure import Setup, kept, protocol_queries
from verify import grown

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import preset
from udq.search.rerank.verifier import Verifier
from udq.search.rerank.verify import VOTED
from udq.search.scan import votes
from udq.search.scan.votes import PointPart

SETS, OTHERS = ("covers_dev", "paintings_dev"), "instre_dev"
PHOTOS = (0, 20_000, 100_000)


def unlimited(*arguments: Any) -> NDArray[np.float32]:
    """Return no limits, in place of ``votes._limits``."""
    return np.full(len(arguments[3]), np.inf, np.float32)


def measure(parts: list[PointPart], asked: list[tuple[Verifier, list[int]]]) -> dict[str, Any]:
    """Return the recall of right photos and the milliseconds of a query, for both ways."""
    row: dict[str, Any] = {"photos": sum(len(part.starts) - 1 for part in parts)}
    for name, limits in (("all", unlimited), ("limited", votes._limits)):
        recalls, times = [], []
        with mock.patch.object(votes, "_limits", limits):
            for verifier, right in asked:
                started = time.perf_counter()
                total = np.concatenate(votes.votes(parts, verifier.features.descriptors))
                times.append(time.perf_counter() - started)
                first = np.argsort(-total, kind="stable")[: VOTED + 1]  # the query's own photo is one of them
                recalls.append(np.isin(right, first).mean())
        row[name] = {"recall": round(float(np.mean(recalls)), 4), "ms": round(1e3 * statistics.median(times), 1)}
    return row


def main() -> None:
    """Print a row per set and number of photos; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME")
    parser.add_argument("--photos", nargs="+", type=int, default=PHOTOS, metavar="N")
    parser.add_argument("--every", type=int, default=3, metavar="N", help="every N-th query; default: 3")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    config = preset("default").replace({"training": {"enabled": False}})
    setup = Setup(config, None, None, None, "cpu", given.cache / "features")
    collections = {}
    for found in sets.load(given.data, [*given.sets, OTHERS], given.cache / "sets"):
        collection, _ = kept(found, setup, given.cache / "collections", seed=0, progress=progress)
        collections[found.name] = collection, protocol_queries(found, collection)
    others, rows = collections[OTHERS][0], []
    for name in given.sets:
        collection, queries = collections[name]
        place = {photo: i for i, photo in enumerate(collection.names)}
        asked = [
            (
                Verifier(queries.paths[query.image], box),
                [place[photo] for photo in query.positives - {query.image} if photo in place],
            )
            for query, box in list(zip(queries.truth.queries, queries.boxes, strict=True))[:: given.every]
        ]
        own = [PointPart(segment.points, segment.starts) for segment in collection.database.segments]
        for photos in given.photos:
            parts = own + (grown(others, photos) if photos else [])
            rows.append({"set": name, "queries": len(asked), **measure(parts, asked)})
            print(json.dumps(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "provenance": provenance(seed=0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
