"""When to stop: mAP after every iteration beside what can be known without labels (fig. 3 of the paper).

    python benchmarks/decisions/stopping.py --collection NAME PHOTOS TRUTH [--collection ...] [--seeds 3] [--json OUT]

TRUTH is a CSV of the dataset ``boxes``, or ``places``: each photo asks for the others of its folder. Training runs for
five iterations and is never stopped. Iteration 0 is module 1. The candidates for a sign of when to stop are

    participation ratio   over how many directions the sample's features spread; what training goes by
    agreement             share of the sample's regions whose nearest region of another photo has its own nearest
                          region of another photo in the first region's photo
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import places
from training import Benchmark

from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.quantization import model
from udq.quantization.head import Head
from udq.training import refinement, sampling
from udq.training.algorithm import TrainingJob, TrainingState, participation_ratio, train
from udq.training.pooled_features import CachedFeatures

ITERATIONS = 5


def run(benchmark: Benchmark, seed: int) -> list[dict[str, float]]:
    """Return a row before training and one after each iteration."""
    config = IndexConfig().replace(
        {"sample": {"seed": seed}, "training": {"iterations": ITERATIONS, "stop_early": False}}
    )
    sample = sampling.draw(iter(benchmark.photos), len(benchmark.photos), config.sample)
    start = model.start(sample.features, config.quantizer)
    device = benchmark.extractor.device
    rows: list[dict[str, float]] = []

    def measure(kept: Head, trained: Head) -> None:
        features = trained.apply(sample.features)
        nearest = refinement.neighbours(features, sample.images, count=1, elsewhere=True)[:, 0]
        assert (nearest >= 0).all()  # these collections have more than one photo
        fitted = model.fit(sample.features, kept, config.quantizer, seed=seed)
        rows.append(
            {
                "participation_ratio": participation_ratio(features),
                "agreement": float((sample.images[nearest[nearest]] == sample.images).mean()),
                **benchmark.accuracy(fitted),
            }
        )

    class Measured:
        """A checkpoint that measures every state."""

        def read(self) -> TrainingState | None:
            """Start from the beginning."""

        def write(self, state: TrainingState) -> None:
            """Measure."""
            measure(state.averaged({}, share=config.training.share)[0], state.head)

    measure(start, start)
    codewords = model.codewords(len(sample.features), config.quantizer)
    job = TrainingJob(sample.images, start, config.training, config.quantizer, codewords, seed, device)
    train(job, CachedFeatures(sample.features, device), checkpoint=Measured())
    return rows


def main() -> None:
    """Print a table a collection; write JSON where asked, after every one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    places.add_collections(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name, photos, truth in arguments.collections:
        answers = places.read(photos, truth)
        benchmark = Benchmark(Path(photos), answers.queries)
        runs = [run(benchmark, seed) for seed in range(arguments.seeds)]
        rows = []
        for each in zip(*runs, strict=True):
            mean = {key: round(statistics.mean(row[key] for row in each), 4) for key in each[0]}
            rows.append(mean | {"codes_of_each_seed": [round(row["codes"], 4) for row in each]})
        found[name] = {"photos": len(benchmark.photos), "queries": len(answers.queries), "rows": rows}
        for iteration, row in enumerate(rows, start=-1):
            print(
                f"{name}  {'untrained' if iteration < 0 else f'iteration {iteration}'}  "
                f"directions {row['participation_ratio']:.1f}  agreement {row['agreement']:.3f}  "
                f"codes {row['codes']:.4f}",
                flush=True,
            )
        if arguments.json:
            facts = {"seeds": arguments.seeds, "collections": found, "provenance": provenance(seed=0)}
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
