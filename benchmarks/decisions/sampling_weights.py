"""Regions of the sample drawn by other weights than their area: python benchmarks/decisions/sampling_weights.py DATA.

    python benchmarks/decisions/sampling_weights.py DATA [--sets NAME ...] [--seed N] [--cache FOLDER] [--json OUT]

mAP of 8-byte codes without training, with the projection of verified pairs alone, and after each round, without early
stopping. Photos larger than the network's input have more regions than others, most of them small, and the sample has
the same number of regions of each photo: if that is what harms small objects, other weights should not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from generality import Measured, States

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import preset
from udq.features.extractor import ExtractedPhoto
from udq.quantization import model
from udq.training import fitting, sampling
from udq.types import Features, Regions

# Areas (n,) of the regions of a photo, and the view of each -> weights.
Weights = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]


def equal_views(area: NDArray[np.float64], of_view: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights that draw as often from each view, by area within it."""
    return area / np.bincount(of_view, area)[of_view]


# Weights and the number of regions.
VARIANTS: dict[str, tuple[Weights, int]] = {
    "area": (lambda area, _: area, 40_000),
    "root of the area": (lambda area, _: np.sqrt(area), 40_000),
    "area and uniform, half each": (lambda area, _: area / area.sum() + 1 / len(area), 40_000),
    "equal views": (equal_views, 40_000),
    "uniform": (lambda area, _: np.ones_like(area), 40_000),
    "area, 120,000 regions": (lambda area, _: area, 120_000),
}


def preferred(photos: Iterator[ExtractedPhoto], weights: Weights, share: int, seed: int) -> Iterator[ExtractedPhoto]:
    """Yield photos with no more than ``share`` regions each, drawn by weights: all of them are then sampled."""
    rng = np.random.default_rng(seed)
    for photo in photos:
        sides = (photo.regions.boxes[:, 2:] - photo.regions.boxes[:, :2]).astype(np.float64)
        waiting = rng.standard_exponential(len(sides)) / weights(sides.prod(axis=1), photo.of_view)
        rows = np.sort(np.argsort(waiting)[:share])
        yield replace(
            photo,
            regions=Regions(photo.regions.boxes[rows]),
            features=Features(photo.features.vectors[rows]),
            of_view=photo.of_view[rows],
        )


def measure(collection: Measured, weights: Weights, regions: int, seed: int) -> dict[str, Any]:
    """Return mAP by state."""
    changes = {"sample": {"seed": seed, "regions": regions}, "training": {"stop_early": False}}
    config = preset("default").replace(changes)
    rows = sampling.training_sample(len(collection.sources), config.sample)
    photos = collection.store.extract(collection.sources[row] for row in rows)
    share = max(1, regions // len(rows))
    sample = sampling.draw(preferred(photos, weights, share, seed), len(rows), config.sample)
    states = States()
    fitting.learn(sample, config, torch.device("cpu"), progress, checkpoint=states)
    heads = {
        "untrained": model.start(sample.features, config.quantizer),
        "verified pairs alone": states.kept[0].untrained,  # with rotations, which change nothing
    } | {
        f"round {number}": state.averaged({}, share=config.training.share)[0]
        for number, state in enumerate(states.kept, start=1)
    }
    figures: dict[str, Any] = {"regions": len(sample.features)}
    for name, head in heads.items():
        fitted = model.fit(sample.features, head, config.quantizer, seed=seed).quantizer
        figures[name] = collection.accuracy(fitted, collection.features(head), head)
    return figures


def main() -> None:
    """Print figures of each set and variant; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=("composites",), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    rows = []
    with one_core_each():
        for found in sets.load(given.data, given.sets, given.cache / "sets"):
            collection = Measured(found, given.cache / "features")
            for name, (weights, regions) in VARIANTS.items():
                rows.append({"set": found.name, "weights": name, **measure(collection, weights, regions, given.seed)})
                print(json.dumps(rows[-1]), flush=True)
    if given.json:
        facts = {"rows": rows, "provenance": provenance(seed=given.seed)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
