"""What the default settings are worth: mAP of 8-byte codes with one choice changed at a time.

    python benchmarks/decisions/choices.py PHOTOS GROUND_TRUTH [--json OUT]

Each row builds and evaluates a collection (dataset ``boxes``) with the default preset but for what it names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.datasets import REGISTRY, GroundTruth
from udq.evaluation.benchmark import evaluate
from udq.features import device as devices

VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "default": {},
    "whitened": {"quantizer": {"whiten": True}},
    "50 regions a photo": {"features": {"regions": 50}},
    "200 regions a photo": {"features": {"regions": 200}},
    "a grid of windows": {"features": {"proposals": "grid"}},
    "average pooling (p = 1)": {"features": {"p": 1.0}},
    "128 dimensions": {"quantizer": {"dimensions": 128}},
    "4 alternations of rotation and codebooks": {"quantizer": {"iterations": 4}},
    "a sample of 20,000 regions": {"sample": {"regions": 20_000}},
    "another seed": {"sample": {"seed": 1}},
    "network in float32": {},
}


def measure(photos: Path, truth: GroundTruth, changes: dict[str, dict[str, object]]) -> dict[str, object]:
    """Build and evaluate one collection."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        config = IndexConfig().replace({"training": {"enabled": False}}).replace(changes)
        made = Collection.build(photos, Path(scratch, "x.udq"), config=config, device="cpu")
        seconds = time.perf_counter() - started
        report = evaluate(made, truth, stages=()).report
    return {
        "mAP": report["mAP"],
        "mean_iou": report["localisation"]["top_20"]["mean_iou"],
        "regions": report["regions"],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    truth = REGISTRY["boxes"](arguments.ground_truth)
    rows = {}
    for name, changes in VARIANTS.items():
        if name == "network in float32":
            devices.fast_precision = lambda device: torch.float32
        rows[name] = measure(arguments.photos, truth, changes)
        print("{mAP:.4f}  IoU {mean_iou:.3f}  {regions:>8,} regions  {seconds:5.1f} s  ".format(**rows[name]) + name)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "provenance": provenance(seed=0)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
