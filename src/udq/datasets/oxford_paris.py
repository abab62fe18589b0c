"""Oxford5K and Paris6K: 11 landmarks with 5 queries each, whose own photos stay in the database.

    <landmark>_<n>_query.txt     oxc1_<photo> x1 y1 x2 y2  (the prefix in Oxford's files only; corners in pixels)
    <landmark>_<n>_good.txt      photos that show the landmark well    } positives
    <landmark>_<n>_ok.txt        more than a quarter of it is visible  }
    <landmark>_<n>_junk.txt      less than a quarter: neither positive nor negative

Photos are named without folder and file suffix.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from udq.common.files import read_text
from udq.datasets.catalogue import photo_names
from udq.datasets.truth import GroundTruth, Query
from udq.errors import InputError
from udq.types import Box

OXFORD = frozenset(
    [
        "all_souls",
        "ashmolean",
        "balliol",
        "bodleian",
        "christ_church",
        "cornmarket",
        "hertford",
        "keble",
        "magdalen",
        "pitt_rivers",
        "radcliffe_camera",
    ]
)
PARIS = frozenset(
    [
        "defense",
        "eiffel",
        "invalides",
        "louvre",
        "moulinrouge",
        "museedorsay",
        "notredame",
        "pantheon",
        "pompidou",
        "sacrecoeur",
        "triomphe",
    ]
)

# Photos that are damaged in the official archives: not in the database, which has 6,392 photos, and never positives.
PARIS_BROKEN = frozenset(
    f"paris_{place}_{number:06}"
    for place, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)

_QUERY_FILE = re.compile(r"(?P<landmark>.+)_(?P<number>\d+)_query\.txt")


def _load(folder: Path, *, dataset: str, landmarks: frozenset[str], photos: int) -> GroundTruth:
    """Read a folder of ground-truth files.

    Raises:
        InputError: not a folder of these files, landmarks of another data set, a query without a box, a missing file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of {dataset}'s ground-truth files, found no folder")
    files = {path: _QUERY_FILE.fullmatch(path.name) for path in sorted(folder.glob("*_query.txt"))}
    found = {path: parts["landmark"] for path, parts in files.items() if parts}
    if not found:
        raise InputError(f"{folder}: expected files such as {min(landmarks)}_1_query.txt, found none")
    unknown = sorted(set(found.values()) - landmarks)
    if unknown:
        other = "paris6k" if set(unknown) <= PARIS else "oxford5k" if set(unknown) <= OXFORD else "another data set"
        raise InputError(
            f"{folder}: expected the landmarks of {dataset}, such as {min(landmarks)}, found {unknown[0]}: "
            f"this is the ground truth of {other}; check --dataset"
        )
    queries = tuple(_query(path) for path in found)
    return GroundTruth(
        dataset,
        queries,
        "kept",
        exact_names=False,
        official=(55, photos),
        database=tuple(photo_names(dataset)),
        folder=folder,
    )


def _query(file: Path) -> Query:
    image, box = _image_and_box(file)
    good, ok, junk = (_photos(file.with_name(file.name.replace("_query.", f"_{kind}."))) for kind in _KINDS)
    if not good | ok:
        raise InputError(f"{file}: expected photos in its _good.txt or _ok.txt, found none; get the files again")
    return Query(image, box, good | ok, junk, label=file.name.removesuffix("_query.txt"), place=str(file))


_KINDS = ("good", "ok", "junk")


def _image_and_box(file: Path) -> tuple[str, Box]:
    parts = _text(file).split()
    try:
        name, x1, y1, x2, y2 = parts[0], *map(float, parts[1:])
    except (ValueError, IndexError):
        raise InputError(
            f"{file}: expected a photo and its box x1 y1 x2 y2, found '{' '.join(parts)[:80]}'; "
            "the protocol crops every query"
        ) from None
    if not (x1 < x2 and y1 < y2):
        raise InputError(f"{file}: expected a box with x1 < x2 and y1 < y2, found '{' '.join(parts[1:])}'")
    return name.removeprefix("oxc1_"), (x1, y1, x2, y2)


def _photos(file: Path) -> frozenset[str]:
    return frozenset(_text(file).split()) - PARIS_BROKEN


def _text(file: Path) -> str:
    try:
        return read_text(file)
    except OSError as error:
        raise InputError(f"{file}: the ground truth cannot be read ({error.strerror}); get its files again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected text, found other bytes; get the file again") from error


load_oxford5k = partial(_load, dataset="oxford5k", landmarks=OXFORD, photos=5063)
load_paris6k = partial(_load, dataset="paris6k", landmarks=PARIS, photos=6392)
