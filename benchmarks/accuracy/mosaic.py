"""Small objects in large photos: the photos of a data set, n x n of them in a collage.

Queries stay single photos, and positives are the collages that hold a positive photo. A collage never holds two photos
of one object. The collage that holds the query photo itself is junk: it shows the object, but to find it is no merit.
The same data set gives the same collages: everything is drawn from one seed, in a fixed order.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from udq.errors import InputError

CELL = (448, 336)
"""Width and height of a cell, in pixels."""
_GREY = (127, 127, 127)
_HEADER = ("query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes", "junk")


class Cell(NamedTuple):
    """Where a photo is.

    Attributes:
        collage: file name of the collage.
        x, y: top left corner of the photo in the collage, in pixels.
        scale: by which the photo was made larger or smaller.
    """

    collage: str
    x: int
    y: int
    scale: float


def compose(source: Path, output: Path, n: int) -> None:
    """Write collages, the photos that are asked for, and their ground truth, in the format of the dataset ``boxes``.

    Args:
        source: holds ``images`` and ``ground_truth.csv``.
        output: gets ``images``, ``queries`` and ``ground_truth.csv``.
        n: photos across and down.
    """
    with (source / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rng = random.Random(11)
    groups = _groups(sorted(path.name for path in (source / "images").iterdir()), _objects(rows), n * n, rng)
    (output / "images").mkdir(parents=True)
    (output / "queries").mkdir()
    cells: dict[str, Cell] = {}
    for number, photos in enumerate(groups):
        rng.shuffle(photos)
        cells |= paste(source / "images", photos, n, output / "images" / f"m{number:04d}.jpg")
    for name in {row["query_image"] for row in rows}:
        with Image.open(source / "images" / name) as photo:
            photo.save(output / "queries" / f"q{name}", quality=95)
    with (output / "ground_truth.csv").open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(_HEADER)
        written.writerows(_answers(row, cells) for row in rows)


def _objects(rows: list[dict[str, str]]) -> dict[str, set[str]]:
    """Return the objects that each photo shows, as far as the ground truth says."""
    shown: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name in (row["query_image"], *row["positives"].split("|")):
            shown[name].add(row["object"])
    return shown


def _groups(photos: list[str], shown: dict[str, set[str]], size: int, rng: random.Random) -> list[list[str]]:
    """Return the photos of each collage: ``size`` at most, no two of one object."""
    rng.shuffle(photos)
    count = -(-len(photos) // size)
    groups: list[list[str]] = [[] for _ in range(count)]
    taken: list[set[str]] = [set() for _ in range(count)]
    for name in sorted(photos, key=lambda name: name not in shown):  # photos with objects first: they need the choice
        objects = shown.get(name, set())
        order = list(range(count))
        rng.shuffle(order)
        place = next((i for i in order if len(groups[i]) < size and not taken[i] & objects), None)
        if place is None:
            raise InputError(
                f"mosaic: expected room for '{name}' in one of {count} collages of {size} photos, found none without "
                "another photo of its object; add photos of other objects"
            )
        groups[place].append(name)
        taken[place] |= objects
    return groups


def paste(folder: Path, photos: list[str], n: int, file: Path) -> dict[str, Cell]:
    """Write a collage of at most n x n photos, and return where they are: name -> cell."""
    width, height = CELL
    canvas = Image.new("RGB", (width * n, height * n), _GREY)
    cells = {}
    for place, name in enumerate(photos):
        with Image.open(folder / name) as opened:
            photo = opened.convert("RGB")
        scale = min(width / photo.width, height / photo.height)
        size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
        photo = photo.resize(size, Image.Resampling.LANCZOS)
        x = place % n * width + (width - photo.width) // 2
        y = place // n * height + (height - photo.height) // 2
        canvas.paste(photo, (x, y))
        cells[name] = Cell(file.name, x, y, scale)
    canvas.save(file, quality=90)
    return cells


def _answers(row: dict[str, str], cells: dict[str, Cell]) -> list[str]:
    """Return a row of the new ground truth."""
    home = cells[row["query_image"]].collage
    positives, boxes = [], []
    for name, box in zip(row["positives"].split("|"), row["positive_boxes"].split("|"), strict=True):
        cell = cells[name]
        if cell.collage != home:
            positives.append(cell.collage)
            boxes.append(_moved(box, cell))
    corners = [row[name] for name in ("x1", "y1", "x2", "y2")]
    return [f"q{row['query_image']}", *corners, row["object"], "|".join(positives), "|".join(boxes), home]


def _moved(box: str, cell: Cell) -> str:
    """Return a box of a photo as a box of its collage; an empty one stays empty."""
    corners = [float(corner) * cell.scale for corner in box.split()]
    return " ".join(f"{corner + (cell.x, cell.y)[i % 2]:.1f}" for i, corner in enumerate(corners))
