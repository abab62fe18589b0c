"""The command line of benchmarks that measure each development set, in the collection that is built by default."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy import sets
from accuracy.measure import Setup
from accuracy.sets import DevelopmentSet
from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import preset

# A set, its setup, the folder of collections and N, to take every N-th query -> the figures of the set.
Measure = Callable[[DevelopmentSet, Setup, Path, int], dict[str, Any]]


def run(
    description: str | None,
    names: Sequence[str],
    measure: Measure,
    *,
    every: int,
    facts: Mapping[str, Any],
    seed: int = 0,
) -> None:
    """Print the figures of each set; write JSON where asked, after each set.

    Args:
        description: of the benchmark, for ``--help``.
        names: sets that are measured by default.
        measure: returns the figures of one set.
        every: default of ``--every``.
        facts: what the JSON contains besides the sets.
        seed: of what the benchmark draws.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=names, metavar="NAME")
    parser.add_argument("--every", type=int, default=every, metavar="N", help="every N-th query; default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    setup = Setup(preset("default"), None, None, None, "cpu", given.cache / "features")
    measured: dict[str, Any] = {}
    with one_core_each():
        for found in sets.load(given.data, given.sets, given.cache / "sets"):
            measured[found.name] = measure(found, setup, given.cache / "collections", given.every)
            print(found.name, json.dumps(measured[found.name], indent=1), flush=True)
            if given.json:
                written = {**facts, "every": given.every, "sets": measured, "provenance": provenance(seed=seed)}
                given.json.write_text(json.dumps(written, indent=1) + "\n")
