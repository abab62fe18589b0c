"""Whether a collection ever loses anything: real processes, real kills, real disks without room.

    python benchmarks/robustness/robustness.py PHOTOS [--only kills ...] [--json OUT]

``kills``      changes killed at random moments, by kill -9: answers are of a committed state, nothing is lost
``flips``      single bytes changed, anywhere: found by verify, never a wrong answer; and repaired
``add_cost``   adding to a large collection beside extracting the photos; removing as many
``readers``    8 processes that search while one changes the collection
``full_disk``  changes on a disk without room
``read_only``  a collection on a disk that cannot be written

Parts run one after the other; each goes into the JSON file as it ends, in place of an older figure, so that they can
be run one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustness_flips import flips
from robustness_kills import kills
from robustness_load import add_cost, readers
from robustness_media import full_disk, read_only

from udq.common.provenance import provenance


def main() -> None:
    """Run parts; write JSON where asked; exit 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--repairs", type=int, default=100)
    parser.add_argument("--photos", type=int, default=1_000, help="photos to add to ten times as many")
    parser.add_argument("--held", type=int, default=300, help="photos that those ten times are made of")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    photos = given.folder.resolve()
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kills": lambda scratch: kills(photos, scratch, given.kills),
        "flips": lambda scratch: flips(photos, scratch, given.flips, given.repairs),
        "add_cost": lambda scratch: add_cost(photos, scratch, given.photos, given.held, given.repeats),
        "readers": lambda scratch: readers(photos, scratch, given.minutes),
        "full_disk": lambda scratch: full_disk(photos, scratch),
        "read_only": lambda scratch: read_only(photos, scratch),
    }
    if unknown := set(given.only) - set(parts):
        parser.error(f"--only: expected some of {', '.join(parts)}, found {', '.join(sorted(unknown))}")
    failed = []
    for name in given.only or parts:
        print(name, flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            facts = parts[name](Path(scratch))
        facts |= {"seconds": round(time.perf_counter() - started), "provenance": provenance(seed=0)}
        if facts["failures"]:
            failed.append(name)
        shown = {key: value for key, value in facts.items() if key != "provenance"}
        print(json.dumps(shown, indent=1), flush=True)
        if given.json:
            merged = json.loads(given.json.read_text()) if given.json.exists() else {}
            given.json.write_text(json.dumps(merged | {name: facts}, indent=1) + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
