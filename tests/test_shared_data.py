"""Accuracy on real benchmark photos; skipped where they are absent."""

from __future__ import annotations

import pytest

from udq import Collection
from udq.datasets import REGISTRY
from udq.evaluation.benchmark import evaluate

pytestmark = pytest.mark.shared_data


def test_eight_byte_codes_find_the_objects_of_instre(shared_data, tmp_path):
    folder = shared_data / "instre_dev"
    collection = Collection.build(folder / "images", tmp_path / "x.udq", device="cpu")
    report = evaluate(collection, REGISTRY["boxes"](folder / "ground_truth.csv"), real_valued=True).report

    assert (report["images"], report["queries"], report["bytes_per_region"]) == (1500, 156, 8)
    assert report["mAP"] >= 0.95  # measured 0.961
    assert report["real_valued"]["mAP"] >= 0.95  # measured 0.960
    assert report["localisation"]["top_20"]["boxes"] > 1000


def test_photos_of_every_size_are_indexed(shared_data, tmp_path):
    folder = shared_data / "landmarks"
    collection = Collection.build(folder, tmp_path / "x.udq", device="cpu")

    assert len(collection) > 100
    assert collection.broken == []
    name = collection.names[0]
    assert collection.search(folder / name, k=1).matches[0].image == name
