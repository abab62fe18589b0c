"""What training is worth: mAP before and after it, for each refinement, and in the sweeps of the paper.

    python benchmarks/decisions/training.py PHOTOS GROUND_TRUTH --sweep NAME [--seeds 3] [--only ROW...] [--json OUT]

Photos are extracted once; then every row draws its sample, trains, and encodes all regions (dataset ``boxes``,
8 bytes a region unless M or K is changed). Figures are means over seeds of the sample, of k-means and of batches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from udq import datasets
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.datasets import GroundTruth, Query
from udq.evaluation.benchmark import protocol_queries
from udq.experiments.paper.workbench import Workbench, describe
from udq.features import proposals
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import find

Changes = dict[str, dict[str, Any]]
DEFAULT, UNTRAINED = "UDQ-BFR (default)", "no training (OPQ)"
UNTRAINED_CHANGES: Changes = {"training": {"enabled": False}}

# Each is a table of docs/training.md; table2 and lambda vary what table 2 and fig. 4 of the paper do (fig. 3 is in
# stopping.py). `udq reproduce` measures the paper's tables and figures as they are.
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


class PhotosInMemory(list[ExtractedPhoto]):
    """Readable photos and their features, in memory; implements ``features.Photos``."""

    def select(self, rows: Sequence[int]) -> Iterator[ExtractedPhoto]:
        """Yield the photos at these positions."""
        return (self[i] for i in rows)

    def with_extractor(self, extractor: Extractor) -> PhotosInMemory:
        """Return the same photos with features of another network."""
        return PhotosInMemory(extractor.extract(photo.source for photo in self))


class Benchmark(Workbench):
    """Pooled features of all photos, and of all queries."""

    def __init__(self, folder: Path, truth: tuple[Query, ...]) -> None:
        config = IndexConfig()
        extractor = Extractor(config.images, config.features, device="cpu")
        looked = list(extractor.extract(find([folder])[0]))
        photos = PhotosInMemory(photo for photo in looked if photo.broken is None)
        held = {photo.source.name: photo.source.path for photo in photos}
        broken = {photo.source.name for photo in looked} - set(held)
        queries = protocol_queries(GroundTruth("boxes", truth), held, broken)
        self._kept = TemporaryDirectory()
        ranked = config.features.proposals in proposals.RANKED
        described, folder = describe(extractor, queries), Path(self._kept.name)
        super().__init__(extractor, photos, queries, described, folder, ranked, config.search.position)
        self._alike = ""

    @property
    def names(self) -> list[str]:
        """Names of the photos."""
        return [photo.source.name for photo in self.photos]

    @property
    def truth(self) -> tuple[Query, ...]:
        """The queries."""
        return self.queries.truth.queries

    def part(self, rows: Sequence[int]) -> Benchmark:
        """Return a benchmark of some of the photos; queries are those that are left with an answer."""
        part = copy(self)
        part._kept = TemporaryDirectory()
        part.scratch = Path(part._kept.name)
        part.photos = PhotosInMemory(self.photos.select(rows))
        held = set(part.names)
        left = [replace(query, positives=query.positives & held) for query in self.truth]
        kept = [i for i, query in enumerate(left) if query.image in held and query.positives - {query.image}]
        truth = replace(self.queries.truth, queries=tuple(left[i] for i in kept))
        part.queries = replace(self.queries, truth=truth, boxes=tuple(self.queries.boxes[i] for i in kept))
        part.query_features = self.query_features[kept]
        return part

    def measure(self, changes: Mapping[str, Mapping[str, object]], seed: int) -> dict[str, float]:
        """Train and encode as `udq index` would; return mAP of codes and of real-valued features, and seconds."""
        config = IndexConfig().replace(changes).replace({"sample": {"seed": seed}})
        # Rows that differ in their own codes alone go on from each other's rounds; the seconds of others are whole.
        alike = str((seed, config.training, config.supervision()))
        if alike != self._alike:
            for folder in self.scratch.iterdir():
                shutil.rmtree(folder)
        self._alike = alike
        fitted = self.fit(config)
        return fitted.workbench.accuracy(fitted.model) | {"seconds": fitted.seconds}


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
                "regions": sum(len(photo.regions) for photo in benchmark.photos),
                "queries": len(benchmark.truth),
                "seeds": arguments.seeds,
                "threads": torch.get_num_threads(),
                "rows": rows,
                "provenance": provenance(seed=0),
            }
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
