"""A collection with known answers, composed offline: objects of shipped photos put into other scenes.

Each object of ``cutouts.OBJECTS`` is pasted at other scales, turned, relit and sometimes partly hidden,
and the box of what stays visible is known exactly. The photos the objects come from take part as they are,
and so does the other view of the stereo pair, the one case that no pasting could imitate.
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

_SINGLES = 6  # photos of each object without another object; two more show it beside another one
_EMPTY = 30  # photos without any object
_QUERIES = 3  # of each object
_QUALITY = 90  # of the JPEG files

PHOTO_COUNT = len(PHOTOS) + (_SINGLES + 1) * len(OBJECTS) + _EMPTY


def compose(folder: Path, *, seed: int = 0, on_photo: Callable[[], None] | None = None) -> Path:
    """Write the photos and what they show.

    Args:
        folder: gets ``photos/*.jpg`` and ``ground_truth.csv`` (the dataset ``boxes``); made where missing.
        seed: the same seed gives the same photos and the same ground truth.
        on_photo: called after each of the ``PHOTO_COUNT`` photos, to show progress.

    Returns:
        The path of ``ground_truth.csv``, which is written last: where it is, the photos are complete.

    Raises:
        DependencyError: the packages that ship the photos are missing.
        InputError: ``folder/photos`` holds files that are not of this set.
        UdqError: the folder cannot be written.
    """
    studio = Studio()  # first, so that missing packages leave no trace
    plans = _plan(np.random.default_rng(seed))
    photos, truth = folder / "photos", folder / "ground_truth.csv"
    sights: dict[str, list[Placement]] = {name: [] for name in OBJECTS}
    try:
        _prepare(photos, len(plans))
        truth.unlink(missing_ok=True)
        for found in _shots(photos, studio, plans, seed):
            for name, sight in found:
                sights[name].append(sight)
            if on_photo is not None:
                on_photo()
        partial = folder / ".ground_truth.csv.partial"
        partial.write_text(_ground_truth(sights), encoding="utf-8", newline="\n")
        partial.replace(truth)
    except OSError as error:
        reason = error.strerror or error
        raise UdqError(f"{folder}: the demonstration's photos cannot be written: {reason}") from error
    return truth


def _prepare(photos: Path, scenes: int) -> None:
    """Make the folder, and refuse one with other files: they would become part of the collection."""
    photos.mkdir(parents=True, exist_ok=True)
    ours = {f"{name}.jpg" for name in PHOTOS} | {_scene_name(number) for number in range(1, scenes + 1)}
    if foreign := sorted({path.name for path in photos.iterdir()} - ours):
        raise InputError(f"{photos}: expected a new or empty folder, found {foreign[0]}; name another folder")


def _scene_name(number: int) -> str:
    return f"scene-{number:03}.jpg"


def _plan(rng: np.random.Generator) -> list[ScenePlan]:
    """Decide what each composed photo shows, in an order that tells nothing about it."""
    objects = list(OBJECTS)
    singles = [(name,) for name in objects for _ in range(_SINGLES)]
    # Each object stands beside two others: the drawn box, not the photo, has to say which is meant.
    pairs = [(name, objects[(i + 4) % len(objects)]) for i, name in enumerate(objects)]
    plans = []
    for i, names in enumerate([*singles, *pairs, *([()] * _EMPTY)]):
        alone = len(names) == 1
        distractor = (alone and i % 3 == 0) or (not names and i % 3 != 0)
        # Counting through them, the photos of one object get different backdrops, and one backdrop many
        # objects, but never what surrounds an object in its own photo: it would help to find it.
        home = {OBJECTS[name].photo for name in names}
        backdrops = [j for j, piece in enumerate(BACKDROPS) if piece[0] not in home]
        grounds = [j for j, piece in enumerate(GROUNDS) if piece[0] not in home]
        ground = int(rng.choice(grounds)) if rng.random() < 0.6 else None
        plans.append(ScenePlan(names, alone and i % 3 == 1, distractor, backdrops[i % len(backdrops)], ground))
    return [plans[i] for i in rng.permutation(len(plans))]


def _shots(photos: Path, studio: Studio, plans: list[ScenePlan], seed: int) -> Iterator[list[tuple[str, Placement]]]:
    """Write the shipped photos as they are, then the composed ones; yield the objects that each shows."""
    for name in PHOTOS:
        file = photos / f"{name}.jpg"
        photo(name).save(file, quality=_QUALITY)
        shown = {thing: cutout for thing, cutout in OBJECTS.items() if cutout.photo == name}
        found = [
            (thing, Placement(file.name, extent(np.asarray(cut(cutout).getchannel("A"))), True))
            for thing, cutout in shown.items()
        ]
        if STEREO[1] == name:
            found.append((STEREO[0], Placement(file.name, STEREO[2], True)))
        yield found
    for number, plan in enumerate(plans, start=1):
        # A generator for each photo: a change to one leaves the others as they are.
        rng = np.random.default_rng((seed, number))
        picture, found = studio.shoot(plan, _scene_name(number), rng)
        picture.save(photos / _scene_name(number), quality=_QUALITY)
        yield found


def _ground_truth(sights: dict[str, list[Placement]]) -> str:
    """Return the CSV of the dataset ``boxes``, with a column that names the object."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes"])
    for name, seen in sights.items():
        # One asks with what one sees well: photos that show the whole object; the original comes first.
        for query in [sight for sight in seen if sight.whole][:_QUERIES]:
            others = [sight for sight in seen if sight.photo != query.photo]
            names = "|".join(sight.photo for sight in others)
            boxes = "|".join(" ".join(_numbers(sight.box)) for sight in others)
            rows.writerow([query.photo, *_numbers(query.box), name, names, boxes])
    return text.getvalue()


def _numbers(box: Box) -> list[str]:
    return [f"{value:g}" for value in box]
