"""One query -> a section of the error report: wrong photos, right ones that came late, boxes that sit badly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape

from udq.common.text import counted
from udq.errors import ImageError
from udq.evaluation import metrics
from udq.evaluation.failures import KEPT, Failures
from udq.evaluation.scoring import TOP, Outcome
from udq.photos import decoding
from udq.reports import html, thumbnails
from udq.store.segments import Image
from udq.types import Box, Match

# Ranks of positives that a section names; photos whose last thumbnails are kept, since the queries of one object share
# their answers.
_RANKS = 24
_REMEMBERED = 256
_UNKNOWN = (4.0, 3.0)  # size of a photo that nobody can tell


class Sheets:
    """Makes the sections of one report."""

    def __init__(self, photos: Sequence[Image]) -> None:
        """Keep the photos of the collection by name."""
        self._photos = {photo.name: photo for photo in photos}
        self._thumbnail = lru_cache(maxsize=_REMEMBERED)(thumbnails.whole)

    def section(self, anchor: str, outcome: Outcome, real_valued_ap: float | None) -> str:
        """Return the section of a query.

        Args:
            anchor: id of the section.
            outcome: of a query with positives.
            real_valued_ap: average precision by features that nothing has quantized, where it was measured.
        """
        failures, query = outcome.failures, outcome.query
        assert failures is not None
        total = len(failures.ranks) + len(failures.unranked)
        exact = "" if real_valued_ap is None else f" · real-valued {real_valued_ap:.3f}"
        ranks = ", ".join(f"{rank:,}" for rank in failures.ranks[:_RANKS])
        more = len(failures.ranks) - _RANKS
        ranks += f" and {more:,} more" if more > 0 else ""
        place = "rank" if len(failures.ranks) == 1 else "ranks"
        return "\n".join(
            [
                f'<section id="{anchor}">\n<header><h2>{html.name(query.label or query.image)}</h2>',
                f"<p>AP {outcome.ap:.3f}{exact}</p>",
                f"<p>{counted(total, 'positive')}, at {place} {ranks or '–'}</p></header>",
                f'<div class="row">\n<div class="query">{self._query(outcome)}</div>\n<div>',
                *self._failures(failures, query.boxes),
                "</div>\n</div>\n</section>",
            ]
        )

    def _query(self, outcome: Outcome) -> str:
        query = outcome.query
        held = self._photos.get(query.image)
        try:
            size = (held.width, held.height) if held else decoding.shown_size(outcome.photo)
        except ImageError:  # gone since it was searched for
            return html.card(html.photo(None, _UNKNOWN, [], f"Query: {query.image}"), "Query", html.name(query.image))
        source = self._thumbnail(outcome.photo)
        if query.box is None:
            whole = html.photo(source, size, [], f"Query: {query.image}")
            return html.card(whole, "Query: the whole photo", html.name(query.image))
        drawn = html.photo(source, size, [(query.box, "drawn")], f"Query: {query.image}, with the drawn box")
        cards = html.card(drawn, "Query: the drawn box", html.name(query.image))
        inside = thumbnails.cut(outcome.photo, _within(query.box, size))
        if inside is not None:
            cards += html.card(html.photo(*inside, [], "What is in the drawn box"), "What is searched for")
        return cards

    def _failures(self, found: Failures, boxes: Mapping[str, Box]) -> list[str]:
        parts = []
        wrong = found.false_positives
        if wrong.shown:
            parts += [
                _heading("False positives", len(wrong.shown), wrong.total, "before the last positive"),
                _list(self._wrong(match) for match in wrong.shown),
            ]
        unranked = found.unranked[:KEPT]
        late = found.misses.shown[: KEPT - len(unranked)]
        if unranked or late:
            total = found.misses.total + len(found.unranked)
            shown = len(unranked) + len(late)
            parts += [
                _heading("Misses", shown, total, "positives that come after a wrong photo, worst first"),
                _list([*map(_never, unranked), *(self._late(match, boxes.get(match.image)) for match in late)]),
            ]
        badly = found.misplaced
        if badly.shown:
            parts += [
                _heading("Boxes that sit badly", len(badly.shown), badly.total, f"among the first {TOP} photos"),
                _list(self._misplaced(match, boxes[match.image], overlap) for match, overlap in badly.shown),
            ]
        if not parts:
            parts.append('<p class="quiet">No wrong photo comes before a positive, and no known box sits badly.</p>')
        return parts

    def _wrong(self, match: Match) -> str:
        shown = self._photo(match, [(match.box, "wrong")], f"Rank {match.rank}, wrong: {match.image}")
        return html.card(
            shown, f'{match.rank:,}. <span class="wrong">✗ wrong</span>', _score(match), html.name(match.image)
        )

    def _late(self, match: Match, true: Box | None) -> str:
        boxes: list[tuple[Box, html.Kind]] = [(match.box, "right")]
        overlap = ""
        if true is not None:
            boxes.append((true, "true"))
            overlap = f" · IoU {metrics.intersection_over_union(match.box, true):.2f}"
        shown = self._photo(match, boxes, f"Rank {match.rank}, right but late: {match.image}")
        verdict = f'{match.rank:,}. <span class="right">✓ right</span>, late'
        return html.card(shown, verdict, _score(match) + overlap, html.name(match.image))

    def _misplaced(self, match: Match, true: Box, overlap: float) -> str:
        alt = f"Rank {match.rank}, right, but its box sits badly: {match.image}"
        shown = self._photo(match, [(match.box, "right"), (true, "true")], alt)
        verdict = f'{match.rank:,}. <span class="right">✓ right</span>, IoU {overlap:.3f}'
        return html.card(shown, verdict, _score(match), html.name(match.image))

    def _photo(self, match: Match, boxes: Sequence[tuple[Box, html.Kind]], alt: str) -> str:
        photo = self._photos[match.image]
        return html.photo(self._thumbnail(photo.path), (photo.width, photo.height), boxes, alt)


def _never(name: str) -> str:
    reason = "could not be read when the collection was built"
    shown = html.photo(None, _UNKNOWN, [], f"Never ranked: {name}")
    return html.card(shown, '<span class="right">✓ right</span>, never ranked', reason, html.name(name))


def _list(cards: Iterable[str]) -> str:
    return '<ol class="small">\n' + "\n".join(f"<li>{card}</li>" for card in cards) + "\n</ol>"


def _heading(what: str, shown: int, total: int, where: str) -> str:
    count = f"{total:,}" if shown == total else f"{shown:,} of {total:,}"
    return f"<h3>{escape(what)} <small>{count} {escape(where)}</small></h3>"


def _score(match: Match) -> str:
    return f"score {match.score:.3g}"


def _within(box: Box, size: tuple[float, float]) -> Box:
    """Cut a box to its photo: corners in official files are rounded."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
