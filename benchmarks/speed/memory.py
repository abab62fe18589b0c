"""Peak memory of `udq index` for a folder of photos and for ten times as many (the folder repeated).

    python benchmarks/speed/memory.py PHOTOS [--times 10] [--json OUT]

Each run is a process of its own; the figure is its maximum resident set, as the system reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from udq.common.provenance import provenance
from udq.photos.source import find


def repeat(folder: Path, times: int, into: Path) -> None:
    """Make ``times`` folders of links to the photos."""
    for source in find([folder])[0]:
        for copy in range(times):
            link = into / f"copy-{copy:02d}" / source.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.path.resolve())


def index(photos: Path, collection: Path) -> dict[str, float]:
    """Index in a new process; return its peak memory, its time and what it made."""
    command = [
        sys.executable,
        "-c",
        "from udq.cli.main import main; main()",
        "index",
        str(photos),
        "-o",
        str(collection),
    ]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    facts = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return {
        "photos": facts["images"],
        "regions": facts["regions"],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "bytes_on_disk": facts["bytes_on_disk"],
    }


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs = []
    for times in (1, arguments.times):
        with tempfile.TemporaryDirectory() as scratch:
            photos = Path(scratch, "photos")
            repeat(arguments.folder, times, photos)
            runs.append(index(photos, Path(scratch, "photos.udq")))
            print("{photos:>7,.0f} photos  peak {peak_mib:8.1f} MiB  {seconds:7.1f} s".format(**runs[-1]), flush=True)
    growth = runs[1]["peak_mib"] / runs[0]["peak_mib"] - 1
    print(f"growth {growth:+.1%}")
    if arguments.json:
        facts = {"runs": runs, "growth": round(growth, 4), "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
