"""Region proposers side by side: what share of the objects they cover, and what a search makes of their regions.

    python benchmarks/decisions/proposals.py DATA [--sets NAME ...] [--rpn FILE] [--cache FOLDER] [--recall OUT]
                                             [--seeds N] [--retrieval OUT]

DATA and --cache are those of benchmarks/accuracy. Recall is of the true boxes of a set, in queries and positives, at an
intersection over union of 0.5, by the object's share of its photo, for numbers of regions in proportion to the pixels
of the photo: the first ones of what ``Extractor.extract`` returns, on at most ``--photos`` photos of a set. Each
retrieval row builds and evaluates a collection of instre_dev with the default preset but for the proposer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import sets

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import ImageConfig, IndexConfig, preset
from udq.errors import UdqError
from udq.evaluation.benchmark import evaluate
from udq.evaluation.by_size import SIZES, size_class
from udq.features.extractor import Extractor
from udq.photos import decoding, pyramid
from udq.photos.source import Source
from udq.types import Box

RATES = (50, 100, 200, 500, 1000)
"""Regions per megapixel of the photo."""
OVERLAP = 0.5
MOST_PHOTOS = 100  # of a set
MEASURED = ("instre_dev", "instre_dev-2x2", "instre_dev-4x4", "logos_dev", "covers_dev", "paintings_dev")
PROPOSERS = {
    "grid": IndexConfig().replace({"images": {"smallest": 0.0}, "features": {"proposals": "grid"}}),
    "rpn, one view": IndexConfig().replace({"images": {"smallest": 0.0}}),
    "rpn": IndexConfig(),
    "rpn, fine": preset("fine"),
}
RETRIEVED: dict[str, dict[str, object]] = {
    "grid": {"proposals": "grid"},
    "rpn, 100": {"proposals": "rpn", "regions": 100},
    "rpn, 200": {"proposals": "rpn", "regions": 200},
    "rpn, 100, + grid": {"proposals": "rpn+grid", "regions": 100},
}


class Boxed(NamedTuple):
    """A photo with objects.

    Attributes:
        source: the photo.
        size: width and height in its own pixels.
        boxes: of its objects.
    """

    source: Source
    size: tuple[int, int]
    boxes: tuple[Box, ...]

    @property
    def megapixels(self) -> float:
        """Millions of pixels of the photo."""
        return self.size[0] * self.size[1] / 1e6


def boxed(found: sets.DevelopmentSet, most: int) -> list[Boxed]:
    """Return the photos of a set that have true boxes; a sample of them, the same each time, if there are many."""
    boxes: dict[str, set[Box]] = {}
    for query in found.truth.queries:
        drawn = {query.image: query.box} if query.box else {}
        for name, box in {**query.boxes, **drawn}.items():
            boxes.setdefault(name, set()).add(box)
    photos = [source for source in found.sources if source.name in boxes]
    random.Random(0).shuffle(photos)
    return [Boxed(photo, _size(photo), tuple(sorted(boxes[photo.name]))) for photo in photos[:most]]


def _size(photo: Source) -> tuple[int, int]:
    with photo.local() as file:
        return decoding.shown_size(file)


def enough(photos: Sequence[Boxed], image: ImageConfig) -> int:
    """Return the setting ``features.regions`` that keeps as many regions of each photo as the highest rate takes."""
    scale = {"shorter": image.shorter, "longer": image.longer, "smallest": image.smallest}
    return max(math.ceil(RATES[-1] * photo.megapixels / sum(pyramid.levels(*photo.size, **scale))) for photo in photos)


def measure(photos: Sequence[Boxed], config: IndexConfig, rpn: Path | None) -> dict[str, Any]:
    """Extract the photos once, and compare the first regions of each, for every rate, with its objects.

    Returns:
        ``regions``: found per photo, on average; ``ms``: of decoding and extraction per photo; ``recall``: rate -> key
        of the class -> share of its objects that a region overlaps by ``OVERLAP``.
    """
    feature = replace(config.features, regions=enough(photos, config.images))
    extractor = Extractor(config.images, feature, rpn=rpn, device="cpu").proposing()
    covered: dict[int, dict[str, list[bool]]] = {rate: {size.key: [] for size in SIZES} for rate in RATES}
    numbers = []
    started = time.perf_counter()
    for photo, found in zip(photos, extractor.extract([photo.source for photo in photos]), strict=True):
        if found.broken:
            raise UdqError(found.broken)
        numbers.append(len(found.regions))
        # The last region is the whole photo, which every collection has besides.
        overlaps = box_iou(torch.tensor(photo.boxes), torch.from_numpy(found.regions.boxes[:-1].copy())).numpy()
        for box, row in zip(photo.boxes, overlaps, strict=True):
            if size := size_class(box, *photo.size):
                for rate, of_class in covered.items():
                    first = row[: max(1, round(rate * photo.megapixels))]
                    of_class[size].append(bool(first.max(initial=0.0) >= OVERLAP))
    return {
        "regions": round(fmean(numbers), 1),
        "ms": round(1e3 * (time.perf_counter() - started) / len(photos), 1),
        "recall": {
            str(rate): {key: round(fmean(hits), 4) for key, hits in of_class.items() if hits}
            for rate, of_class in covered.items()
        },
    }


def recall(found: Sequence[sets.DevelopmentSet], rpn: Path | None, most: int, output: Path) -> None:
    """Measure recall by size of each proposer on each set, and write it after each set."""
    report: dict[str, Any] = {}
    for each in found:
        photos = boxed(each, most)
        keys = [size_class(box, *photo.size) for photo in photos for box in photo.boxes]
        rows = {}
        for name, config in PROPOSERS.items():
            rows[name] = measure(photos, config, rpn if config.features.proposals == "rpn" else None)
            print(f"{each.name:<15} {name:<15} {rows[name]}", flush=True)
        objects = {size.key: keys.count(size.key) for size in SIZES if size.key in keys}
        megapixels = round(fmean(photo.megapixels for photo in photos), 2)
        report[each.name] = {"photos": len(photos), "megapixels": megapixels, "objects": objects, "proposers": rows}
        write(output, {"sets": report})


def retrieval(found: sets.DevelopmentSet, changes: dict[str, object], seed: int) -> dict[str, Any]:
    """Build and evaluate one collection."""
    with tempfile.TemporaryDirectory() as scratch:
        config = IndexConfig().replace({"features": changes, "sample": {"seed": seed}})
        started = time.perf_counter()
        made = Collection.build(found.sources, Path(scratch, "x.udq"), config=config, device="cpu")
        seconds = time.perf_counter() - started
        report = evaluate(made, found.truth, stages=()).report
        bytes_on_disk = made.info()["bytes_on_disk"]
    figures = {name: report[name] for name in ("mAP", "localisation", "by_size", "regions")}
    return {**figures, "bytes_on_disk": bytes_on_disk, "seconds": round(seconds, 1)}


def write(file: Path, report: dict[str, Any]) -> None:
    """Write figures and how they were made."""
    file.write_text(json.dumps({**report, "provenance": provenance(seed=0)}, indent=1) + "\n")


def main() -> None:
    """Print recall, and retrieval where its file is named; write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("--sets", nargs="+", default=MEASURED, metavar="NAME", help=", ".join(MEASURED))
    parser.add_argument("--rpn", type=Path, metavar="FILE", help="a network of udq train-rpn, for recall")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--photos", type=int, default=MOST_PHOTOS, metavar="N", help="of a set, at most, for recall")
    parser.add_argument("--recall", type=Path, metavar="OUT", help="measure recall, and write it here")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of retrieval")
    parser.add_argument("--retrieval", type=Path, metavar="OUT", help="measure retrieval, and write it here")
    given = parser.parse_args()
    if given.recall:
        recall(sets.load(given.data, given.sets, given.cache / "sets"), given.rpn, given.photos, given.recall)
    if given.retrieval:
        (objects,) = sets.load(given.data, [sets.OBJECTS], given.cache / "sets")
        report: dict[str, Any] = {}
        for name, changes in RETRIEVED.items():
            report[name] = [retrieval(objects, changes, seed) for seed in range(given.seeds)]
            for row in report[name]:
                iou = row["localisation"]["top_20"]["mean_iou"]
                print(f"{name:<20} mAP {row['mAP']:.4f}  IoU {iou:.3f}  {row['regions']:,} regions", flush=True)
        write(given.retrieval, {"retrieval": report})


if __name__ == "__main__":
    try:
        main()
    except UdqError as error:
        sys.exit(f"proposals: {error}")
