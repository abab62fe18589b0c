"""Names of a ground truth -> names of photos, and the photos of queries.

Official files name a photo ``paris_defense_000000``; the archives hold ``paris/defense/paris_defense_000000.jpg``, and
people keep them in folders of their own. So a name of an official ground truth means the one photo whose path ends with
it, folder by folder: ``INSTRE-M/01/102.jpg`` is ``instre/INSTRE-M/01/102.jpg`` and never ``X-INSTRE-M/01/102.jpg``. The
file's ending counts where the ground truth gives one. Two photos that both end so are an error, not a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from udq.datasets.truth import Answers, GroundTruth, Query
from udq.errors import InputError, NoPhotosError
from udq.photos import source as photo_source


def match(
    names: Iterable[str],
    photos: Iterable[str],
    *,
    then: str = "keep one of them, or index the folder of that data set alone",
) -> dict[str, str]:
    """Return the photo that each name means; names that mean none are left out.

    Args:
        names: as a ground truth gives them.
        photos: paths with ``/``.
        then: what to do about two photos of one name, for the message.

    Raises:
        InputError: a name that two photos answer to.
    """
    wanted = set(names)
    depths = {name.count("/") for name in wanted}
    found: dict[str, str] = {}
    # In the order of names, so that the same two photos are named whatever the order on disk.
    for photo in sorted(photos):
        parts = photo.split("/")
        for depth in depths:
            if depth >= len(parts):
                continue
            end = "/".join(parts[-depth - 1 :])
            for name in {end, stem(end)} & wanted:
                before = found.setdefault(name, photo)
                if before != photo:
                    raise InputError(f"the ground truth's '{name}' could be '{before}' or '{photo}'; {then}")
    return found


def stem(name: str) -> str:
    """Return a photo's name without its file ending."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) if ending.lower() in photo_source.SUFFIXES else name


def resolve(truth: GroundTruth, photos: Iterable[str]) -> GroundTruth:
    """Return a ground truth that names photos as the collection does; names that mean none of them stay.

    Raises:
        InputError: a name that two photos answer to.
    """
    if truth.exact_names:
        return truth
    known = match({*truth.database, *(name for query in truth.queries for name in _named(query))}, photos)
    return replace(
        truth,
        queries=tuple(_renamed(query, known) for query in truth.queries),
        database=tuple(known.get(name, name) for name in truth.database),
    )


def query_photos(
    truth: GroundTruth, held: Mapping[str, Path], folder: Path | None, *, beside: Iterable[Path] = ()
) -> dict[str, Path]:
    """Return where the photo of each query is.

    A photo of the collection is taken from there. One that is not is looked for in ``folder``, with its folders;
    without one, and where the protocol keeps query photos outside the database, beside the ground truth with its
    folders, and then in the folders of ``beside`` themselves.

    Args:
        truth: names as the collection has them.
        held: where each photo of the collection is, by name.
        folder: where somebody says that query photos are.
        beside: folders of the collection's own photos.

    Raises:
        InputError: a query photo that is nowhere, or could be two; or ``folder`` is none.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--queries {folder}: expected the folder of query photos, found no folder; check the spelling"
        )
    other = "FOLDER" if folder is None else "another folder"
    then = f"keep one of them, or give --queries {other}, which has the query photos alone"
    wanted = {query.image for query in truth.queries}
    found = {name: held[name] for name in wanted if name in held}
    places = [folder] if folder is not None else [truth.folder] if truth.folder else []
    searched: list[Path] = []
    if folder is not None or truth.own_photo == "outside":
        for place in places:
            if len(found) < len(wanted):
                found |= _below(wanted - set(found), place, then)
                searched.append(place)
        for place in beside if folder is None else ():
            if len(found) < len(wanted):
                found |= _inside(wanted - set(found), place, then)
    missing = sorted(wanted - set(found))
    if missing:
        looked = f" and not in {searched[0]}" if searched else ""
        raise InputError(
            f"{len(missing)} of {len(wanted)} query photos are not in the collection{looked}, '{missing[0]}' first; "
            + ("give --queries FOLDER, where they are" if folder is None else "check --queries")
        )
    return found


def _below(names: Iterable[str], folder: Path, then: str) -> dict[str, Path]:
    try:
        photos = {source.name: source.path for source in photo_source.find([folder])[0]}
    except NoPhotosError:
        return {}
    return {name: photos[photo] for name, photo in match(names, photos, then=then).items()}


def _inside(names: Iterable[str], folder: Path, then: str) -> dict[str, Path]:
    photos = [path.name for path in folder.iterdir() if path.suffix.lower() in photo_source.SUFFIXES]
    return {name: folder / photo for name, photo in match(names, photos, then=then).items()}


def _named(query: Query) -> set[str]:
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
