"""From how many photos on a collection does better with codes fitted to itself than with the shipped model.

    python benchmarks/decisions/small_collections.py PHOTOS GROUND_TRUTH GENERIC_PHOTOS... [--json OUT]

Takes subsets of a benchmark (dataset ``boxes``): some of its objects with a few photos each, among photos of other
things, about one in three a positive of something. Each subset is searched with codes of a model fitted to its own
regions (untrained, with fewer codewords where it is small), and of one fitted to GENERIC_PHOTOS.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from udq import datasets
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.datasets import Query
from udq.evaluation import metrics
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos.source import find
from udq.quantization import model
from udq.search.scan import exhaustive
from udq.training import fitting, sampling

SIZES = (3, 10, 30, 60, 90, 150, 300, 600)
REPEATS = 5


def look(folders: list[Path], extractor: Extractor) -> list[ExtractedPhoto]:
    """Regions and features of all photos that can be read."""
    return [photo for photo in extractor.extract(find(folders)[0]) if photo.broken is None]


def fit(photos: list[ExtractedPhoto], config: IndexConfig) -> model.Model:
    """The model that `udq index --no-train` would fit to these photos."""
    sample = sampling.draw(iter(photos), len(photos), config.sample)
    return fitting.encoder(sample, fitting.learn(sample, config, torch.device("cpu")), config)


def subset(
    truth: tuple[Query, ...], names: list[str], size: int, rng: np.random.Generator
) -> tuple[set[str], list[Query]]:
    """Choose photos: 3 to 8 of each of some objects, and others; and the queries they can answer."""
    chosen: set[str] = set()
    queries: list[Query] = []
    for i in rng.permutation(len(truth)):
        if len(chosen) >= max(2, size // 3):
            break
        query = truth[i]
        if ({query.image} | query.positives) & chosen:
            continue
        positives = rng.permutation(sorted(query.positives - {query.image}))[: min(rng.integers(2, 8), size - 1)]
        chosen |= {query.image, *map(str, positives)}
        queries.append(query)
    answers = {name for query in truth for name in query.positives | {query.image}}
    others = [name for name in rng.permutation(names) if name not in answers]
    chosen |= set(map(str, others[: max(0, size - len(chosen))]))
    return chosen, queries


def key(query: Query) -> str:
    """What tells queries apart: a photo may be asked about twice."""
    return f"{query.image} {query.box}"


def mean_average_precision(
    chosen: set[str],
    queries: list[Query],
    photos: dict[str, ExtractedPhoto],
    encoder: model.Model,
    described: dict[str, np.ndarray],
) -> float:
    """mAP of one subset with one model."""
    held = [photos[name] for name in sorted(chosen)]
    codes = np.concatenate([encoder.encode(photo.features).values for photo in held])
    offsets = np.cumsum([0] + [len(photo.regions) for photo in held]).astype(np.int64)
    found = []
    for query in queries:
        order = exhaustive.image_order(
            exhaustive.best_regions(encoder.lookup_tables(described[key(query)]), codes, offsets)
        )
        ranked = [held[i].source.name for i in order if held[i].source.name != query.image]
        found.append(metrics.average_precision(ranked, query.positives & chosen - {query.image}, query.junk))
    return float(np.mean(found))


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("generic_photos", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    config = IndexConfig().replace({"training": {"enabled": False}})
    extractor = Extractor(config.images, config.features)
    generic = fit(look(arguments.generic_photos, extractor), config)
    photos = {photo.source.name: photo for photo in look([arguments.photos], extractor)}
    truth = datasets.REGISTRY["boxes"](arguments.ground_truth).queries
    described = {key(query): extractor.describe(arguments.photos / query.image, query.box)[1] for query in truth}
    rows = []
    for size in SIZES:
        own, shipped = [], []
        for repeat in range(REPEATS):
            chosen, queries = subset(truth, list(photos), size, np.random.default_rng((size, repeat)))
            fitted = fit([photos[name] for name in sorted(chosen)], config)
            own.append(mean_average_precision(chosen, queries, photos, fitted, described))
            shipped.append(mean_average_precision(chosen, queries, photos, generic, described))
        rows.append({"photos": size, "own": np.mean(own), "generic": np.mean(shipped)})
        print(f"{size:>5} photos: own {rows[-1]['own']:.3f}  generic {rows[-1]['generic']:.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "provenance": provenance(seed=0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
