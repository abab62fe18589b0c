"""The development sets: folders of DATA, and sets that are composed from them or from photos that packages ship."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from places import answers

from accuracy import composites, mosaic
from udq import datasets
from udq.common.provenance import versions
from udq.datasets import GroundTruth
from udq.errors import InputError
from udq.experiments.demo import compose, cutouts, scenes, studio
from udq.photos.source import Source, find

BOXED = ("instre_dev", "logos_dev", "covers_dev", "paintings_dev", "packages_dev")
PLACES = "landmarks"
MOSAICS = {"instre_dev-2x2": 2, "instre_dev-4x4": 4}
COMPOSITES = "composites"
OBJECTS = "instre_dev"
"""The source of mosaics and composites."""
DEMO = "demo"
NAMES = (OBJECTS, PLACES, *BOXED[1:], *MOSAICS, COMPOSITES, DEMO)
"""All development sets, in the order of the table."""


@dataclass(frozen=True)
class DevelopmentSet:
    """Photos, and queries with their answers.

    Attributes:
        name: for the table.
        sources: the photos, in the order of names.
        truth: queries and answers.
        queries: a folder of query photos that are not among the photos, or None.
    """

    name: str
    sources: Sequence[Source]
    truth: GroundTruth
    queries: Path | None = None


def load(data: Path, names: Sequence[str], cache: Path) -> list[DevelopmentSet]:
    """Return development sets by name.

    Args:
        data: the folder that holds ``instre_dev`` and the others.
        names: of ``NAMES``.
        cache: where photos are composed that are no files yet; those of an earlier run are used again.

    Raises:
        InputError: an unknown name, or a folder is not there.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"--sets: expected some of {', '.join(NAMES)}; found {', '.join(unknown)}")
    needed = {folder for name in names for folder in _folders(name)}
    if missing := [name for name in NAMES if name in needed and not (data / name).is_dir()]:
        raise InputError(
            f"{data}: expected the development sets {', '.join(missing)}, found no such folders; put them there, or "
            "choose others with --sets"
        )
    return [_load(data, name, cache) for name in names]


def _folders(name: str) -> tuple[str, ...]:
    """Return the folders of DATA that a set needs."""
    if name == COMPOSITES:
        return OBJECTS, PLACES
    return () if name == DEMO else (OBJECTS if name in MOSAICS else name,)


def _load(data: Path, name: str, cache: Path) -> DevelopmentSet:
    if name == PLACES:
        sources, _ = find([data / name])
        return DevelopmentSet(name, sources, answers([source.name for source in sources]))
    if name in BOXED:
        return _boxed(name, data / name, "images")
    if name == DEMO:
        made = _composed(cache, name, compose.compose, [compose, cutouts, scenes, studio])
        return _boxed(name, made, "photos")
    return _of_objects(data, name, cache)


def _of_objects(data: Path, name: str, cache: Path) -> DevelopmentSet:
    """Return mosaics or composites, whose photos are composed from those of ``OBJECTS``."""
    source = data / OBJECTS
    write: Callable[[Path], object]
    if name == COMPOSITES:
        folders, module = [source / "images", data / PLACES], composites
        write = partial(composites.compose, source, data / PLACES)
    else:
        folders, module = [source / "images"], mosaic
        write = partial(mosaic.compose, source, n=MOSAICS[name])
    facts = [(photo.name, photo.state()) for folder in folders for photo in find([folder])[0]]
    text = (source / "ground_truth.csv").read_text(encoding="utf-8")
    made = _composed(cache, name, write, [module], text, facts)
    return replace(_boxed(name, made, "images"), queries=made / "queries")


def _boxed(name: str, folder: Path, photos: str) -> DevelopmentSet:
    truth = datasets.load("boxes", folder / "ground_truth.csv")
    return DevelopmentSet(name, find([folder / photos])[0], truth)


def _composed(
    cache: Path, name: str, write: Callable[[Path], object], modules: Sequence[object], *facts: object
) -> Path:
    """Return the folder of photos that this code composes from these facts; compose them if it is missing."""
    code = [inspect.getsource(module) for module in modules]  # type: ignore[arg-type]
    found = hashlib.sha256(json.dumps([code, facts, versions()]).encode())
    folder = cache / f"{name}-{found.hexdigest()[:16]}"
    if not folder.is_dir():
        partial_folder = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        write(partial_folder)
        partial_folder.rename(folder)
    return folder
