"""What training is worth: mAP before and after it, for each refinement, and in the sweeps of the paper.

    python benchmarks/training.py PHOTOS GROUND_TRUTH --sweep NAME [--seeds 3] [--only ROW...] [--json OUT]

Photos are looked at once; then every row draws its sample, trains, and encodes all regions anew (dataset ``boxes``,
8 bytes a region unless M or K is changed). Figures are means over seeds of the sample, of k-means and of batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udq import datasets, index, metrics, scan
from udq.config import IndexConfig
from udq.datasets import Query
from udq.extract import Extractor
from udq.images import find
from udq.model import Model
from udq.provenance import provenance
from udq.quantize import Quantizer
from udq.train import State
from udq.types import Features

Changes = dict[str, dict[str, Any]]
DEFAULT, UNTRAINED = "UDQ-BFR (default)", "no training (OPQ)"
UNTRAINED_CHANGES: Changes = {"training": {"enabled": False}}

# Each is a table of docs/training.md; table2 and lambda are table 2 and fig. 4 of the paper (fig. 3: stopping.py).
SWEEPS: dict[str, dict[str, Changes]] = {
    "refinements": {
        DEFAULT: {},
        UNTRAINED: UNTRAINED_CHANGES,
        "UDQ, plain": {"training": {"refine": "none"}},
        "UDQ-CBR": {"training": {"refine": "cbr"}},
        "UDQ-PBR": {"training": {"refine": "pbr", "neighbours": 50}},
    },
    "ablations": {
        DEFAULT: {},
        "BFR, trained weights alone, not averaged": {"training": {"share": 1.0}},
        "BFR, neighbours from anywhere": {"training": {"elsewhere": False}},
        "BFR, module 1 alone": {"training": {"iterations": 0}},
        "BFR, 2 iterations whatever comes": {"training": {"iterations": 2, "stop_early": False}},
        "BFR, FC_S alone is trained": {"training": {"hidden": 0}},
    },
    "table2": {
        f"M = {subspaces}, K = {codewords}{title}": {"quantizer": {"subspaces": subspaces, "codewords": codewords}}
        | more
        for title, more in ((", no training", UNTRAINED_CHANGES), ("", {}))
        for subspaces in (2, 4, 8)
        for codewords in (64, 128, 256, 512)
    },
    "lambda": {
        f"lambda = {weight:g}": {"training": {"weight": weight}} for weight in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
    },
    "coarse": {
        "4 bytes": {"quantizer": {"subspaces": 4}},
        "4 bytes, share 0.5 all the same": {"quantizer": {"subspaces": 4}, "training": {"share": 1.0}},
        "4 bytes, supervised by 4 bytes, share 0.5": {"quantizer": {"subspaces": 4}, "training": {"fine": False}},
        "4 bytes, no training": {"quantizer": {"subspaces": 4}} | UNTRAINED_CHANGES,
    },
    "more": {
        "BFR, 5 neighbours": {"training": {"neighbours": 5}},
        "BFR, two layers before FC_S": {"training": {"hidden": 2}},
    },
}


class Rounds:
    """The state of training, as ``udq index`` keeps it on disk."""

    state: State | None = None

    def read(self) -> State | None:
        """Return the last state."""
        return self.state

    def write(self, state: State) -> None:
        """Keep a state."""
        self.state = state


class Benchmark:
    """Pooled features of all photos, and of all queries."""

    def __init__(self, folder: Path, truth: tuple[Query, ...]) -> None:
        config = IndexConfig()
        self.extractor = Extractor(config.images, config.features, device="cpu")
        self.photos = [p for p in self.extractor.extract(find([folder])[0]) if p.broken is None]
        self.truth = truth
        self.rounds: dict[str, Rounds] = {}
        self.queries = np.stack([self.extractor.describe(folder / query.image, query.box)[1] for query in truth])
        self.names = [photo.source.name for photo in self.photos]
        self.offsets = np.cumsum([0] + [len(photo.regions) for photo in self.photos]).astype(np.int64)

    def part(self, rows: Sequence[int]) -> Benchmark:
        """Return a benchmark of some of the photos; queries are those that are left with an answer."""
        part = copy(self)
        part.rounds = {}
        part.photos = [self.photos[i] for i in rows]
        part.names = [self.names[i] for i in rows]
        part.offsets = np.cumsum([0] + [len(photo.regions) for photo in part.photos]).astype(np.int64)
        held = set(part.names)
        left = [replace(query, positives=query.positives & held) for query in self.truth]
        kept = [i for i, query in enumerate(left) if query.image in held and query.positives - {query.image}]
        part.truth, part.queries = tuple(left[i] for i in kept), self.queries[kept]
        return part

    def measure(self, changes: Mapping[str, Mapping[str, object]], seed: int) -> dict[str, float]:
        """Train and encode as `udq index` would; return mAP of codes and of real-valued features, and seconds."""
        config = IndexConfig().replace(changes).replace({"sample": {"seed": seed}})
        started = time.perf_counter()
        sample = index.draw(iter(self.photos), len(self.photos), config.sample)
        # Rows that differ in their own codes alone train alike, and go on from each other's rounds.
        alike = str((seed, config.training, config.supervision()))
        if alike not in self.rounds:
            self.rounds = {alike: Rounds()}
        trained = index.learn(sample, config, self.extractor.device, checkpoint=self.rounds[alike])
        fitted = index.encoder(sample, trained, config)
        seconds = time.perf_counter() - started
        return self.accuracy(fitted) | {"seconds": seconds}

    def accuracy(self, fitted: Model, queries: np.ndarray | None = None) -> dict[str, float]:
        """Return mAP of codes, of codes by the distance of eq. 5 as it stands, and of real-valued features.

        Args:
            fitted: what encodes.
            queries: (Q, d) unit features of the queries; those of their crops where None.
        """
        codes, nearest = [], []
        if queries is None:
            queries = fitted.head.apply(Features(self.queries)).vectors
        for photo in self.photos:
            features = fitted.head.apply(photo.features)
            codes.append(fitted.quantizer.encode(features).values)
            nearest.append((2.0 - 2.0 * features.vectors @ queries.T).min(axis=0))
        quantizer = fitted.quantizer
        plain = replace(quantizer, residuals=np.zeros_like(quantizer.residuals))
        return {
            "codes": self._map(self._distances(quantizer, queries, np.concatenate(codes))),
            "codes_by_eq5": self._map(self._distances(plain, queries, np.concatenate(codes))),
            "real_valued": self._map(np.stack(nearest, axis=1)),
        }

    def _distances(self, quantizer: Quantizer, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(Q, N) squared distances of each photo's best region."""
        tables = map(quantizer.lookup_tables, queries)
        return np.stack([scan.best_regions(table, codes, self.offsets).distance for table in tables])

    def _map(self, distance: np.ndarray) -> float:
        """mAP of (Q, N) squared distances."""
        found = []
        for query, row in zip(self.truth, distance, strict=True):
            ranked = [self.names[i] for i in np.argsort(row, kind="stable") if self.names[i] != query.image]
            found.append(metrics.average_precision(ranked, query.positives - {query.image}, query.junk))
        return float(np.mean(found))


