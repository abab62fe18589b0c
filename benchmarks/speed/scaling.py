"""What workers of a Ray cluster cost and bring, on this machine alone.

    python benchmarks/speed/scaling.py PHOTOS [--workers 1 2] [--turns 3] [--codes 1000000 20000000] [--json OUT]

``index``   extraction and encoding, untrained, by this process with n threads and by n workers
            of a local cluster, in turns. ``start`` is the seconds until the first photo, ``rate`` photos a second from
            the 64th to the 64th from the end. ``overhead`` is how much slower workers are, start-up apart. ``bytes`` is
            what comes back of a photo.
``search``  the 100 nearest photos for one query in codes of the photos, repeated and jittered to a number, by this
            process on one thread and by actors, each of which holds a part, on one thread each.
``dead``    the actor of a shard is killed while one query follows the other: seconds until all photos are searched
            again, and how many answers were flagged until then.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from query import grow

from udq import Collection, IndexConfig
from udq.common.provenance import provenance
from udq.distributed import cluster
from udq.distributed.workers import RayWorkers
from udq.features.extractor import Extractor
from udq.indexing.workers import LocalWorkers, Workers
from udq.photos import source
from udq.quantization.model import Model
from udq.search.confidence import DEPTH
from udq.types import Codes

UNTRAINED = IndexConfig().replace({"training": {"enabled": False}})
# The first and last photos fill and empty the queue between extraction and writing.
_EDGE = 64


def once(photos: Path, model: Path, by: str) -> dict[str, float]:
    """Extract all photos in this process, with the threads or workers that it was started with."""
    sources, _ = source.find([photos])
    extractor = Extractor(UNTRAINED.images, UNTRAINED.features, device="cpu").proposing()
    fitted = Model.from_bytes(model.read_bytes())
    workforce: Workers = LocalWorkers(extractor)
    if by == "workers":
        cluster.connect(cluster.LOCAL)
        workforce = RayWorkers(extractor, UNTRAINED)
    started = time.perf_counter()
    times, kept = [], 0
    for photo in workforce.encode(enumerate(sources), fitted):
        times.append(time.perf_counter())
        kept += len(pickle.dumps(photo))
    assert len(times) == len(sources)
    rate = (len(times) - 2 * _EDGE) / (times[-_EDGE - 1] - times[_EDGE - 1])
    return {"start": times[0] - started, "rate": rate, "bytes": kept / len(times)}


def measured(photos: Path, model: Path, by: str, workers: int) -> dict[str, float]:
    """Run ``once`` in a process of its own, limited to that many processors."""
    told = {"OMP_NUM_THREADS": str(workers), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    command = [sys.executable, __file__, str(photos), "--once", by, "--model", str(model), "--workers", str(workers)]
    done = subprocess.run(command, env=os.environ | told, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def indexing(photos: Path, workers: Sequence[int], turns: int, scratch: Path) -> dict[str, Any]:
    """Return medians by number of workers."""
    built = Collection.build(photos, scratch / "once.udq", config=UNTRAINED, device="cpu")
    model = scratch / "model.npz"
    model.write_bytes(built.model.to_bytes())
    rows = {}
    for count in workers:
        took: dict[str, list[dict[str, float]]] = {"threads": [], "workers": []}
        for _ in range(turns):
            for by, runs in took.items():
                runs.append(measured(photos, model, by, count))
        row: dict[str, Any] = {
            by: {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
            for by, runs in took.items()
        }
        ratios = [one["rate"] / other["rate"] - 1 for one, other in zip(took["threads"], took["workers"], strict=True)]
        row["overhead"] = round(statistics.median(ratios), 4)
        rows[str(count)] = row
        print(f"{count}: {row}", flush=True)
    return rows


def searching(path: Path, workers: Sequence[int], queries: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return medians of milliseconds, by who holds the codes."""
    local = Collection.open(path, device="cpu").database
    found = {"codes": sum(len(segment.codes) for segment in local.segments), "photos": len(local)}
    plain = type(local)(local.model, local.segments, local.ranked, threads=1)
    contenders = {"1 thread, here": plain}
    for count in workers:
        contenders[f"{count} shards"] = Collection.open(path, device="cpu", ray="local", shards=count).database
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for query in [queries[0], *queries]:
        answers = []
        for name, database in contenders.items():
            started = time.perf_counter()
            answers.append(database.nearest_images(query[None], DEPTH)[0])
            took[name].append(1e3 * (time.perf_counter() - started))
        assert all((one.image == answers[0].image).all() for one in answers)
    return {**found, "median_ms": {name: round(statistics.median(times[1:]), 2) for name, times in took.items()}}


def dead(path: Path, queries: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Kill the actor of a shard, and ask until it is back."""
    database = Collection.open(path, device="cpu", ray="local", shards=2).database
    database.nearest_images(queries[:1], DEPTH)
    shards = [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"ray::Shard" in file.read_bytes()]
    os.kill(int(shards[-1].parent.name), signal.SIGKILL)
    started, flagged, asked, longest = time.perf_counter(), 0, 0, 0.0
    while True:
        begun = time.perf_counter()
        answer = database.nearest_images(queries[asked % len(queries)][None], DEPTH)[0]
        longest, asked = max(longest, time.perf_counter() - begun), asked + 1
        if answer.missing:
            flagged += 1
        elif flagged:
            seconds = round(time.perf_counter() - started, 2)
            return {"seconds": seconds, "asked": asked, "flagged": flagged, "longest_ms": round(1e3 * longest, 1)}


def tables(path: Path, count: int) -> np.ndarray[Any, Any]:
    """Return tables (Q, M, K) of regions of the collection, as queries."""
    database = Collection.open(path, device="cpu").database
    places = np.linspace(0, len(database) - 1, count).astype(int).tolist()
    quantizer = database.model.quantizer
    codes = np.stack([photo.codes[0] for photo in database.photos(places)])
    features = quantizer.reconstruct(Codes(codes, quantizer.codewords)).unit().vectors
    return np.stack([quantizer.lookup_tables(feature) for feature in features])


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--codes", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", choices=["threads", "workers"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.once:
        if given.once == "workers":
            # As many processors as workers are asked for, whatever the machine has.
            cluster.ray().init(num_cpus=given.workers[0], log_to_driver=False, include_dashboard=False)
        print(json.dumps(once(given.photos, given.model, given.once)))
        return
    figures: dict[str, Any] = {"setting": {"turns": given.turns, "queries": given.queries, "nearest": DEPTH}}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        figures["index"] = indexing(given.photos, given.workers, given.turns, scratch)
        figures["setting"]["photos"] = len(source.find([given.photos])[0])
        figures["search"] = []
        for codes in given.codes:
            grow(scratch / "once.udq", codes, np.random.default_rng(0))
            queries = tables(scratch / "once.udq", given.queries)
            figures["search"].append(searching(scratch / "once.udq", given.workers, queries))
            print(figures["search"][-1], flush=True)
        figures["dead"] = dead(scratch / "once.udq", queries)
        print(figures["dead"])
    figures["provenance"] = provenance(seed=0)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
