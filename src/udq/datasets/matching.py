"""Match the photo names of a ground truth to the photos of a collection, and find the photos of queries.

Official files name a photo ``paris_defense_000000``; the archives hold ``paris/defense/paris_defense_000000.jpg``, and
users keep them in folders of their own. So a name of an official ground truth matches the one photo whose path ends
with it, folder by folder: ``INSTRE-M/01/102.jpg`` matches ``instre/INSTRE-M/01/102.jpg`` but not
``X-INSTRE-M/01/102.jpg``. The file suffix is compared only if the ground truth gives one. Two photos that match the
same name are an error. A name that matches no photo is compared once more in Unicode's composed form, since macOS
stores names in another form than keyboards type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path, PurePosixPath

from udq.common.text import nfc
from udq.datasets.truth import Answers, GroundTruth, Query
from udq.errors import InputError, NoPhotosError
from udq.photos.source import SUFFIXES, find


def match(
    names: Iterable[str],
    photos: Iterable[str],
    *,
    remedy: str = "keep one of them, or index the folder of that data set alone",
) -> dict[str, str]:
    """Return the photo that each name matches; names without a photo are left out.

    Args:
        names: names of a ground truth.
        photos: paths with ``/``.
        remedy: what to do if two photos match one name, for the message.

    Raises:
        InputError: two photos match one name.
    """
    wanted, known = set(names), {photo: photo for photo in photos}
    found = _match_ends(wanted, known, remedy)
    if rest := {name for name in wanted - found.keys() if not name.isascii()}:
        alike = _match_ends(set(map(nfc, rest)), {photo: nfc(photo) for photo in known}, remedy)
        found |= {name: alike[nfc(name)] for name in rest if nfc(name) in alike}
    return found


def _match_ends(wanted: AbstractSet[str], photos: Mapping[str, str], remedy: str) -> dict[str, str]:
    """Return the photo whose path ends with each name.

    Args:
        wanted: the names.
        photos: photo -> its path, in the Unicode form of the names.
        remedy: as in ``match``.
    """
    depths = {name.count("/") for name in wanted}
    found: dict[str, str] = {}
    # Sorted, so that the message names the same two photos whatever their order on disk.
    for photo, path in sorted(photos.items()):
        parts = path.split("/")
        for depth in depths:
            if depth >= len(parts):
                continue
            end = "/".join(parts[-depth - 1 :])
            for name in {end, stem(end)} & wanted:
                first = found.setdefault(name, photo)
                if first != photo:
                    raise InputError(f"the ground truth's '{name}' could be '{first}' or '{photo}'; {remedy}")
    return found


def _match_exactly(names: AbstractSet[str], photos: Iterable[str]) -> dict[str, str]:
    """Return the photo of each name that differs from it in Unicode form alone; names of photos are left out."""
    known = set(photos)
    by_form: dict[str, list[str]] = {}
    for photo in known if names - known else ():
        by_form.setdefault(nfc(photo), []).append(photo)
    alike = {name: by_form.get(nfc(name), []) for name in names - known}
    return {name: found[0] for name, found in alike.items() if len(found) == 1}


def stem(name: str) -> str:
    """Return a photo's name without its file suffix."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def resolve(truth: GroundTruth, photos: Iterable[str]) -> GroundTruth:
    """Return a ground truth with the photo names of the collection; names without a photo stay as they are.

    Raises:
        InputError: two photos match one name.
    """
    names = {*truth.database, *(name for query in truth.queries for name in _names_of(query))}
    known = _match_exactly(names, photos) if truth.exact_names else match(names, photos)
    if not known:
        return truth
    return replace(
        truth,
        queries=tuple(_renamed(query, known) for query in truth.queries),
        database=tuple(known.get(name, name) for name in truth.database),
    )


def query_photos(
    truth: GroundTruth, held: Mapping[str, Path], folder: Path | None, *, beside: Iterable[Path] = ()
) -> dict[str, Path]:
    """Return the path of each query's photo.

    Photos of the collection are taken from there. The others are searched in ``folder`` and its subfolders. Without
    ``folder``, and if the protocol keeps query photos outside the database, they are searched in the folder of the
    ground truth and its subfolders, and then in the folders of ``beside``, without subfolders.

    Args:
        truth: with the photo names of the collection.
        held: name -> path of each photo of the collection.
        folder: the folder of query photos given by the user, if any.
        beside: folders of the collection's own photos.

    Raises:
        InputError: a query photo is not found or ambiguous, or ``folder`` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--queries {folder}: expected the folder of query photos, found no folder; check the spelling"
        )
    other = "FOLDER" if folder is None else "another folder"
    remedy = f"keep one of them, or give --queries {other}, which holds only the query photos"
    wanted = {query.image for query in truth.queries}
    found = {name: held[name] for name in wanted if name in held}
    roots = [folder] if folder is not None else [truth.folder] if truth.folder else []
    searched: list[Path] = []
    if folder is not None or truth.own_photo == "outside":
        for place in roots:
            if len(found) < len(wanted):
                found |= _match_below(wanted - set(found), place, remedy)
                searched.append(place)
        for place in beside if folder is None else ():
            if len(found) < len(wanted):
                found |= _match_inside(wanted - set(found), place, remedy)
    missing = sorted(wanted - set(found))
    if missing:
        elsewhere = f" and not in {searched[0]}" if searched else ""
        raise InputError(
            f"{len(missing)} of {len(wanted)} query photos are not in the collection{elsewhere}, '{missing[0]}' first; "
            + ("give their folder with --queries" if folder is None else "check --queries")
        )
    return found


def _match_below(names: Iterable[str], folder: Path, remedy: str) -> dict[str, Path]:
    """Match names to the photos of a folder and its subfolders."""
    try:
        photos = {source.name: source.path for source in find([folder])[0]}
    except NoPhotosError:
        return {}
    return {name: photos[photo] for name, photo in match(names, photos, remedy=remedy).items()}


def _match_inside(names: Iterable[str], folder: Path, remedy: str) -> dict[str, Path]:
    """Match names to the photos of a folder, without its subfolders."""
    photos = [path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    return {name: folder / photo for name, photo in match(names, photos, remedy=remedy).items()}


def _names_of(query: Query) -> set[str]:
    graded = [part for answers in query.difficulties.values() for part in (answers.positives, answers.junk)]
    return set().union({query.image}, query.positives, query.junk, query.boxes, *graded)


def _renamed(query: Query, known: Mapping[str, str]) -> Query:
    def rename(names: Iterable[str]) -> frozenset[str]:
        return frozenset(known.get(name, name) for name in names)

    return replace(
        query,
        image=known.get(query.image, query.image),
        positives=rename(query.positives),
        junk=rename(query.junk),
        boxes={known.get(name, name): box for name, box in query.boxes.items()},
        difficulties={
            name: Answers(rename(answers.positives), rename(answers.junk))
            for name, answers in query.difficulties.items()
        },
    )
