"""Small objects in photos of 12 and 24 megapixels: cut-outs of a data set's objects, pasted into enlarged photos.

Real photos of that size with exact boxes are not among the development sets. The backgrounds are real photos without
any of the objects, enlarged, then sharpened and given noise, so that they are not blank at full size. The collection
holds other photos of the data set too, which show none of the objects. Queries are those of the data set, but for
photos that a composite holds a cut-out of. The same data gives the same photos: everything is drawn from one seed, in a
fixed order.
"""

from __future__ import annotations

import csv
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from udq.errors import InputError
from udq.photos.source import Source, find

SIZES = ((4000, 3000), (6000, 4000))
"""Width and height of the composites, in pixels: each object has one of each size with each share."""
SHARES = (0.01, 0.003)
"""Of the area of a composite that the box of its object takes."""
PHOTOS = 500
"""In the collection: composites, and other photos."""
_FROM_PLACES = 2 / 3  # of the backgrounds; the rest are photos of the data set
_SEED = 17
_FEATHER = 4  # pixels, inside the box
_NOISE = 5  # of 255, at most
_SHARPEN = ImageFilter.UnsharpMask(radius=3, percent=60, threshold=0)
_HEADER = ("query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes", "junk")


class CutOut(NamedTuple):
    """An object in a photo.

    Attributes:
        name: file name of the photo.
        box: x1, y1, x2, y2 in its pixels.
    """

    name: str
    box: tuple[float, ...]

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


def compose(
    source: Path,
    places: Path,
    output: Path,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    shares: Sequence[float] = SHARES,
    photos: int = PHOTOS,
) -> None:
    """Write composites, other photos, queries, and their ground truth, in the format of the dataset ``boxes``.

    Args:
        source: holds ``images`` and ``ground_truth.csv``.
        places: holds further backgrounds, in folders.
        output: gets ``images``, ``queries`` and ``ground_truth.csv``.
        sizes: width and height in pixels of the composites of each object and share.
        shares: of the area of a composite that the box of its object takes.
        photos: in ``images``.

    Raises:
        InputError: an object without a known box in a photo besides its query, or too few photos.
    """
    with (source / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    firsts = first_queries(rows)
    kinds = [(size, share) for share in shares for size in sizes]
    rng = random.Random(_SEED)
    backgrounds, others = _divided(source, places, rows, len(firsts) * len(kinds), photos, rng)
    (output / "images").mkdir(parents=True)
    (output / "queries").mkdir()
    answers: list[list[str]] = []
    for number, first in enumerate(firsts):
        made: list[tuple[str, str]] = []
        cuts = cut_outs(first, len(kinds))
        for (size, share), cut_out in zip(kinds, cuts, strict=True):
            name = f"c{number * len(kinds) + len(made):04d}.jpg"
            with Image.open(source / "images" / cut_out.name) as photo:
                cut = photo.convert("RGB").crop(tuple(map(round, cut_out.box)))
            box = _paste(next(backgrounds), cut, size, share, rng, output / "images" / name)
            made.append((name, " ".join(map(str, box))))
        positives, boxes = ("|".join(part) for part in zip(*made, strict=True))
        known = {cut_out.name for cut_out in cuts}
        for query in (row for row in rows if row["object"] == first["object"] and row["query_image"] not in known):
            with Image.open(source / "images" / query["query_image"]) as photo:
                photo.save(output / "queries" / f"q{query['query_image']}", quality=95)
            corners = [query[name] for name in ("x1", "y1", "x2", "y2")]
            answers.append([f"q{query['query_image']}", *corners, query["object"], positives, boxes, ""])
    for other in others:
        shutil.copyfile(other.path, output / "images" / other.name)
    with (output / "ground_truth.csv").open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(_HEADER)
        written.writerows(answers)


def _divided(
    source: Path, places: Path, rows: list[dict[str, str]], composites: int, photos: int, rng: random.Random
) -> tuple[Iterator[Path], list[Source]]:
    """Return the backgrounds of the composites, and the other photos of the collection; none shows an object."""
    shown = {name for row in rows for name in (row["query_image"], *row["positives"].split("|"))}
    free = [photo for photo in find([source / "images"])[0] if photo.name not in shown]
    far = [photo.path for photo in find([places])[0]]
    from_places = round(composites * _FROM_PLACES)
    from_source = composites - from_places
    needed = from_source + photos - composites
    for kind, expected, found in (("of places", from_places, far), ("without an object", needed, free)):
        if len(found) < expected:
            raise InputError(f"composites: expected {expected} photos {kind}, found {len(found)}; add photos")
    drawn = rng.sample(free, needed)
    backgrounds = [*rng.sample(far, from_places), *(photo.path for photo in drawn[:from_source])]
    rng.shuffle(backgrounds)
    return iter(backgrounds), drawn[from_source:]


def first_queries(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the first row of each object of a ground truth, in the order of the objects' names."""
    firsts = {row["object"]: row for row in reversed(rows)}
    return [firsts[name] for name in sorted(firsts)]


def cut_outs(query: dict[str, str], count: int) -> list[CutOut]:
    """Return the largest known boxes of a query's object in other photos, again from the first if they are few."""
    pairs = zip(query["positives"].split("|"), query["positive_boxes"].split("|"), strict=True)
    known = [CutOut(name, tuple(map(float, box.split()))) for name, box in pairs if box]
    if not known:
        raise InputError(
            f"composites: expected a box of '{query['object']}' in a positive of {query['query_image']}, found none; "
            "add one to positive_boxes"
        )
    known.sort(key=lambda cut_out: (-cut_out.area, cut_out.name))
    return [known[i % len(known)] for i in range(count)]


def _paste(
    background: Path, cut: Image.Image, size: tuple[int, int], share: float, rng: random.Random, file: Path
) -> tuple[int, int, int, int]:
    """Write a composite and return the box of its object, x1, y1, x2, y2 in whole pixels: ``share`` or little more."""
    with Image.open(background) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    canvas = ImageOps.fit(upright, size, Image.Resampling.LANCZOS).filter(_SHARPEN)
    area = share * size[0] * size[1]
    across = math.ceil(math.sqrt(area * cut.width / cut.height))
    down = math.ceil(area / across)
    x, y = rng.randrange(size[0] - across + 1), rng.randrange(size[1] - down + 1)
    canvas.paste(cut.resize((across, down), Image.Resampling.LANCZOS), (x, y), _feathered(across, down))
    pixels = np.asarray(canvas, np.int16)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(-_NOISE, _NOISE + 1, (*pixels.shape[:2], 1), np.int8)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
    return x, y, x + across, y + down


def _feathered(width: int, height: int) -> Image.Image:
    """Return a mask whose edge fades over a few pixels."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (_FEATHER // 2, _FEATHER // 2, width - _FEATHER // 2, height - _FEATHER // 2))
    return mask.filter(ImageFilter.GaussianBlur(_FEATHER / 2))
