"""Sections of the error report, one per query: its wrong photos, late positives and badly placed boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from udq.common.text import counted
from udq.errors import ImageError
from udq.evaluation import metrics
from udq.evaluation.failures import KEPT, Failures
from udq.evaluation.scoring import TOP, Outcome
from udq.photos import decoding
from udq.photos.sandbox import Decoder
from udq.reports import thumbnails
from udq.reports.html import Card, Kind, Photo
from udq.store.segments import Image
from udq.types import Box, Match

# Ranks of positives that a section lists.
_RANKS = 24
# Thumbnails in memory: queries of the same object share their answers.
_CACHED = 256
# Aspect of the placeholder for a photo of unknown size.
_UNKNOWN_SIZE = (4.0, 3.0)


@dataclass(frozen=True)
class Group:
    """Failures of one kind.

    Attributes:
        title: the kind.
        remark: how many, and which of them are shown.
        cards: the photos, worst first.
    """

    title: str
    remark: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Section:
    """One query of the report.

    Attributes:
        anchor: id of the section.
        name: label of the query, or the name of its photo.
        precision: average precision, in words.
        positives: how many there are and their ranks, in words.
        query: the query photo and, if a box was drawn, what is inside it.
        groups: the failures; kinds that did not occur are missing.
    """

    anchor: str
    name: str
    precision: str
    positives: str
    query: tuple[Card, ...]
    groups: tuple[Group, ...]


class SectionBuilder:
    """Builds the sections of one report; thumbnails are cached across them."""

    def __init__(self, photos: Sequence[Image], decoder: Decoder) -> None:
        """Index the photos of the collection by name; ``decoder`` decodes them and those of queries."""
        self._photos = {photo.name: photo for photo in photos}
        self._decoder = decoder
        self._thumbnail = lru_cache(maxsize=_CACHED)(partial(thumbnails.whole, decoder=decoder))

    def section(self, anchor: str, outcome: Outcome, real_valued_ap: float | None) -> Section:
        """Return the section of a query.

        Args:
            anchor: id of the section.
            outcome: of a query with positives.
            real_valued_ap: average precision of unquantized features, if it was measured.
        """
        failures, query = outcome.failures, outcome.query
        assert failures is not None
        total = len(failures.ranks) + len(failures.unranked)
        real_valued = "" if real_valued_ap is None else f" · real-valued {real_valued_ap:.3f}"
        ranks = ", ".join(f"{rank:,}" for rank in failures.ranks[:_RANKS])
        more = len(failures.ranks) - _RANKS
        ranks += f" and {more:,} more" if more > 0 else ""
        noun = "rank" if len(failures.ranks) == 1 else "ranks"
        return Section(
            anchor,
            query.label or query.image,
            f"AP {outcome.ap:.3f}{real_valued}",
            f"{counted(total, 'positive')}, at {noun} {ranks or '–'}",
            self._query(outcome),
            self._groups(failures, query.boxes),
        )

    def _query(self, outcome: Outcome) -> tuple[Card, ...]:
        query = outcome.query
        alt = f"Query: {query.image}"
        indexed = self._photos.get(query.image)
        try:
            size = (indexed.width, indexed.height) if indexed else self._size(outcome)
        except ImageError:  # deleted or overwritten since the search
            return (Card(Photo(None, _UNKNOWN_SIZE, (), alt), "Query", name=query.image),)
        source = self._thumbnail(outcome.photo)
        if query.box is None:
            return (Card(Photo(source, size, (), alt), "Query: the whole photo", name=query.image),)
        photo = Photo(source, size, ((query.box, "drawn"),), f"{alt}, with the drawn box")
        card = Card(photo, "Query: the drawn box", name=query.image)
        inside = thumbnails.cut(outcome.photo, _clipped(query.box, size), self._decoder)
        if inside is None:
            return (card,)
        return card, Card(Photo(*inside, (), "What is in the drawn box"), "What is searched for")

    def _size(self, outcome: Outcome) -> tuple[int, int]:
        return decoding.shown_size(outcome.photo, limit=self._decoder.limit)

    def _groups(self, failures: Failures, boxes: Mapping[str, Box]) -> tuple[Group, ...]:
        wrong, misses, misplaced = failures.false_positives, failures.misses, failures.misplaced
        unranked = failures.unranked[:KEPT]
        late = misses.shown[: KEPT - len(unranked)]
        groups = (
            _group("False positives", map(self._wrong, wrong.shown), wrong.total, "before the last positive"),
            _group(
                "Misses",
                [*map(_unranked, unranked), *(self._late(match, boxes.get(match.image)) for match in late)],
                misses.total + len(failures.unranked),
                "positives that come after a wrong photo, worst first",
            ),
            _group(
                "Badly placed boxes",
                (self._misplaced(match, boxes[match.image], overlap) for match, overlap in misplaced.shown),
                misplaced.total,
                f"among the first {TOP} photos",
            ),
        )
        return tuple(group for group in groups if group.cards)

    def _wrong(self, match: Match) -> Card:
        return self._match(match, "wrong", ((match.box, "wrong"),), f"Rank {match.rank}, wrong: {match.image}")

    def _late(self, match: Match, true: Box | None) -> Card:
        boxes: tuple[tuple[Box, Kind], ...] = ((match.box, "right"),)
        overlap = ""
        if true is not None:
            boxes += ((true, "true"),)
            overlap = f" · IoU {metrics.intersection_over_union(match.box, true):.2f}"
        alt = f"Rank {match.rank}, right but late: {match.image}"
        return self._match(match, "right", boxes, alt, remark=", late", overlap=overlap)

    def _misplaced(self, match: Match, true: Box, overlap: float) -> Card:
        alt = f"Rank {match.rank}, right, but its box is badly placed: {match.image}"
        boxes: tuple[tuple[Box, Kind], ...] = ((match.box, "right"), (true, "true"))
        return self._match(match, "right", boxes, alt, remark=f", IoU {overlap:.3f}")

    def _match(
        self,
        match: Match,
        verdict: Literal["right", "wrong"],
        boxes: tuple[tuple[Box, Kind], ...],
        alt: str,
        *,
        remark: str = "",
        overlap: str = "",
    ) -> Card:
        image = self._photos[match.image]
        photo = Photo(self._thumbnail(image.file), (image.width, image.height), boxes, alt)
        notes = (f"score {match.score:.3g}{overlap}",)
        return Card(photo, rank=match.rank, verdict=verdict, remark=remark, notes=notes, name=match.image)


def _unranked(name: str) -> Card:
    photo = Photo(None, _UNKNOWN_SIZE, (), f"Never ranked: {name}")
    notes = ("could not be read when the collection was built",)
    return Card(photo, verdict="right", remark=", never ranked", notes=notes, name=name)


def _group(title: str, cards: Iterable[Card], total: int, which: str) -> Group:
    shown = tuple(cards)
    count = f"{total:,}" if len(shown) == total else f"{len(shown):,} of {total:,}"
    return Group(title, f"{count} {which}", shown)


def _clipped(box: Box, size: tuple[float, float]) -> Box:
    """Clip a box to its photo: corners in official files are rounded."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
