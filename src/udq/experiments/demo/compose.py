"""Compose photos with a known ground truth offline: objects of shipped photos pasted into other scenes.

Each object of ``cutouts.OBJECTS`` is pasted at other scales, rotated, relit and sometimes partly hidden, and the box of
its visible part is known exactly. The original photos are included unchanged, and so is the second view of the stereo
pair, which pasting cannot imitate.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from udq.errors import InputError, UdqError
from udq.experiments.demo.cutouts import BACKDROPS, GROUNDS, OBJECTS, PHOTOS, STEREO, cut, photo
from udq.experiments.demo.studio import Placement, ScenePlan, Studio, extent
from udq.types import Box

_SINGLES = 6  # photos of each object alone; two more show it beside another object
_EMPTY = 30  # photos without any object
_QUERIES = 3  # per object
_QUALITY = 90  # of the JPEG files

PHOTO_COUNT = len(PHOTOS) + (_SINGLES + 1) * len(OBJECTS) + _EMPTY


def compose(folder: Path, *, seed: int = 0, on_photo: Callable[[], None] | None = None) -> Path:
    """Write the photos and their ground truth.

    Args:
        folder: the folder of ``photos/*.jpg`` and ``ground_truth.csv`` (the dataset ``boxes``); created if missing.
        seed: the same seed gives the same photos and the same ground truth.
        on_photo: called after each of the ``PHOTO_COUNT`` photos, to show progress.

    Returns:
        The path of ``ground_truth.csv``, which is written last: if it exists, the photos are complete.

    Raises:
        DependencyError: the packages that ship the photos are missing.
        InputError: ``folder/photos`` contains other files.
        UdqError: the folder cannot be written.
    """
    studio = Studio()  # raises DependencyError before anything is written
    plans = _plan(np.random.default_rng(seed))
    photos, truth = folder / "photos", folder / "ground_truth.csv"
    placements: dict[str, list[Placement]] = {name: [] for name in OBJECTS}
    try:
        _prepare(photos, len(plans))
        truth.unlink(missing_ok=True)
        for shown in _write_photos(photos, studio, plans, seed):
            for name, placement in shown:
                placements[name].append(placement)
            if on_photo is not None:
                on_photo()
        partial = folder / ".ground_truth.csv.partial"
        partial.write_text(_ground_truth(placements), encoding="utf-8", newline="\n")
        partial.replace(truth)
    except OSError as error:
        reason = error.strerror or error
        raise UdqError(f"{folder}: the demonstration's photos cannot be written: {reason}") from error
    return truth


def _prepare(photos: Path, scenes: int) -> None:
    """Create the folder; raises InputError if it contains other files, which would become part of the collection."""
    photos.mkdir(parents=True, exist_ok=True)
    ours = {f"{name}.jpg" for name in PHOTOS} | {_scene_name(number) for number in range(1, scenes + 1)}
    if foreign := sorted({path.name for path in photos.iterdir()} - ours):
        raise InputError(f"{photos}: expected a new or empty folder, found {foreign[0]}; name another folder")


def _scene_name(number: int) -> str:
    return f"scene-{number:03}.jpg"


def _plan(rng: np.random.Generator) -> list[ScenePlan]:
    """Decide what each composed photo shows, in random order so that names do not reveal it."""
    objects = list(OBJECTS)
    singles = [(name,) for name in objects for _ in range(_SINGLES)]
    # Each object is beside two others, so the box of the query decides which object is meant.
    pairs = [(name, objects[(i + 4) % len(objects)]) for i, name in enumerate(objects)]
    plans = []
    for i, names in enumerate([*singles, *pairs, *([()] * _EMPTY)]):
        alone = len(names) == 1
        distractor = (alone and i % 3 == 0) or (not names and i % 3 != 0)
        # In turn, the photos of one object get different backdrops, and one backdrop many objects, but never a
        # backdrop from the object's own photo, which would help to find it.
        own_photos = {OBJECTS[name].photo for name in names}
        backdrops = [j for j, piece in enumerate(BACKDROPS) if piece[0] not in own_photos]
        grounds = [j for j, piece in enumerate(GROUNDS) if piece[0] not in own_photos]
        ground = int(rng.choice(grounds)) if rng.random() < 0.6 else None
        plans.append(ScenePlan(names, alone and i % 3 == 1, distractor, backdrops[i % len(backdrops)], ground))
    return [plans[i] for i in rng.permutation(len(plans))]


def _write_photos(
    photos: Path, studio: Studio, plans: list[ScenePlan], seed: int
) -> Iterator[list[tuple[str, Placement]]]:
    """Write the shipped photos unchanged, then the composed ones; yield the objects in each."""
    for name in PHOTOS:
        file = photos / f"{name}.jpg"
        photo(name).save(file, quality=_QUALITY)
        shown = [
            (thing, Placement(file.name, extent(np.asarray(cut(cutout).getchannel("A"))), True))
            for thing, cutout in OBJECTS.items()
            if cutout.photo == name
        ]
        if STEREO[1] == name:
            shown.append((STEREO[0], Placement(file.name, STEREO[2], True)))
        yield shown
    for number, plan in enumerate(plans, start=1):
        # One generator per photo, so that a change to one photo does not change the others.
        rng = np.random.default_rng((seed, number))
        picture, shown = studio.compose(plan, _scene_name(number), rng)
        picture.save(photos / _scene_name(number), quality=_QUALITY)
        yield shown


def _ground_truth(placements: dict[str, list[Placement]]) -> str:
    """Return the CSV of the dataset ``boxes``, with a column that names the object."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes"])
    for name, shown in placements.items():
        # Queries are photos that show the whole object, starting with the original.
        for query in [placement for placement in shown if placement.whole][:_QUERIES]:
            others = [placement for placement in shown if placement.photo != query.photo]
            names = "|".join(placement.photo for placement in others)
            boxes = "|".join(" ".join(_numbers(placement.box)) for placement in others)
            rows.writerow([query.photo, *_numbers(query.box), name, names, boxes])
    return text.getvalue()


def _numbers(box: Box) -> list[str]:
    return [f"{value:g}" for value in box]
