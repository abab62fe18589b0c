"""When retraining is worth it: photos are added to a collection, and its mAP is compared with that of a new model.

    python benchmarks/decisions/drift.py DATA [--json OUT]

DATA holds instre_dev/, landmarks/ (queries as in places.py) and coco128/ (photos without queries). Each row is a
collection, some photos that are added to it, and what can be known without labels: the mean squared quantization error
of the photos that were there when the model was fitted, and of the newer ones; that of photos held out of a fit to
three quarters of the older ones; and, after everything was fitted again, that of both. Photos are extracted once.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import places
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
from udq.types import Features

Counts = Mapping[str, int]  # kind of photos -> how many

UNTRAINED = {"training": {"enabled": False}}
# A large collection in small: its model is fitted to a part of its photos.
PART = UNTRAINED | {"sample": {"photos": 300}}
# Of which photos, with how many seeds, and what is added. Small collections have few queries, and want more seeds.
GROWTH: tuple[tuple[str, dict[str, Any], Counts, int, tuple[Counts, ...]], ...] = (
    ("untrained", UNTRAINED, {"INSTRE": 100}, 4, (
        {"INSTRE": 10}, {"INSTRE": 30}, {"INSTRE": 100}, {"INSTRE": 300}, {"buildings": 10}, {"buildings": 30},
        {"COCO": 100})),
    ("untrained", UNTRAINED, {"INSTRE": 300}, 2, (
        {"INSTRE": 30}, {"INSTRE": 100}, {"INSTRE": 300}, {"INSTRE": 1200}, {"buildings": 30}, {"buildings": 100},
        {"COCO": 128})),
    ("untrained", UNTRAINED, {"INSTRE": 750}, 1, (
        {"INSTRE": 75}, {"INSTRE": 250}, {"INSTRE": 750}, {"buildings": 30}, {"buildings": 156})),
    ("untrained", UNTRAINED, {"INSTRE": 1400}, 1, ({"INSTRE": 100}, {"buildings": 156})),
    ("untrained", UNTRAINED, {"buildings": 100}, 2, ({"buildings": 56}, {"INSTRE": 30}, {"INSTRE": 200})),
    ("untrained", UNTRAINED, {"COCO": 128}, 2, ({"INSTRE": 64}, {"INSTRE": 256}, {"buildings": 100})),
    ("untrained, fitted to 300", PART, {"INSTRE": 900}, 1, (
        {"INSTRE": 90}, {"INSTRE": 600}, {"buildings": 30}, {"buildings": 156})),
    ("trained", {}, {"INSTRE": 300}, 1, ({"INSTRE": 100}, {"INSTRE": 300}, {"buildings": 100})),
    ("trained", {}, {"INSTRE": 100}, 1, ({"INSTRE": 30}, {"INSTRE": 100})),
    ("trained", {}, {"INSTRE": 750}, 1, ({"INSTRE": 750},)),
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Photos of several kinds, and what is asked about them.

    Attributes:
        photos: of each kind, extracted.
        queries: with their answers, and the pooled feature of each.
    """

    photos: dict[str, list[ExtractedPhoto]]
    queries: list[tuple[Query, np.ndarray]]

    def some(self, counts: Counts, after: Counts, seed: int) -> list[ExtractedPhoto]:
        """Return photos of each kind, the next ones after an offset, in random order."""
        chosen = []
        for kind, count in counts.items():
            of = self.photos[kind]
            first = after.get(kind, 0)
            order = np.random.default_rng(seed).permutation(len(of))[first : first + count]
            if len(order) < count:
                raise SystemExit(f"{kind}: expected {first + count} photos, found {len(of)}")
            chosen += [of[i] for i in order]
        return chosen


