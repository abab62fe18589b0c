"""Write the boxes that the region proposal network is trained on: of every set but those it is judged on.

    python benchmarks/decisions/rpn_labels.py DATA OUTPUT

OUTPUT gets ``boxes.csv``, with names relative to DATA, and ``collages``, a folder in the layout of YOLO:

- of instre_dev, ``object_boxes.csv`` without the photos of the benchmark;
- of logos_dev and covers_dev, queries and positives of every second object, without photos that show another one;
- collages of 2 x 2 of these photos of instre_dev, whose objects are small.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import mosaic

from udq import datasets
from udq.types import Box

SHARED = ("logos_dev", "covers_dev")
"""Sets of whose objects one half is for training."""
CELLS = 2  # across and down a collage


def half(folder: Path) -> Iterator[tuple[str, Box]]:
    """Yield photos and boxes of every second object of a set."""
    photos, objects = _rows(folder / "ground_truth.csv")
    trained = set(sorted(objects)[::2])
    for name, boxes in sorted(photos.items()):
        if boxes.keys() <= trained:
            yield from ((name, box) for box in boxes.values() if box)


def _rows(file: Path) -> tuple[dict[str, dict[str, Box | None]], set[str]]:
    """Return photo -> object -> box (None if unknown), and all objects, of a ground truth."""
    photos: dict[str, dict[str, Box | None]] = {}
    objects = set()
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            objects.add(row["object"])
            own = " ".join(row[corner] for corner in ("x1", "y1", "x2", "y2"))
            names, boxes = row["positives"].split("|"), row["positive_boxes"].split("|")
            for name, box in zip([row["query_image"], *names], [own, *boxes], strict=True):
                x = [float(corner) for corner in box.split()]
                photos.setdefault(name, {})[row["object"]] = (x[0], x[1], x[2], x[3]) if x else None
    return photos, objects


def outside(folder: Path) -> dict[str, list[Box]]:
    """Return the boxes of instre_dev's photos that are not of the benchmark, by photo."""
    queries = datasets.load("boxes", folder / "ground_truth.csv").queries
    benchmark = {query.image for query in queries} | {name for query in queries for name in query.positives}
    found: dict[str, list[Box]] = {}
    with (folder / "object_boxes.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["image"] not in benchmark:
                x1, y1, x2, y2 = (float(row[corner]) for corner in ("x1", "y1", "x2", "y2"))
                found.setdefault(row["image"], []).append((x1, y1, x2, y2))
    return found


def collages(images: Path, boxes: Mapping[str, Sequence[Box]], output: Path) -> None:
    """Write collages and the boxes in them; photos that fill no whole collage are left out."""
    names = sorted(name for name in boxes if (images / name).is_file())
    random.Random(0).shuffle(names)
    (output / "images").mkdir(parents=True)
    (output / "labels").mkdir()
    width, height = (CELLS * side for side in mosaic.CELL)
    size = CELLS * CELLS
    for start in range(0, len(names) - size + 1, size):
        file = output / "images" / f"{start // size:04d}.jpg"
        cells = mosaic.paste(images, names[start : start + size], CELLS, file)
        lines = []
        for name, cell in cells.items():
            for box in boxes[name]:
                x1, y1, x2, y2 = (corner * cell.scale + (cell.x, cell.y)[i % 2] for i, corner in enumerate(box))
                place = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
                lines.append("0 " + " ".join(f"{value:.6f}" for value in place))
        (output / "labels" / f"{file.stem}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="a new folder")
    given = parser.parse_args()
    given.output.mkdir(parents=True)
    boxes = outside(given.data / "instre_dev")
    rows = [("instre_dev", name, box) for name, found in sorted(boxes.items()) for box in found]
    rows += [(folder, name, box) for folder in SHARED for name, box in half(given.data / folder)]
    with (given.output / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "x1", "y1", "x2", "y2"))
        writer.writerows((f"{folder}/images/{name}", *box) for folder, name, box in rows)
    collages(given.data / "instre_dev" / "images", boxes, given.output / "collages")


if __name__ == "__main__":
    main()
