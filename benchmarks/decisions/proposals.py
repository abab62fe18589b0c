"""Region proposers side by side: what share of the objects they cover, and what a search makes of their regions.

    python benchmarks/decisions/proposals.py DATA [--sets NAME ...] [--rpn FILE] [--cache FOLDER] [--recall OUT]
                                             [--seeds N] [--retrieval OUT]

DATA and --cache are those of benchmarks/accuracy. Recall is of the true boxes of a set, in queries and positives, by
the object's share of its photo, for numbers of regions in proportion to the pixels of the photos. It is measured on
what ``Extractor.extract`` returns, on at most 40 photos of a set. Each retrieval row builds and evaluates a collection
of instre_dev with the default preset but for the proposer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
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
OVERLAPS = (0.5, 0.7)
MOST_PHOTOS, MOST_MEGAPIXELS = 40, 300.0  # of a set
MOST_REGIONS = 5000  # of a photo on average: rates that need more are left out
MEASURED = ("instre_dev", "instre_dev-2x2", "instre_dev-4x4", "logos_dev", "covers_dev", "composites", "demo")
PROPOSERS = {
    "rpn, one view": preset("default").replace({"images": {"smallest": 0.0}}),
    "rpn": preset("default"),
    "rpn, fine": preset("fine"),
}
GRID = preset("default").replace({"features": {"proposals": "grid"}})
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


class Covered(NamedTuple):
    """An object.

    Attributes:
        size: key of its class.
        overlap: its IoU with the best region.
    """

    size: str
    overlap: float


class Measured(NamedTuple):
    """One proposer on the photos of one set, or of several.

    Attributes:
        objects: all objects of the photos.
        regions: number of regions of each photo.
        seconds: of decoding and extraction.
    """

    objects: list[Covered]
    regions: list[int]
    seconds: float

    @staticmethod
    def together(parts: Sequence[Measured]) -> Measured:
        """Return several sets as one."""
        objects = [each for part in parts for each in part.objects]
        regions = [number for part in parts for number in part.regions]
        return Measured(objects, regions, sum(part.seconds for part in parts))


def boxed(found: sets.DevelopmentSet) -> list[Boxed]:
    """Return the photos of a set that have true boxes; a sample of them, the same each time, if there are many."""
    boxes: dict[str, set[Box]] = {}
    for query in found.truth.queries:
        drawn = {query.image: query.box} if query.box else {}
        for name, box in {**query.boxes, **drawn}.items():
            boxes.setdefault(name, set()).add(box)
    photos = [source for source in found.sources if source.name in boxes]
    random.Random(0).shuffle(photos)
    sample: list[Boxed] = []
    megapixels = 0.0
    for photo in photos[:MOST_PHOTOS]:
        sample.append(Boxed(photo, _size(photo), tuple(sorted(boxes[photo.name]))))
        megapixels += sample[-1].megapixels
        if megapixels >= MOST_MEGAPIXELS:
            break
    return sample


def _size(photo: Source) -> tuple[int, int]:
    with photo.local() as file:
        return decoding.shown_size(file)


def regions_for(rate: float, photos: Sequence[Boxed], image: ImageConfig) -> int:
    """Return the setting ``features.regions`` that keeps this many regions per megapixel on average."""
    wanted = rate * sum(photo.megapixels for photo in photos)
    scale = {"shorter": image.shorter, "longer": image.longer, "smallest": image.smallest}
    levels = sum(sum(pyramid.levels(*photo.size, **scale)) for photo in photos)
    return max(1, round(wanted / levels))


def measure(photos: Sequence[Boxed], config: IndexConfig, rpn: Path | None) -> Measured:
    """Extract the photos and compare their regions with their objects."""
    extractor = Extractor(config.images, config.features, rpn=rpn, device="cpu").proposing()
    objects: list[Covered] = []
    numbers = []
    started = time.perf_counter()
    for photo, found in zip(photos, extractor.extract([photo.source for photo in photos]), strict=True):
        if found.broken:
            raise UdqError(found.broken)
        numbers.append(len(found.regions))
        boxes = torch.tensor(photo.boxes, dtype=torch.float32)
        best = box_iou(boxes, torch.from_numpy(found.regions.boxes.copy())).amax(dim=1).tolist()
        for box, overlap in zip(photo.boxes, best, strict=True):
            if size := size_class(box, *photo.size):
                objects.append(Covered(size, overlap))
    return Measured(objects, numbers, time.perf_counter() - started)


def shares(objects: Iterable[Covered]) -> dict[str, dict[str, float]]:
    """Return the share of the objects of each class that have a region of an IoU: IoU -> key of the class -> 0..1."""
    of_class: dict[str, list[float]] = {size.key: [] for size in SIZES}
    for each in objects:
        of_class[each.size].append(each.overlap)
    return {
        f"{least:g}": {
            key: round(float((np.array(overlaps) >= least).mean()), 4) for key, overlaps in of_class.items() if overlaps
        }
        for least in OVERLAPS
    }


def counted(objects: Iterable[Covered]) -> dict[str, int]:
    """Return the number of objects of each class that has any."""
    keys = [each.size for each in objects]
    return {size.key: keys.count(size.key) for size in SIZES if size.key in keys}


def recall(found: Sequence[sets.DevelopmentSet], rpn: Path | None, output: Path) -> None:
    """Measure recall by size of each proposer and rate on each set, and write it after each.

    ``all`` is on the objects of the sets together that have every rate.
    """
    report: dict[str, Any] = {}
    together: dict[tuple[str, str], list[Measured]] = {}
    for each in found:
        photos = boxed(each)
        megapixels = fmean(photo.megapixels for photo in photos)
        rates = [rate for rate in RATES if rate * megapixels <= MOST_REGIONS]
        measured: dict[tuple[str, str], Measured] = {}
        for name, rate, config in _settings(photos, rates):
            done = measured[name, rate] = measure(photos, config, rpn)
            print(f"{each.name:<15} {name:<15} {rate:<5} {done.seconds:5.0f} s {shares(done.objects)}", flush=True)
            if len(rates) == len(RATES):
                together.setdefault((name, rate), []).append(done)
        report[each.name] = {"megapixels": round(megapixels, 2), **_figures(measured)}
        pooled = {key: Measured.together(parts) for key, parts in together.items()}
        write(output, {"sets": report, "all": _figures(pooled) if pooled else None})


def _settings(photos: Sequence[Boxed], rates: Sequence[float]) -> Iterable[tuple[str, str, IndexConfig]]:
    """Yield name, rate and settings of what is measured; the number of the grid depends on shape and size alone."""
    yield "grid", "", GRID
    for name, config in PROPOSERS.items():
        for rate in rates:
            regions = regions_for(rate, photos, config.images)
            yield name, str(rate), replace(config, features=replace(config.features, regions=regions))


def _figures(measured: Mapping[tuple[str, str], Measured]) -> dict[str, Any]:
    """Return the figures of a report."""
    rows = [
        {
            "proposer": name,
            "rate": rate,
            "regions_per_photo": round(fmean(done.regions), 1),
            "ms_per_photo": round(1e3 * done.seconds / len(done.regions), 1),
            "recall": shares(done.objects),
        }
        for (name, rate), done in measured.items()
    ]
    first = next(iter(measured.values()))
    return {"photos": len(first.regions), "objects": counted(first.objects), "rows": rows}


def retrieval(found: sets.DevelopmentSet, changes: dict[str, object], seed: int) -> dict[str, Any]:
    """Build and evaluate one collection."""
    with tempfile.TemporaryDirectory() as scratch:
        config = IndexConfig().replace({"features": changes, "sample": {"seed": seed}})
        started = time.perf_counter()
        made = Collection.build(found.sources, Path(scratch, "x.udq"), config=config, device="cpu")
        seconds = time.perf_counter() - started
        report = evaluate(made, found.truth).report
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
    parser.add_argument("--recall", type=Path, metavar="OUT", help="measure recall, and write it here")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of retrieval")
    parser.add_argument("--retrieval", type=Path, metavar="OUT", help="measure retrieval, and write it here")
    given = parser.parse_args()
    if given.recall:
        recall(sets.load(given.data, given.sets, given.cache / "sets"), given.rpn, given.recall)
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
