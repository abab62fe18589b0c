"""``udq index`` beside other busy processes: how much longer it takes than on an idle machine.

    python benchmarks/robustness/busy_machine.py PHOTOS [--photos 130] [--turns 3] [--no-train] [--json OUT]

Each build is a process of its own, as a user starts it: idle, beside one busy process and beside two. A busy process
counts in a loop, on any core that it gets. The cases take turns. Ratios are of medians of wall time to the idle one.
On two cores, shared fairly among two threads of udq and two busy processes, work takes twice as long; the limit is 2.5.

CPU time is that of the build and its processes. It hardly depends on what else runs, unless threads wait in busy loops.
``one thread`` is the same build, idle, with ``--threads 1``: its CPU time shows what dividing the work costs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustness_common import take

from udq.common.cores import cores
from udq.common.provenance import provenance

LIMIT = 2.5
CASES = {"idle": 0, "one busy process": 1, "two busy processes": 2, "one thread": 0}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def build(photos: Path, output: Path, options: list[str]) -> tuple[float, float]:
    """Build a collection; return wall time and CPU time in seconds."""
    script = "from udq.cli.main import main; main()"
    command = [sys.executable, "-c", script, "index", str(photos), "-o", str(output), "--device", "cpu", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(photos: Path, folder: Path, turns: int, options: list[str]) -> dict[str, dict[str, float]]:
    """Build in turns; return the medians of each case."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for turn in range(turns):
        for name, count in CASES.items():
            more = ["--threads", "1"] if name == "one thread" else []
            with busy(count):
                took = build(photos, folder / f"{turn}-{len(found[name])}-{name}.udq", [*options, *more])
            found[name].append(took)
            print(f"turn {turn + 1}, {name}: {took[0]:.1f} s, {took[1]:.1f} s of CPU", file=sys.stderr)
    medians = {
        name: {kind: statistics.median(took[i] for took in each) for i, kind in enumerate(("wall_s", "cpu_s"))}
        for name, each in found.items()
    }
    for each in medians.values():
        each["ratio"] = each["wall_s"] / medians["idle"]["wall_s"]
    return medians


def main() -> None:
    """Measure and print a table; exit 1 if a build beside busy processes takes more than 2.5 times the idle time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--photos", type=int, default=130, dest="count")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="udq-busy-") as folder:
        take(arguments.photos, arguments.count, Path(folder, "photos"))
        options = ["--no-train"] if arguments.no_train else []
        cases = measure(Path(folder, "photos"), Path(folder), arguments.turns, options)
    print("| udq index | wall time | of the idle time | CPU time |")
    print("|---|---|---|---|")
    for name, each in cases.items():
        print(f"| {name} | {each['wall_s']:.1f} s | {each['ratio']:.2f} | {each['cpu_s']:.1f} s |")
    if arguments.json:
        setting = {"photos": arguments.count, "turns": arguments.turns, "train": not arguments.no_train}
        facts = {"setting": setting | {"cores": cores()}, "cases": cases, "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    slow = [name for name, count in CASES.items() if count and cases[name]["ratio"] > LIMIT]
    if slow:
        sys.exit(f"more than {LIMIT} times the idle time: {', '.join(slow)}")


if __name__ == "__main__":
    main()
