"""Choices of training on all development sets: rounds and share of the trained weights, and subspaces M by codewords K.

    python benchmarks/decisions/generality.py DATA [--sets NAME ...] [--seed N] [--cache FOLDER] [--json OUT]

Each set is trained once, without early stopping. ``states`` has mAP of 8-byte codes without training, and after each
round with several shares of the trained weights, beside what can be known without labels: participation ratio and
quantization error of the sample's features, as a share of their variance. ``cells`` has mAP of codes of M x K with and
without training. ``results/derive.py`` judges rules that choose a state by these figures, on sets left out one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets
from accuracy.sets import DevelopmentSet

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.common.threads import one_core_each
from udq.config import IndexConfig, preset
from udq.datasets import Query
from udq.errors import UdqError
from udq.evaluation import benchmark, metrics
from udq.features.extractor import Extractor
from udq.features.feature_store import FeatureStore
from udq.quantization import model
from udq.quantization.head import Head
from udq.quantization.quantizer import Quantizer
from udq.search.scan import exhaustive
from udq.training import fitting, sampling
from udq.training.algorithm import TrainingState, participation_ratio, spreads
from udq.types import Features

SHARES = (0.25, 0.5, 1.0)
SUBSPACES, CODEWORDS = (2, 4, 8), (64, 256)


class States:
    """A checkpoint that keeps every state."""

    def __init__(self) -> None:
        self.kept: list[TrainingState] = []

    def read(self) -> None:
        """Start from the beginning."""

    def write(self, state: TrainingState) -> None:
        """Keep a state."""
        self.kept.append(state)


class Measured:
    """A set with the features of its photos and queries in the feature cache."""

    def __init__(self, found: DevelopmentSet, folder: Path) -> None:
        config = preset("default")
        extractor = Extractor(config.images, config.features, config.keypoints, device="cpu")
        self.store = FeatureStore(folder, extractor, config)
        readable = [photo for photo in self.store.extract(found.sources) if photo.broken is None]
        self.names = np.array([photo.source.name for photo in readable])
        self.sources = [photo.source for photo in readable]
        self.starts = np.cumsum([0, *(len(photo.regions) for photo in readable)])[:-1]
        paths = {source.name: source.path for source in self.sources}
        broken = {source.name for source in found.sources} - set(paths)
        self.queries = benchmark.protocol_queries(found.truth, paths, broken, queries=found.queries)
        asked = zip(self.queries.truth.queries, self.queries.boxes, strict=True)
        pooled = [self.store.describe(self.queries.paths[query.image], box) for query, box in asked]
        self.asked = Features(np.stack(pooled))

    def features(self, head: Head) -> Features:
        """Return the unit features (G, d) of all regions."""
        return Features(
            np.concatenate([head.apply(each.features).vectors for each in self.store.extract(self.sources)])
        )

    def accuracy(self, quantizer: Quantizer, features: Features, head: Head) -> float:
        """Return mAP of the codes of all regions."""
        codes = quantizer.encode(features).values
        scores = []
        for query, vector in zip(self.queries.truth.queries, head.apply(self.asked).vectors, strict=True):
            distance = exhaustive.distances(quantizer.lookup_tables(vector), codes)
            scores.append(self._precision(query, np.minimum.reduceat(distance, self.starts)))
        return round(statistics.fmean(scores), 4)

    def _precision(self, query: Query, distance: NDArray[np.float32]) -> float:
        order = self.names[np.argsort(distance, kind="stable")].tolist()
        left_out = query.junk if self.queries.keep_query else query.junk | {query.image}
        return metrics.average_precision([name for name in order if name not in left_out], query.positives - left_out)


def measure(found: DevelopmentSet, folder: Path, seed: int) -> dict[str, Any]:
    """Return the figures of one set."""
    collection = Measured(found, folder)
    config = preset("default").replace({"sample": {"seed": seed}, "training": {"stop_early": False}})
    rows = sampling.training_sample(len(collection.sources), config.sample)
    sample = sampling.draw(collection.store.extract(collection.sources[row] for row in rows), len(rows), config.sample)
    untrained = model.start(sample.features, config.quantizer)
    states = States()
    fitting.learn(sample, config, torch.device("cpu"), progress, checkpoint=states)
    start = states.kept[0].untrained  # with rotations, which change nothing
    heads = {"untrained": untrained, "verified pairs alone": start} | {
        f"round {number}, share {share:g}": state.averaged({}, share=share)[0]
        for number, state in enumerate(states.kept, start=1)
        for share in SHARES
        if number == len(states.kept) or share == config.training.share
    }
    figures: dict[str, Any] = {"photos": len(collection.names), "queries": len(collection.asked), "states": {}}
    for name, head in heads.items():
        features = collection.features(head)
        fitted = model.fit(sample.features, head, config.quantizer, seed=seed).quantizer
        drawn = head.apply(sample.features)
        error = float(np.mean(fitted.errors(drawn, fitted.encode(drawn))))
        figures["states"][name] = {
            "mAP": collection.accuracy(fitted, features, head),
            "participation_ratio": round(participation_ratio(drawn), 2),
            "error": round(error / float(drawn.vectors.var(axis=0).sum()), 4),
        }
        print(found.name, name, figures["states"][name], flush=True)
    kept = _kept(states, participation_ratio(start.apply(sample.features)))
    figures |= {"kept": kept, "cells": {}}
    plain = collection.features(untrained)
    for cell, settings in _cells(config):
        trained = states.kept[kept - 1].averaged({}, share=settings.share())[0] if kept else start
        before, after = (
            model.fit(sample.features, head, settings.quantizer, seed=seed).quantizer for head in (untrained, trained)
        )
        figures["cells"][cell] = {
            "untrained": collection.accuracy(before, plain, untrained),
            "trained": collection.accuracy(after, collection.features(trained), trained),
        }
        print(found.name, cell, figures["cells"][cell], flush=True)
    return figures


def _cells(config: IndexConfig) -> Iterator[tuple[str, IndexConfig]]:
    for subspaces in SUBSPACES:
        for codewords in CODEWORDS:
            changes = {"quantizer": {"subspaces": subspaces, "codewords": codewords}}
            yield f"{subspaces} x {codewords}", config.replace(changes)


def _kept(states: States, before: float) -> int:
    """Return the number of rounds that early stopping keeps."""
    for number, state in enumerate(states.kept):
        reached = state.rounds[-1].participation_ratio
        if spreads(before, reached):
            return number
        before = reached
    return len(states.kept)


def main() -> None:
    """Print the figures of each set; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--sets", nargs="+", default=sets.NAMES, metavar="NAME", help=", ".join(sets.NAMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    measured: dict[str, Any] = {}
    with one_core_each():
        for found in sets.load(given.data, given.sets, given.cache / "sets"):
            measured[found.name] = measure(found, given.cache / "features", given.seed)
            if given.json:
                facts = {"sets": measured, "provenance": provenance(seed=given.seed)}
                given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UdqError as error:
        sys.exit(f"generality: {error}")
