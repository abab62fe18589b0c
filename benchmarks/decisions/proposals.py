"""Region proposers side by side: what share of the objects they cover, what they cost, and what a search makes of it.

    python benchmarks/decisions/proposals.py PHOTOS GROUND_TRUTH [--seeds 1] [--recall-only] [--json OUT]

Recall is of the boxes of the benchmark's objects, in queries and positives. Each retrieval row builds and evaluates a
collection with the default preset but for the proposer. Times are of one
thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import FeatureConfig, ImageConfig, IndexConfig
from udq.datasets import REGISTRY, GroundTruth
from udq.evaluation.benchmark import evaluate
from udq.evaluation.metrics import intersection_over_union
from udq.features import proposals
from udq.features.extractor import Extractor
from udq.photos import decoding

COUNTS = (50, 100, 200, 500)
OVERLAPS = (0.5, 0.7)
RETRIEVED: dict[str, dict[str, object]] = {
    "grid": {"proposals": "grid"},
    "rpn, 100": {"proposals": "rpn", "regions": 100},
    "rpn, 200": {"proposals": "rpn", "regions": 200},
    "rpn, 100, + grid": {"proposals": "rpn+grid", "regions": 100},
}
# Shares of a photo's area, and what objects of them are called.
SIZES = {"below 5 %": (0.0, 0.05), "5 to 20 %": (0.05, 0.2), "above 20 %": (0.2, 1.01)}


def recall(photos: Path, truth: GroundTruth) -> dict[str, Any]:
    """Return recall and milliseconds a photo of each proposer at its best ``COUNTS`` regions."""
    objects: dict[str, set[tuple[float, ...]]] = {}
    for query in truth.queries:
        drawn = {query.image: query.box} if query.box else {}
        for name, box in {**query.boxes, **drawn}.items():
            objects.setdefault(name, set()).add(box)
    image, extractor = ImageConfig(), Extractor(ImageConfig(), FeatureConfig(), device="cpu")
    torch.set_num_threads(1)
    made = {}
    for name in proposals.REGISTRY:
        feature = FeatureConfig(proposals=name, regions=max(COUNTS))
        made[name] = proposals.build(feature, rpn=None, engine=extractor.engine)
    best: dict[str, list[list[float]]] = {name: [] for name in made}
    took: dict[str, list[float]] = {name: [] for name in [*made, "the backbone, before any of them"]}
    numbers: dict[str, list[int]] = {name: [] for name in made}
    for name, boxes in sorted(objects.items()):
        photo = decoding.load(photos / name, shorter=image.shorter, longer=image.longer)
        started = time.perf_counter()
        maps = extractor.maps(photo.pixels)
        took["the backbone, before any of them"].append(time.perf_counter() - started)
        for proposer, propose in made.items():
            started = time.perf_counter()
            found = propose(photo, *maps).boxes
            took[proposer].append(time.perf_counter() - started)
            numbers[proposer].append(len(found))
            for box in boxes:
                overlaps = [intersection_over_union(tuple(each), box) for each in found.tolist()]
                best[proposer].append([max(overlaps[:count]) for count in COUNTS])
    rows = {}
    for proposer in made:
        values = np.array(best[proposer])
        rows[proposer] = {
            "recall": {
                f"{overlap:g}": {
                    str(count): round(float(share), 4)
                    for count, share in zip(COUNTS, (values >= overlap).mean(axis=0), strict=True)
                }
                for overlap in OVERLAPS
            },
            "regions": round(float(np.mean(numbers[proposer])), 1),
            "ms": round(1e3 * statistics.median(took[proposer]), 2),
        }
    return {
        "photos": len(objects),
        "objects": sum(map(len, objects.values())),
        "proposers": rows,
        "backbone_ms": round(1e3 * statistics.median(took["the backbone, before any of them"]), 2),
    }


def retrieval(photos: Path, truth: GroundTruth, changes: dict[str, object], seed: int) -> dict[str, Any]:
    """Build and evaluate one collection; mAP also by the size of the query's object."""
    with tempfile.TemporaryDirectory() as scratch:
        config = IndexConfig().replace({"features": changes, "sample": {"seed": seed}})
        started = time.perf_counter()
        made = Collection.build(photos, Path(scratch, "x.udq"), config=config, device="cpu")
        seconds = time.perf_counter() - started
        sizes = {photo.name: photo.width * photo.height for photo in made.images}
        done = evaluate(made, truth)
        bytes_on_disk = made.info()["bytes_on_disk"]
    by_size: dict[str, list[float]] = {name: [] for name in SIZES}
    for outcome in done.outcomes:
        x1, y1, x2, y2 = outcome.query.box or (0, 0, 1, 1)
        share = (x2 - x1) * (y2 - y1) / (sizes[outcome.query.image] if outcome.query.box else 1)
        by_size[next(name for name, (low, high) in SIZES.items() if low <= share < high)].append(outcome.ap)
    return {
        "mAP": done.report["mAP"],
        "localisation": done.report["localisation"],
        "mAP_by_size": {
            name: {"queries": len(aps), "mAP": round(float(np.mean(aps)), 6) if aps else None}
            for name, aps in by_size.items()
        },
        "regions": done.report["regions"],
        "bytes_on_disk": bytes_on_disk,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Print tables; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recall-only", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    truth = REGISTRY["boxes"](arguments.ground_truth)
    threads = torch.get_num_threads()
    report: dict[str, Any] = {"recall": recall(arguments.photos, truth), "retrieval": {}}
    torch.set_num_threads(threads)
    for name, row in report["recall"]["proposers"].items():
        print(f"{name:<20} {row['regions']:6.1f} regions {row['ms']:7.1f} ms  {row['recall']}", flush=True)
    for name, changes in {} if arguments.recall_only else RETRIEVED.items():
        rows = [retrieval(arguments.photos, truth, changes, seed) for seed in range(arguments.seeds)]
        report["retrieval"][name] = rows
        for row in rows:
            first = row["localisation"]["top_20"]
            print(
                f"{name:<20} mAP {row['mAP']:.4f}  IoU {first['mean_iou']:.3f}, {first['share_iou_50']:.0%} at 0.5  "
                f"{row['regions']:,} regions  {row['seconds']:.0f} s",
                flush=True,
            )
    if arguments.json:
        report["provenance"] = provenance(seed=0)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
