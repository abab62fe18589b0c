"""What training brings to collections of every size: python benchmarks/decisions/collection_sizes.py DATA [--json OUT].

    python benchmarks/decisions/collection_sizes.py DATA [--sets NAME ...] [--sizes 20 100 500] [--seeds 3]
                                                    [--cache FOLDER] [--json OUT]

Collections of some photos of each development set are built as ``udq index`` does, untrained and trained, and searched
by their codes and by the default pipeline. Photos are drawn by the seed: queries in random order, each with up to eight
of its positives, until two thirds of the collection show something that is asked for, and other photos. What is not in
the collection counts neither way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.measure import Setup, measure
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import IndexConfig, preset

SETS = ("instre_dev", "landmarks", "logos_dev", "covers_dev", "paintings_dev", "packages_dev")
SIZES = (20, 100, 500)
_POSITIVES, _ASKED_FOR = 8, 2 / 3
MODES = {"untrained": {"training": {"enabled": False}}, "trained": {}}
RANKINGS = {"codes": "mAP", "default": "best mAP"}


def drawn(found: DevelopmentSet, size: int, seed: int) -> DevelopmentSet:
    """Return ``size`` photos of a set, and the queries that they answer."""
    rng = np.random.default_rng((size, seed))
    names = [source.name for source in found.sources]
    inside, chosen, queries = set(names), set[str](), []
    for place in rng.permutation(len(found.truth.queries)).tolist():
        query = found.truth.queries[place]
        positives = rng.permutation(sorted((query.positives & inside) - {query.image}))[:_POSITIVES]
        asked = {query.image, *map(str, positives)} & inside
        if len(chosen | asked) > size * _ASKED_FOR:
            break
        chosen |= asked
        queries.append(query)
    others = [name for name in rng.permutation(names).tolist() if name not in chosen]
    chosen |= set(others[: size - len(chosen)])
    kept = [
        replace(query, positives=query.positives & chosen, junk=query.junk & chosen)
        for query in queries
        if (query.positives & chosen) - {query.image}
    ]
    sources = [source for source in found.sources if source.name in chosen]
    return replace(found, sources=sources, truth=replace(found.truth, queries=tuple(kept)))


def compare(found: DevelopmentSet, size: int, seeds: int, cache: Path) -> dict[str, Any]:
    """Return mAP of both modes, by seed; differences are of the same photos."""
    mean: dict[str, dict[str, list[float]]] = {name: {mode: [] for mode in MODES} for name in RANKINGS}
    asked = []
    for seed in range(seeds):
        part = drawn(found, size, seed)
        asked.append(len(part.truth.queries))
        for mode, changes in MODES.items():
            config: IndexConfig = preset("default").replace(changes)
            run = measure(
                part, Setup(config, None, None, None, "cpu", cache / "features"), seed=seed, progress=progress
            )
            for name, metric in RANKINGS.items():
                mean[name][mode].append(run.figures[metric] or 0.0)
    row: dict[str, Any] = {"set": found.name, "photos": size, "queries": asked}
    for name, modes in mean.items():
        gains = [after - before for before, after in zip(modes["untrained"], modes["trained"], strict=True)]
        row[name] = {mode: round(statistics.fmean(values), 4) for mode, values in modes.items()}
        row[name] |= {"gain": round(statistics.fmean(gains), 4), "gains": [round(gain, 4) for gain in gains]}
    return row


def main() -> None:
    """Print a row per set and size; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    rows = []
    for found in sets.load(given.data, given.sets, given.cache / "sets"):
        for size in given.sizes:
            if size <= len(found.sources):
                rows.append(compare(found, size, given.seeds, given.cache))
                print(json.dumps(rows[-1]), flush=True)
    if given.json:
        facts = {"rows": rows, "seeds": given.seeds, "provenance": provenance(seed=0)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
