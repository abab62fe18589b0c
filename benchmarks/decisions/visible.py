"""How large an object must be to be recognised: the share of cut-outs that rank above all other photos, by their size.

    python benchmarks/decisions/visible.py DATA [--cache FOLDER] [--json OUT]

Queries, cut-outs and other photos are those of the composites of benchmarks/accuracy: one query and four photos of each
object of instre_dev, and 440 photos that show none of them. Each object is seen at several sizes, the root of its box's
area in pixels of the network's input: in its own photo; pasted into a photo of landmarks of 448 x 336 pixels; pasted
into one that is then enlarged to twice that, so that the object has the stated size afterwards, with a quarter of the
detail. Its feature is pooled from its true box and compared with the query's, before training and codes: what is
missing here, no later stage brings back. It counts as recognised if it is nearer than every region of the other photos.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy

from accuracy import composites, sets
from accuracy.composites import CutOut

from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.features.extractor import Extractor
from udq.photos.source import find
from udq.types import Box

SIDES = (67, 95, 134, 190, 269)
"""Roots of the area of an object, in pixels of the network's input: each box has twice the area of the one before."""
FRAME = (448, 336)
"""Size of the photos that cut-outs are pasted into."""
EACH = 4  # cut-outs of an object
_RIM = 8  # pixels that a frame is larger than what is pasted into it
_SEED = 3


def in_its_photo(photo: Image.Image, cut: CutOut, side: int, _: Iterator[Image.Image]) -> tuple[Image.Image, Box]:
    """Return the photo at a scale at which the object has this side, and its box."""
    scale = side / math.sqrt(cut.area)
    seen = photo.resize((max(32, round(photo.width * scale)), max(32, round(photo.height * scale))))
    x1, y1, x2, y2 = (edge * scale for edge in cut.box)
    return seen, (x1, y1, x2, y2)


def pasted(
    photo: Image.Image, cut: CutOut, side: int, frames: Iterator[Image.Image], enlarged: int = 1
) -> tuple[Image.Image, Box]:
    """Return a frame that holds the object at this side after it is enlarged, and its box."""
    frame, chosen = next(frames), random.Random(f"{cut.name} {_SEED}")
    picture = photo.crop(tuple(map(round, cut.box)))
    scale = side / enlarged / math.sqrt(picture.width * picture.height)
    scale = min(scale, (FRAME[0] - _RIM) / picture.width, (FRAME[1] - _RIM) / picture.height)
    width, height = int(picture.width * scale), int(picture.height * scale)
    x, y = chosen.randrange(FRAME[0] - width + 1), chosen.randrange(FRAME[1] - height + 1)
    frame.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (x, y))
    seen = frame.resize((FRAME[0] * enlarged, FRAME[1] * enlarged), Image.Resampling.BICUBIC)
    return seen, (x * enlarged, y * enlarged, (x + width) * enlarged, (y + height) * enlarged)


WAYS: dict[str, Callable[[Image.Image, CutOut, int, Iterator[Image.Image]], tuple[Image.Image, Box]]] = {
    "in its own photo": in_its_photo,
    "pasted into another photo": pasted,
    "pasted, then enlarged to twice the size": partial(pasted, enlarged=2),
}


def frames_of(places: Path) -> Iterator[Image.Image]:
    """Yield backgrounds without end, in a fixed order."""
    files = [photo.path for photo in find([places])[0]]
    chosen = random.Random(_SEED)
    while True:
        with Image.open(chosen.choice(files)) as opened:
            yield ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), FRAME)


def nearest(extractor: Extractor, found: sets.DevelopmentSet, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine (Q,) of the nearest region of the photos that show none of the objects to each query."""
    shown = {name for query in found.truth.queries for name in query.positives}
    others = [photo for photo in found.sources if photo.name not in shown]
    best = np.full(len(queries), -1, np.float32)
    with progress("other photos", len(others)) as step:
        for photo in extractor.extract(others):
            best = np.maximum(best, (queries @ photo.features.vectors.T).max(axis=1))
            step()
    return best


def measure(extractor: Extractor, data: Path, cache: Path) -> list[dict[str, Any]]:
    """Return for each way the share of the cut-outs that is recognised, and the mean cosine, by side."""
    (found,) = sets.load(data, [sets.COMPOSITES], cache / "sets")
    source = data / sets.OBJECTS
    with (source / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        asked = composites.first_queries(list(csv.DictReader(file)))
    boxes = [tuple(float(row[corner]) for corner in ("x1", "y1", "x2", "y2")) for row in asked]
    images = [source / "images" / row["query_image"] for row in asked]
    queries = np.stack([extractor.describe(path, box)[1] for path, box in zip(images, boxes, strict=True)])
    least = nearest(extractor, found, queries)
    cuts = [(number, cut) for number, row in enumerate(asked) for cut in composites.cut_outs(row, EACH)]
    measured = []
    for name, way in WAYS.items():
        row: dict[str, Any] = {"way": name, "first": {}, "cosine": {}}
        for side in SIDES:
            frames = frames_of(data / sets.PLACES)
            cosines = []
            for number, cut in cuts:
                with Image.open(source / "images" / cut.name) as photo:
                    seen, box = way(photo.convert("RGB"), cut, side, frames)
                cosines.append(float(feature(extractor, seen, box) @ queries[number]))
            first = [cosine > least[number] for (number, _), cosine in zip(cuts, cosines, strict=True)]
            row["first"][str(side)] = share = round(float(np.mean(first)), 3)
            row["cosine"][str(side)] = cosine = round(float(np.mean(cosines)), 3)
            print(f"{name:42} {side:4} px  first {share:.2f}  cosine {cosine:.3f}", flush=True)
        measured.append(row)
    return measured


def feature(extractor: Extractor, picture: Image.Image, box: Box) -> NDArray[np.float32]:
    """Return the feature (D,) of a box in a picture that is seen at its own scale."""
    feature_map, _ = extractor.maps(np.asarray(picture))
    corners = torch.tensor([box], dtype=torch.float32)
    with torch.inference_mode():
        pooled = extractor.trunk.pool(feature_map, corners, width=picture.width, height=picture.height)
    vector: NDArray[np.float32] = pooled[0].cpu().numpy()
    return vector


def main() -> None:
    """Print figures; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    config = IndexConfig()
    extractor = Extractor(config.images, config.features, device="cpu")
    rows = measure(extractor, given.data, given.cache)
    if given.json:
        facts = {"benchmark": "visible", "rows": rows, "provenance": provenance(seed=_SEED)}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
