"""Photos with boxes, to train a region proposal network on: one module per layout of labels.

Classes are ignored: a proposal network only separates objects from background.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from udq.datasets.detection import coco, table, voc, yolo
from udq.datasets.detection.labels import Labelled, Labels
from udq.datasets.detection.photos import match_photos
from udq.datasets.detection.reading import SHOWN, Reading
from udq.errors import InputError

__all__ = ["Labelled", "Labels", "load", "load_all"]

_LAYOUTS = (
    "VOC (a folder with Annotations/ and JPEGImages/), YOLO (a folder with images/ and labels/), "
    "COCO (a .json file) or CSV (a .csv file with the columns image,x1,y1,x2,y2)"
)


def load_all(paths: Sequence[Path], *, images: Path | None = None) -> Labels:
    """Read several labelled sets as one; ``images`` is the folder of photos for the sets that are files.

    Raises:
        InputError: as ``load``, or two of the sets label the same photo.
    """
    files = [path for path in paths if not path.is_dir()]
    sets = [load(path, images=images if path in files or not files else None) for path in paths]
    photos = sorted((photo for each in sets for photo in each.photos), key=lambda photo: photo.path.resolve())
    for photo, after in itertools.pairwise(photos):
        if photo.path.resolve() == after.path.resolve():
            raise InputError(f"{photo.path}: labelled in two of the sets; leave it in one of them")
    layouts = " + ".join(dict.fromkeys(each.layout for each in sets))
    return Labels(
        layouts,
        tuple(photos),
        sum((Counter(each.skipped) for each in sets), Counter()),
        sum(each.clipped for each in sets),
        tuple(itertools.islice(itertools.chain.from_iterable(each.faults for each in sets), SHOWN)),
    )


def load(path: Path, *, images: Path | None = None) -> Labels:
    """Read the boxes of a labelled set of photos; unusable labels and photos are skipped, counted and named.

    Boxes partly outside their photo are clipped to it. Sizes are read from the photos, not from the labels.

    Args:
        path: a VOC folder, or the ``VOCdevkit`` that contains it; a YOLO folder; a COCO file; a CSV file.
        images: the folder that photos of a COCO or CSV file are relative to; by default the folder of the file, or
            ``images/`` in it.

    Raises:
        InputError: no such path, unknown layout, or no box left to train on.
    """
    reading = _read(path, images)
    labels = match_photos(reading)
    if not any(len(photo.boxes) for photo in labels.photos):
        first = f"; the first: {labels.faults[0]}" if labels.faults else ""
        raise InputError(
            f"{path}: expected at least one photo with a box, found {labels.summary()}; "
            f"photos were searched in {' and '.join(map(str, reading.folders))}{first}"
        )
    return labels


def _read(path: Path, images: Path | None) -> Reading:
    if path.is_dir():
        folder = _voc_folder(path)
        is_yolo = (path / "images").is_dir() and (path / "labels").is_dir()
        if images is not None and (folder or is_yolo):
            raise InputError(
                f"{path}: expected no folder of images ({images}) for a {'VOC' if folder else 'YOLO'} folder, which "
                "holds its photos; leave it out"
            )
        if folder:
            return voc.read(folder)
        if is_yolo:
            return yolo.read(path)
    elif path.is_file() and path.suffix.lower() in (".json", ".csv"):
        if images is not None and not images.is_dir():
            raise InputError(f"{images}: expected the folder of the photos, found no such folder; check the spelling")
        folders = (path.parent, path.parent / "images") if images is None else (images,)
        return coco.read(path, folders) if path.suffix.lower() == ".json" else table.read(path, folders)
    found = "a folder of none of them" if path.is_dir() else "another file" if path.exists() else "no such path"
    raise InputError(f"{path}: expected {_LAYOUTS}, found {found}")


def _voc_folder(path: Path) -> Path | None:
    """Return the folder itself, or the only VOC folder in it; None if it is not VOC."""
    found = [
        folder
        for folder in (path, *sorted(path.glob("VOC*")))
        if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()
    ]
    if len(found) > 1 and found[0] != path:
        names = ", ".join(folder.name for folder in found)
        raise InputError(f"{path}: expected one VOC folder, found {names}; give one of them")
    return found[0] if found else None
