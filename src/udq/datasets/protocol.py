"""Checks of a collection against a benchmark's protocol: photos it must contain, and photos it must not."""

from __future__ import annotations

from collections.abc import Collection as Names

from udq.common.text import counted
from udq.datasets.truth import GroundTruth
from udq.errors import InputError


def check_names(truth: GroundTruth, held: Names[str], broken: Names[str], *, outside: bool = False) -> None:
    """Raise InputError if the collection lacks positives or query photos of the ground truth.

    Unreadable positives are accepted and count as never found. Query photos may be missing if they are ``outside`` or
    the protocol keeps them outside the database.

    Args:
        truth: with the photo names of the collection.
        held: names of the collection's photos.
        broken: names of photos that could not be read.
        outside: whether query photos are read from outside the collection.
    """
    outside = outside or truth.own_photo == "outside"
    named = set() if outside else {query.image for query in truth.queries}
    for query in truth.queries:
        for positives in (query.positives, *(answers.positives for answers in query.difficulties.values())):
            named |= {name for name in positives if name not in broken}
    missing = sorted(named - set(held))
    if missing:
        raise InputError(
            f"the ground truth names {counted(len(missing), 'photo')} that the collection does not hold, "
            f"'{missing[0]}' first; "
            "index the folder that its names are relative to"
        )


def check_outside(truth: GroundTruth, held: Names[str], *, keep_query: bool) -> None:
    """Raise InputError if the protocol keeps query photos out of the database but it contains some.

    Such a query would find its own photo first.
    """
    if truth.own_photo != "outside":
        return
    if keep_query:
        raise InputError(f"--keep-query: the query photos of {truth.dataset} are not in the database; leave it out")
    inside = sorted({query.image for query in truth.queries} & set(held))
    if inside:
        raise InputError(
            f"{truth.dataset}: expected a database without query photos, found {len(inside)} of them in the "
            f"collection, '{inside[0]}' first; move them to a folder of their own (docs/benchmark.md), index the "
            "others, and name that folder with --queries"
        )


def check_positives(truth: GroundTruth) -> None:
    """Raise InputError for a query whose only positive is its own photo, which is left out of its ranking."""
    for query in truth.queries:
        if query.positives == {query.image}:
            raise InputError(f"query {query.image}: its only positive is itself; add others or use --keep-query")


def notes(truth: GroundTruth, held: Names[str], broken: Names[str], *, distractors: bool = False) -> list[str]:
    """Return one line for each reason why results are not comparable with published ones.

    Missing or unreadable photos make a search easier than the published one. Missing
    positives and query photos are an error instead (see ``check_names``).

    Args:
        truth: with the photo names of the database.
        held: names of the database's photos.
        broken: names of photos that could not be read.
        distractors: whether photos of other data sets are expected.
    """
    if truth.official is None:
        return []
    queries, photos = truth.official
    found = []
    if len(truth.queries) != queries:
        count = counted(len(truth.queries), "query", "queries")
        found.append(f"{count}; {truth.dataset} has {queries:,}: not the published protocol")
    own = set(truth.database)
    if len(own) != photos:
        count = counted(len(own), "photo")
        found.append(f"the ground truth lists {count}; {truth.dataset} has {photos:,}: not the published protocol")
    for what, names in (("missing", own - {*held, *broken}), ("unreadable", own & set(broken))):
        if names:
            count = f"{len(names):,} of the {counted(len(own), 'photo')} of {truth.dataset}"
            found.append(f"{what}: {count}, '{min(names)}' first; published figures are of all")
    strange = {*held, *broken} - own
    if strange and not distractors:
        count = counted(len(strange), "photo")
        found.append(
            f"not of {truth.dataset}: {count}, '{min(strange)}' first; published figures are of its own, or of these "
            "and known distractors"
        )
    return found
