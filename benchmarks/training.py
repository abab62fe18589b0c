"""What training is worth: mAP before and after it, for each refinement and with one choice changed at a time.

    python benchmarks/training.py PHOTOS GROUND_TRUTH [--seeds 3] [--only NAME...] [--json OUT]

Photos are looked at once; then every row draws its sample, trains, and encodes all regions anew (dataset ``boxes``,
8 bytes a region). Figures are means over seeds of the sample, of k-means and of batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udq import datasets, index, metrics, scan
from udq.config import IndexConfig
from udq.datasets import Query
from udq.extract import Extractor
from udq.images import find
from udq.progress import silent
from udq.provenance import provenance
from udq.types import Features

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "no training (OPQ)": {"training": {"enabled": False}},
    "UDQ, plain": {"training": {"refine": "none"}},
    "UDQ-CBR": {"training": {"refine": "cbr"}},
    "UDQ-PBR": {"training": {"refine": "pbr", "neighbours": 50}},
    "UDQ-BFR (default)": {},
    "BFR, trained weights alone, not averaged": {"training": {"share": 1.0}},
    "BFR, neighbours from anywhere": {"training": {"elsewhere": False}},
    "BFR, 5 neighbours": {"training": {"neighbours": 5}},
    "BFR, FC_S alone is trained": {"training": {"hidden": 0}},
    "BFR, two layers before FC_S": {"training": {"hidden": 2}},
    "BFR, module 1 alone": {"training": {"iterations": 0}},
    "BFR, 2 iterations": {"training": {"iterations": 2}},
    "BFR, 3 iterations": {"training": {"iterations": 3}},
    "BFR, lambda = 1": {"training": {"weight": 1.0}},
    "BFR, M = 4": {"quantizer": {"subspaces": 4}},
    "no training, M = 4": {"quantizer": {"subspaces": 4}, "training": {"enabled": False}},
}


class Benchmark:
    """Pooled features of all photos, and of all queries."""

    def __init__(self, folder: Path, truth: tuple[Query, ...]) -> None:
        config = IndexConfig()
        self.extractor = Extractor(config.images, config.features, device="cpu")
        self.photos = [p for p in self.extractor.extract(find([folder])[0]) if p.broken is None]
        self.truth = truth
        self.queries = np.stack([self.extractor.describe(folder / query.image, query.box)[1] for query in truth])
        self.names = [photo.source.name for photo in self.photos]
        self.offsets = np.cumsum([0] + [len(photo.regions) for photo in self.photos]).astype(np.int64)

    def measure(self, changes: Mapping[str, Mapping[str, object]], seed: int) -> dict[str, float]:
        """Train and encode as `udq index` would; return mAP of codes and of real-valued features, and seconds."""
        config = IndexConfig().replace(changes).replace({"sample": {"seed": seed}})
        started = time.perf_counter()
        sample = index.draw(iter(self.photos), len(self.photos), config.sample)
        fitted, _ = index.fit(sample, config, self.extractor.device, silent)
        seconds = time.perf_counter() - started
        codes, nearest = [], []
        queries = fitted.head.apply(Features(self.queries)).vectors
        for photo in self.photos:
            features = fitted.head.apply(photo.features)
            codes.append(fitted.quantizer.encode(features).values)
            nearest.append((2.0 - 2.0 * features.vectors @ queries.T).min(axis=0))
        everything = np.concatenate(codes)
        coded = [
            scan.best_regions(fitted.quantizer.lookup_tables(query), everything, self.offsets).distance
            for query in queries
        ]
        return {
            "codes": self._map(np.stack(coded)),
            "real_valued": self._map(np.stack(nearest, axis=1)),
            "seconds": seconds,
        }

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
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments.photos, datasets.REGISTRY["boxes"](arguments.ground_truth).queries)
    rows: dict[str, Any] = {}
    for name in arguments.only:
        runs = [benchmark.measure(VARIANTS[name], seed) for seed in range(arguments.seeds)]
        rows[name] = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
        rows[name]["codes_of_each_seed"] = [round(run["codes"], 4) for run in runs]
        figures = "codes {codes:.4f}  real-valued {real_valued:.4f}  {seconds:5.1f} s".format(**rows[name])
        print(f"{figures}  {name}", flush=True)
        if arguments.json:
            facts = {
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