def main() -> None:
    """Print a table; write JSON where asked, after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--sweep", choices=SWEEPS, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="some rows of the sweep, by name")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    variants = SWEEPS[arguments.sweep]
    chosen = arguments.only or list(variants)
    if unknown := set(chosen) - set(variants):
        parser.error(f"--only: no row {', '.join(sorted(unknown))}; expected some of {', '.join(variants)}")
    benchmark = Benchmark(arguments.photos, datasets.REGISTRY["boxes"](arguments.ground_truth).queries)
    rows: dict[str, Any] = {}
    for name in chosen:
        runs = [benchmark.measure(variants[name], seed) for seed in range(arguments.seeds)]
        rows[name] = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
        rows[name]["codes_of_each_seed"] = [round(run["codes"], 4) for run in runs]
        rows[name]["changes"] = variants[name]
        figures = "codes {codes:.4f}  real-valued {real_valued:.4f}  {seconds:5.1f} s".format(**rows[name])
        print(f"{figures}  {name}", flush=True)
        if arguments.json:
            facts = {
                "sweep": arguments.sweep,
                "photos": len(benchmark.photos),
                "regions": int(benchmark.offsets[-1]),
                "queries": len(benchmark.truth),
                "seeds": arguments.seeds,
                "threads": torch.get_num_threads(),
                "rows": rows,
                "provenance": provenance(seed=0),
            }
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
