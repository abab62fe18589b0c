"""Whether training harms a small collection: photos of places, a folder a place, each asked for with a whole photo.

    python benchmarks/places.py FOLDER [--json OUT]

Folders whose names share what comes before the last hyphen show the same place (strecha_castle-P19 and -P30).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from udq.collection import Collection
from udq.config import IndexConfig
from udq.datasets import GroundTruth, Query
from udq.evaluate import evaluate
from udq.images import find
from udq.provenance import provenance

VARIANTS: dict[str, dict[str, Any]] = {
    "no training": {"enabled": False},
    "default": {},
    "2 iterations whatever comes": {"stop_early": False},
    "trained weights alone, not averaged": {"share": 1.0},
}


def truth(folder: Path) -> GroundTruth:
    """Each photo asks for the others of its place."""
    names = [source.name for source in find([folder])[0]]
    places: dict[str, set[str]] = {}
    for name in names:
        places.setdefault(place(name), set()).add(name)
    queries = (Query(name, None, frozenset(places[place(name)] - {name}), label=place(name)) for name in names)
    return GroundTruth("places", tuple(query for query in queries if query.positives))


def place(name: str) -> str:
    """The place that a photo shows."""
    return name.split("/")[0].rpartition("-P")[0] or name.split("/")[0]


def main() -> None:
    """Print mAP of each variant; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    answers = truth(arguments.folder)
    found = {}
    for name, changes in VARIANTS.items():
        with tempfile.TemporaryDirectory() as scratch:
            config = IndexConfig().replace({"training": changes})
            made = Collection.build(arguments.folder, Path(scratch, "x.udq"), config=config, device="cpu")
            found[name] = evaluate(made, answers, real_valued=False).report["mAP"]
            print(f"{found[name]:.4f}  {name}", flush=True)
    if arguments.json:
        facts = {"queries": len(answers.queries), "mAP": found, "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