class Fitted:
    """A model of some photos, and what it makes of photos, each encoded once."""

    def __init__(self, photos: Sequence[ExtractedPhoto], config: IndexConfig) -> None:
        self.config, self.photos = config, photos
        self.rows = sampling.training_sample(len(photos), config.sample)
        self.sample = sampling.draw((photos[i] for i in self.rows), len(self.rows), config.sample)
        self.trained = fitting.learn(self.sample, config, torch.device("cpu"))
        self.model = fitting.encoder(self.sample, self.trained, config)
        self._encoded: dict[str, tuple[np.ndarray, float]] = {}

    def encoded(self, photo: ExtractedPhoto) -> tuple[np.ndarray, float]:
        """Return the codes of a photo, and their mean squared error."""
        name = photo.source.name
        if name not in self._encoded:
            codes, error = self.model.measured(photo.features)
            self._encoded[name] = codes.values, error
        return self._encoded[name]

    def error(self, photos: Sequence[ExtractedPhoto]) -> float:
        """Return the mean squared quantization error of photos."""
        return statistics.mean(self.encoded(photo)[1] for photo in photos)

    @cached_property
    def held_out(self) -> float:
        """Error of the regions of a quarter of the sample's photos, with a quantizer fitted to the others."""
        within = self.sample.images < 0.75 * len(self.rows)
        vectors, head, settings = self.sample.features.vectors, self.trained.head, self.config.quantizer
        part = model.fit(Features(vectors[within]), head, settings, seed=self.config.sample.seed)
        return part.measured(Features(vectors[~within]))[1]

    def mean_average_precision(
        self, photos: Sequence[ExtractedPhoto], queries: list[tuple[Query, np.ndarray]]
    ) -> float:
        """Return the mAP of the queries that have an answer among the photos."""
        names = [photo.source.name for photo in photos]
        held = set(names)
        each = [self.encoded(photo)[0] for photo in photos]
        codes, offsets = np.concatenate(each), np.cumsum([0, *map(len, each)]).astype(np.int64)
        found = []
        for query, feature in queries:
            positives = (query.positives - {query.image}) & held
            if query.image in held and positives:
                order = exhaustive.image_order(
                    exhaustive.best_regions(self.model.lookup_tables(feature), codes, offsets)
                )
                ranked = [names[i] for i in order if names[i] != query.image]
                found.append(metrics.average_precision(ranked, positives, query.junk))
        return statistics.mean(found) if found else float("nan")


def look(data: Path) -> Pool:
    """Extract all photos and queries."""
    config = IndexConfig()
    extractor = Extractor(config.images, config.features, device="cpu").proposing()
    folders = {"INSTRE": data / "instre_dev/images", "buildings": data / "landmarks", "COCO": data / "coco128/images"}
    photos = {
        kind: [photo for photo in extractor.extract(find([folder])[0]) if photo.broken is None]
        for kind, folder in folders.items()
    }
    truths = {
        "INSTRE": datasets.load("boxes", data / "instre_dev/ground_truth.csv"),
        "buildings": places.truth(folders["buildings"]),
    }
    queries = [
        (query, extractor.describe(folders[kind] / query.image, query.box)[1])
        for kind, truth in truths.items()
        for query in truth.queries
    ]
    return Pool(photos, queries)


def measure(pool: Pool, base: Counts, added: Counts, old: Fitted, seed: int) -> dict[str, float]:
    """Return the figures of one collection and of what is added to it."""
    older, newer = old.photos, pool.some(added, base, seed)
    # As they lie in a collection that was built of all of them: the sample is drawn from older and newer ones alike.
    everything = sorted([*older, *newer], key=lambda photo: photo.source.name)
    refitted = Fitted(everything, old.config)
    sampled = {older[i].source.name for i in old.rows}
    beyond = [photo for photo in older if photo.source.name not in sampled]
    figures = {
        "older": old.error(older),
        "newer": old.error(newer),
        "held_out": old.held_out,
        "older_anew": refitted.error(older),
        "newer_anew": refitted.error(newer),
        "mAP": old.mean_average_precision(everything, pool.queries),
        "mAP_anew": refitted.mean_average_precision(everything, pool.queries),
    }
    return figures | ({"older_beyond_sample": old.error(beyond)} if beyond else {})


def main() -> None:
    """Print a row a growth; write JSON where asked, after every one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = provenance(seed=0)
    pool = look(arguments.data)
    rows: list[dict[str, Any]] = []
    for name, changes, base, repeats, growths in GROWTH:
        config = IndexConfig().replace(changes)
        seeds = range(repeats)
        olds = [Fitted(pool.some(base, {}, seed), config.replace({"sample": {"seed": seed}})) for seed in seeds]
        for added in growths:
            runs = [measure(pool, base, added, olds[seed], seed) for seed in seeds]
            figures: dict[str, Any] = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
            figures["gain_of_each_seed"] = [round(run["mAP_anew"] - run["mAP"], 4) for run in runs]
            rows.append({"model": name, "photos": base, "added": added, "seeds": repeats, **figures})
            print(rows[-1], flush=True)
            if arguments.json:
                facts = {"rows": rows, "provenance": source}
                arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
