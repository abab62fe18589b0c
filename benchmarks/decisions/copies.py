"""Near copies: how many are stacked, and how many different photos are stacked with them by mistake.

    python benchmarks/decisions/copies.py FOLDER [FOLDER ...] [--most 250] [--originals 70] [--json OUT]

Of each folder, ``--most`` photos are taken, evenly spread; of all of these, ``--originals`` are copied in every way of
``WAYS``. All are indexed together with default settings. A copy is found if its likeness to its original reaches
``udq.search.copies.LEAST``. Photos of one folder that are no copies of each other but share a stack are listed, to be
judged by eye: collections contain shots of one moment, and the same picture twice.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.photos import source
from udq.search import copies
from udq.search.copies import Likenesses, Stacker, distinct

Way = Callable[[Image.Image, random.Random], Image.Image]


def scaled(share: float) -> Way:
    """Return a way to resize a photo."""
    return lambda photo, _: photo.resize(
        (round(share * photo.width), round(share * photo.height)), Image.Resampling.LANCZOS
    )


def cropped(share: float) -> Way:
    """Return a way to cut a share of a photo off at each side."""

    def crop(photo: Image.Image, _: random.Random) -> Image.Image:
        width, height = photo.size
        return photo.crop(
            (round(share * width), round(share * height), round((1 - share) * width), round((1 - share) * height))
        )

    return crop


def moved(photo: Image.Image, rng: random.Random) -> Image.Image:
    """Return a photo as another shot of a burst: turned by up to 1 degree, moved by up to 3 %, brighter or darker."""
    width, height = photo.size
    left, top, right, bottom = (rng.uniform(0, 0.03) for _ in range(4))
    turned = photo.rotate(rng.uniform(-1, 1), Image.Resampling.BICUBIC)
    cut = turned.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))
    return ImageEnhance.Brightness(cut).enhance(rng.uniform(0.93, 1.07))


# What is done to a photo, and the quality of the JPEG file.
WAYS: dict[str, tuple[Way, int]] = {
    "JPEG quality 40": (lambda photo, _: photo, 40),
    "15 % brighter": (lambda photo, _: ImageEnhance.Brightness(photo).enhance(1.15), 88),
    "enlarged by 1.6": (scaled(1.6), 88),
    "reduced to half": (scaled(1 / 2), 88),
    "reduced to a third": (scaled(1 / 3), 88),
    "2 % cut off each side": (cropped(0.02), 88),
    "5 % cut off each side": (cropped(0.05), 88),
    "10 % cut off each side": (cropped(0.10), 88),
    "burst": (moved, 88),
    "mirrored": (lambda photo, _: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 88),
}


def compose(folders: list[Path], root: Path, most: int, originals: int) -> None:
    """Copy photos into a folder for each set, and near copies of some of them into ``copies``."""
    chosen = []
    for folder in folders:
        found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in source.SUFFIXES]
        for path in found[:: max(1, len(found) // most)][:most]:
            target = root / folder.name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            chosen.append(Path(shutil.copy(path, target)))
    rng = random.Random(0)
    for path in rng.sample(chosen, min(originals, len(chosen))):
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        for way, (change, quality) in WAYS.items():
            target = root / "copies" / way / path.relative_to(root).with_suffix(".jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            change(photo, rng).save(target, quality=quality)


def measure(collection: Collection, folders: list[Path]) -> dict[str, Any]:
    """Return the share of copies of each way that are found, and the stacks of different photos of each folder."""
    quantizer = collection.model.quantizer
    photos = {photo.image.name: photo for photo in collection.database.photos(range(len(collection)))}
    originals = {str(Path(name).with_suffix("")): name for name in photos if not name.startswith("copies/")}
    found: dict[str, list[bool]] = defaultdict(list)
    for name, photo in photos.items():
        if name.startswith("copies/"):
            _, way, rest = name.split("/", 2)
            original = photos[originals[str(Path(rest).with_suffix(""))]]
            first, second = Stacker(Likenesses(quantizer)).add([original, photo])
            found[way].append(first == second)
    sets = {}
    for folder in folders:
        members = [photo for name, photo in photos.items() if name.startswith(f"{folder.name}/")]
        stacks: dict[int, list[str]] = defaultdict(list)
        different = distinct(members, None)
        for photo, number in zip(different, Stacker(Likenesses(quantizer)).add(different), strict=True):
            stacks[number].append(photo.image.name)
        shared = [names for names in stacks.values() if len(names) > 1]
        sets[folder.name] = {"photos": len(different), "stacked": sum(map(len, shared)) - len(shared), "stacks": shared}
    ways = {way: {"copies": len(each), "found": round(sum(each) / len(each), 3)} for way, each in found.items()}
    return {"least": copies.LEAST, "ways": ways, "sets": sets}


def main() -> None:
    """Print two tables; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--most", type=int, default=250)
    parser.add_argument("--originals", type=int, default=70)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compose(arguments.folders, Path(folder, "photos"), arguments.most, arguments.originals)
        collection = Collection.build(Path(folder, "photos"), Path(folder, "x.udq"), device="cpu")
        figures = measure(collection, arguments.folders)
    for way, facts in figures["ways"].items():
        print(f"{way:<24} {facts['found']:.0%} of {facts['copies']}")
    for name, facts in figures["sets"].items():
        print(f"{name:<24} {facts['stacked']} of {facts['photos']} photos: {facts['stacks']}")
    if arguments.json:
        figures |= {"provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
