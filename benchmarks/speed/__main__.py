"""All benchmarks of speed, one after the other, each beside its peer: python benchmarks/speed PHOTOS -o FOLDER.

    python benchmarks/speed PHOTOS -o FOLDER [--only scan query ...] [--tiny]

Each is a script of this folder that can be run by itself; this runs it in a process of its own, with the options that
published figures have, and keeps what it writes as FOLDER/benchmark_SCRIPT.json: machine, versions, commit, every
figure. One that fails does not stop the others: it is named at the end, and the exit status is 1. ``--tiny`` shows in
about a minute that all of them run; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Ratios = Iterator[tuple[str, float]]


def limits_ratios(figures: Mapping[str, Any]) -> Ratios:
    """How far cores help with what bounds everything else."""
    per_second, threads = figures["per_second"], figures["setting"]["threads"]
    for name in ("read", "multiply bfloat16"):
        yield f"{name}: {threads} threads / one", per_second.get(f"{name}, {threads} threads", 1) / per_second[name]


def scan_ratios(figures: Mapping[str, Any]) -> Ratios:
    """The nearest photos beside faiss, and how near reading alone is."""
    for size in figures["sizes"]:
        kernel = next(iter(size["rows"]))
        yield f"{size['codes']:,} codes: faiss / {kernel}", size["faiss_over"][kernel]
        yield f"{size['codes']:,} codes: {kernel} / reading them", 1 / size["rows"]["read"]["times_ours"]


def growth_ratios(figures: Mapping[str, Any]) -> Ratios:
    """A query of a batch and the inverted index beside the scan, and faiss beside the index."""
    batch = figures["setting"]["batch"]
    for size in figures["sizes"]:
        took = size["median_ms"]
        yield f"{size['codes']:,} codes: scan / a query of {batch}", took["scan, 1"] / took[f"{batch} queries, 1"]
        yield f"{size['codes']:,} codes: scan / index that scans some", took["scan, 2"] / took["index, 2"]
        for name, peer in size.get("faiss", {}).get("median_ms", {}).items():
            yield f"{size['codes']:,} codes: {name} / index", peer / took["index, 1"]


def query_ratios(figures: Mapping[str, Any]) -> Ratios:
    """A warm query beside the eager way, a cold one beside importing torch."""
    for row in figures["warm"]:
        yield f"warm, {row['threads']} threads: eager / udq", row["ratio"]
    floor = figures["cold"]["import torch"]["median_s"]
    for name, row in figures["cold"].items():
        if name != "import torch":
            yield f"cold, {name}: udq search / import torch", row["median_s"] / floor


def index_ratios(figures: Mapping[str, Any]) -> Ratios:
    """Photos a second beside the loop one would write first."""
    for name, row in figures["rows"].items():
        if name != "eager":
            yield f"photos a second: {name} / eager loop", row["times_eager"]


def memory_ratios(figures: Mapping[str, Any]) -> Ratios:
    """Peak memory of many photos beside that of few."""
    yield "peak memory: ten times the photos / the photos", 1 + figures["growth"]


def add_ratios(figures: Mapping[str, Any]) -> Ratios:
    """Adding photos, relative to their extraction."""
    yield "udq add / extracting the photos", figures["add_cost"]["ratio"]


def verify_ratios(figures: Mapping[str, Any]) -> Ratios:
    """Votes in a larger collection beside a small one, and verification beside that of decoded photos."""
    first = figures["sizes"][0]
    for size in figures["sizes"][1:]:
        yield f"votes: {size['photos']:,} photos / {first['photos']:,}", size["median_ms"] / first["median_ms"]
    _, stored, decoded = list(figures["verify"].values())[1:]
    yield "verification: decoded photos / stored features", decoded / stored


@dataclass(frozen=True)
class Benchmark:
    """A script and how to run it.

    Attributes:
        script: its file here.
        minutes: about how long it takes on two cores with 1,500 photos.
        options: of the script, for figures that are published.
        tiny: of the script, in place of those, to see that it runs.
        ratios: what it measured -> what is beside what, and how many times as much.
        photos: whether the script takes PHOTOS.
    """

    script: str
    minutes: float
    options: str
    tiny: str
    ratios: Callable[[Mapping[str, Any]], Ratios]
    photos: bool = True


BENCHMARKS = {
    "limits": Benchmark("limits.py", 1, "", "--mib 4 --side 64 --turns 1", limits_ratios, photos=False),
    "scan": Benchmark(
        "scan.py", 2, "", "--codes 10000 --queries 1 --repeats 1", scan_ratios, photos=False
    ),
    "growth": Benchmark(
        "growth.py", 15, "--peer-up-to 10000000", "--codes 2000 --queries 2 --turns 1", growth_ratios
    ),
    "query": Benchmark("query.py", 4, "", "--codes 5000 --queries 1 --turns 1", query_ratios),
    "verify": Benchmark("verify.py", 4, "", "--photos 100 200 --queries 1 --turns 1", verify_ratios),
    "index": Benchmark("index.py", 10, "--photos 500", "--photos 4 --turns 1", index_ratios),
    "memory": Benchmark("memory.py", 10, "", "--times 2", memory_ratios),
    "add": Benchmark(
        "../robustness/robustness.py", 15,
        "--only add_cost", "--only add_cost --photos 4 --held 4 --repeats 1", add_ratios,
    ),
}  # fmt: skip


def run(benchmark: Benchmark, photos: Path, into: Path, *, tiny: bool) -> list[tuple[str, float]] | None:
    """Run a benchmark, which prints as it goes; return its ratios, None if it failed."""
    words = [str(photos)] if benchmark.photos else []
    words += (benchmark.tiny if tiny else benchmark.options).split()
    done = subprocess.run([sys.executable, HERE / benchmark.script, *words, "--json", into], check=False)
    return None if done.returncode else list(benchmark.ratios(json.loads(into.read_text())))


def main() -> None:
    """Run them, print ratios, exit 1 where one failed."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photos to measure with")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="for the JSON files")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help=f"some of {', '.join(BENCHMARKS)}")
    parser.add_argument("--tiny", action="store_true", help="only see that they run")
    given = parser.parse_args()
    if unknown := set(given.only) - set(BENCHMARKS):
        parser.error(f"--only: expected some of {', '.join(BENCHMARKS)}, found {', '.join(sorted(unknown))}")
    if not given.photos.is_dir():
        parser.error(f"{given.photos}: no such folder; name one of photos")
    given.output.mkdir(parents=True, exist_ok=True)
    measured: dict[str, list[tuple[str, float]] | None] = {}
    for name in given.only or BENCHMARKS:
        print(f"== {name}: " + ("tiny" if given.tiny else f"about {BENCHMARKS[name].minutes:g} minutes"), flush=True)
        started = time.perf_counter()
        into = given.output / f"benchmark_{Path(BENCHMARKS[name].script).stem}.json"
        measured[name] = run(BENCHMARKS[name], given.photos.resolve(), into, tiny=given.tiny)
        print(f"== {name}: {'failed' if measured[name] is None else 'done'} "
              f"after {time.perf_counter() - started:.0f} s\n", flush=True)  # fmt: skip
    for name, ratios in measured.items():
        for what, ratio in ratios or ():
            print(f"{name:8} {what:60} {ratio:8.2f}")
    if failed := [name for name, ratios in measured.items() if ratios is None]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
