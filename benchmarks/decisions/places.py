"""Whether training harms a small collection: photos of places, a folder a place, each asked for with a whole photo.

    python benchmarks/decisions/places.py FOLDER [--seeds 3] [--json OUT]

Folders whose names share what comes before the last hyphen show the same place (strecha_castle-P19 and -P30). Small
collections are some photos of each place, drawn with each seed; figures are means over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from training import Benchmark

from udq import datasets
from udq.common.provenance import provenance
from udq.datasets import GroundTruth, Query
from udq.photos.source import find

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "no training": {"training": {"enabled": False}},
    "default": {},
    "2 iterations whatever comes": {"training": {"stop_early": False}},
    "trained weights alone, not averaged": {"training": {"share": 1.0}},
}
# Places whose photos show parts of one courtyard, its walls among them: verified matches tie hundreds of pairs of them
# together. For each other they count neither way.
COURTYARD = ("strecha_castle", "strecha_entry", "strecha_fountain")
# Photos a place; None is all of them.
SIZES = (2, 3, 5, None)


def truth(folder: Path) -> GroundTruth:
    """Each photo asks for the others of its place."""
    return answers([source.name for source in find([folder])[0]])


def add_collections(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark take several collections, each a name, its photos and their answers (see ``read``)."""
    parser.add_argument(
        "--collection", nargs=3, action="append", required=True, metavar=("NAME", "PHOTOS", "TRUTH"), dest="collections"
    )


def read(photos: str, answers: str) -> GroundTruth:
    """Return a collection's ground truth: a CSV of the dataset ``boxes``, or ``places``."""
    return truth(Path(photos)) if answers == "places" else datasets.load("boxes", Path(answers))


def answers(names: list[str]) -> GroundTruth:
    """Each photo asks for the others of its place; those of ``COURTYARD`` count neither way for each other."""
    places: dict[str, set[str]] = {}
    for name in names:
        places.setdefault(place(name), set()).add(name)
    courtyard = frozenset().union(*(places.get(name, ()) for name in COURTYARD))
    queries = (
        Query(
            name,
            None,
            frozenset(places[place(name)] - {name}),
            junk=courtyard - places[place(name)] if name in courtyard else frozenset(),
            label=place(name),
        )
        for name in names
    )
    return GroundTruth("places", tuple(query for query in queries if query.positives))


def place(name: str) -> str:
    """The place that a photo shows."""
    return name.split("/")[0].rpartition("-P")[0] or name.split("/")[0]


def some(benchmark: Benchmark, each: int | None, seed: int) -> Benchmark:
    """A benchmark of some photos of each place."""
    order = np.random.default_rng(seed).permutation(len(benchmark.photos))
    taken: dict[str, list[int]] = {}
    for i in order:
        taken.setdefault(place(benchmark.names[i]), []).append(int(i))
    return benchmark.part(sorted(i for rows in taken.values() for i in rows[:each]))


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments.folder, truth(arguments.folder).queries)
    rows = []
    for each in SIZES:
        parts = [some(benchmark, each, seed) for seed in range(arguments.seeds)]
        row: dict[str, Any] = {"photos": len(parts[0].photos), "mAP": {}}
        for name, changes in VARIANTS.items():
            runs = [part.measure(changes, seed)["codes"] for seed, part in enumerate(parts)]
            row["mAP"][name] = round(statistics.mean(runs), 4)
        rows.append(row)
        print(row, flush=True)
    if arguments.json:
        facts = {"seeds": arguments.seeds, "rows": rows, "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
