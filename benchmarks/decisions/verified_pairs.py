"""What verified pairs teach: objects that are in the pairs, and objects that are not.

    python benchmarks/decisions/verified_pairs.py DATA [--sets NAME ...] [--cache FOLDER] [--json OUT]

The sample of each set is drawn, and pairs of its regions are verified, as ``udq index`` does. The pairs are divided
into halves of different objects. A projection that is fitted to one half is judged by the pairs of both: the mean
reciprocal rank of a region's pair among 5,000 random regions of other photos. ``seen`` is of the half that it was
fitted to, ``unseen`` of the other one; rows are values of the shrinkage, the first is the principal components alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import preset
from udq.features.extractor import Extractor
from udq.features.feature_store import FeatureStore
from udq.quantization import model
from udq.training import sampling, verified_pairs
from udq.types import Features

SETS = ("covers_dev", "logos_dev", "instre_dev")
SHRINKAGES = (0.1, 0.3, 1.0, 3.0, 10.0)
_PAIRS, _OTHERS = 1000, 5000


def reciprocal_rank(features: Features, pairs: NDArray[np.int64], images: NDArray[np.int64]) -> float:
    """Return the mean reciprocal rank of the second region of each pair by the first."""
    rng = np.random.default_rng(0)
    others, chosen = rng.permutation(len(images))[:_OTHERS], pairs[rng.permutation(len(pairs))[:_PAIRS]]
    apart = (images[others] != images[chosen[:, :1]]) & (images[others] != images[chosen[:, 1:]])
    own = (features.vectors[chosen[:, 0]] * features.vectors[chosen[:, 1]]).sum(axis=1, keepdims=True)
    before = ((features.vectors[chosen[:, 0]] @ features.vectors[others].T >= own) & apart).sum(axis=1)
    return float((1 / (1 + before)).mean())


def measure(found: DevelopmentSet, cache: Path) -> dict[str, Any]:
    """Return the figures of one set."""
    config = preset("default")
    extractor = Extractor(config.images, config.features, config.keypoints, device="cpu")
    photos = FeatureStore(cache / "features", extractor, config).extract(found.sources)
    sample = sampling.draw(photos, len(found.sources), config.sample)
    head = model.start(sample.features, config.quantizer)
    before = head.apply(sample.features)
    with progress("verifying pairs of photos", len(sample.photos)) as step:
        pairs = verified_pairs.find(sample, before, step=step)
    halves = pairs.halves(sample.images)

    def figures(features: tuple[Features, Features]) -> dict[str, float]:
        """Features fitted to the first half, and to the second one."""
        one, other = features
        ranks = [[reciprocal_rank(each, half, sample.images) for half in halves] for each in (one, other)]
        return {
            "seen": round(statistics.fmean((ranks[0][0], ranks[1][1])), 4),
            "unseen": round(statistics.fmean((ranks[0][1], ranks[1][0])), 4),
        }

    rows = {"principal components": figures((before, before))}
    for shrinkage in SHRINKAGES:
        one, other = (
            model.start_from_pairs(sample.features, half, config.quantizer, shrinkage=shrinkage).apply(sample.features)
            for half in halves
        )
        rows[f"{shrinkage:g}"] = figures((one, other))
    return {
        "photos": len(sample.photos),
        "photos_in_pairs": len(np.unique(sample.images[pairs.rows])),
        "pairs_of_photos": pairs.photos,
        "pairs_of_regions": len(pairs.rows),
        "shrinkage": rows,
    }


def main() -> None:
    """Print figures of each set; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    measured = {}
    for found in sets.load(given.data, given.sets, given.cache / "sets"):
        measured[found.name] = measure(found, given.cache)
        print(found.name, json.dumps(measured[found.name], indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"sets": measured, "provenance": provenance(seed=0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
