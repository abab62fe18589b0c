"""The tables and the chart of the error report, as data for its templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from udq.common.text import counted
from udq.evaluation.by_size import with_positives
from udq.evaluation.failures import Failures
from udq.evaluation.scoring import RANKS, TOP, Outcome

if TYPE_CHECKING:
    from udq.search.reader import Reader

# Bars of the chart, and their geometry in units of the SVG.
_BARS = 10
_BAR_WIDTH, _BAR_HEIGHT = 34, 110
_LEFT, _BASE = 10, 130


class ScoredQuery(NamedTuple):
    """One query: its entry of the report, and its outcome."""

    facts: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True)
class MeansRow:
    """Means of one kind of feature at one difficulty, or of one class of object size."""

    name: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class QueryRow:
    """One query of the table.

    Attributes:
        anchor: id of the query's section; empty if it has none.
        image: name of the query photo.
        label: name of the object, or empty.
        numbers: the other cells.
    """

    anchor: str
    image: str
    label: str
    numbers: tuple[str, ...]


Row = TypeVar("Row", MeansRow, QueryRow)


@dataclass(frozen=True)
class Table(Generic[Row]):
    """A table: the column names, and the rows."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: left edge, width and height in units of the SVG, its count, and its tooltip."""

    x: float
    width: float
    height: float
    count: int
    title: str


@dataclass(frozen=True)
class Chart:
    """A histogram: size, axis, bars and ticks in units of the SVG, and a summary for screen readers."""

    width: float
    height: float
    left: float
    right: float
    base: float
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    summary: str


def means(facts: dict[str, Any]) -> Table[MeansRow]:
    """Return the means of codes and, if measured, of real-valued features, overall and at each difficulty."""
    names = ("mAP", *(f"mP@{k}" for k in RANKS))

    def row(name: str, values: dict[str, Any], queries: int) -> MeansRow:
        return MeansRow(name, (*(share(values[each]) for each in names), f"{queries:,}"))

    rows = []
    for kind, part in (("codes", facts), ("real-valued", facts.get("real_valued"))):
        if part is not None:
            rows.append(row(kind, part, facts["queries"]))
            for difficulty, values in part.get("difficulties", {}).items():
                rows.append(row(f"{kind}, {difficulty}", values, values["queries"]))
    return Table(("", *names, "queries"), tuple(rows))


def sizes(facts: dict[str, Any]) -> Table[MeansRow]:
    """Return the means of each class of object size that has positives; no rows if no true box is known."""
    exact = facts["real_valued"]["by_size"] if "real_valued" in facts else None
    rows = []
    for size, figures in with_positives(facts["by_size"]):
        fit = figures["localisation"][f"top_{TOP}"]
        numbers = [share(figures["mAP"]), *([share(exact[size.key]["mAP"])] if exact else [])]
        numbers += [share(fit["mean_iou"]), f"{fit['share_iou_50']:.0%}" if fit["boxes"] else "–"]
        rows.append(MeansRow(size.title, (*numbers, f"{figures['queries']:,}", f"{figures['positives']:,}")))
    head = ("mAP, codes", *(["mAP, real-valued"] if exact else []), f"mean IoU, top {TOP}", "at 0.5 or better")
    return Table(("share of the photo", *head, "queries", "positives"), tuple(rows))


def histogram(values: Sequence[float]) -> Chart:
    """Return the distribution of average precision over the queries.

    Args:
        values: average precision of each query, 0..1.
    """
    counts = [0] * _BARS
    for value in values:
        counts[min(int(value * _BARS), _BARS - 1)] += 1
    bars = tuple(
        Bar(
            _LEFT + i * _BAR_WIDTH + 2,
            _BAR_WIDTH - 4,
            _BAR_HEIGHT * count / max(*counts, 1),
            count,
            f"AP {i / _BARS:.1f} to {(i + 1) / _BARS:.1f}: {counted(count, 'query', 'queries')}",
        )
        for i, count in enumerate(counts)
    )
    summary = ", ".join(f"{count:,} from {i / _BARS:.1f}" for i, count in enumerate(counts) if count)
    return Chart(
        width=2 * _LEFT + _BARS * _BAR_WIDTH,
        height=_BASE + 32,
        left=_LEFT,
        right=_LEFT + _BARS * _BAR_WIDTH,
        base=_BASE,
        bars=bars,
        ticks=tuple((_LEFT + i * _BAR_WIDTH, f"{i / _BARS:.1f}") for i in range(0, _BARS + 1, 2)),
        summary=f"Number of queries by average precision: {summary}",
    )


def queries(scored: Sequence[ScoredQuery], sections: int) -> Table[QueryRow]:
    """Return a row for each query.

    Args:
        scored: at least one query, worst first.
        sections: how many of them, from the first, have a section with the anchor ``q1``, ``q2`` and so on.
    """
    difficulties = list(scored[0].outcome.difficulties)
    real_valued = ["real-valued"] if "ap_real_valued" in scored[0].facts else []
    rows = []
    for number, (facts, outcome) in enumerate(scored, start=1):
        numbers = [share(facts["ap"])]
        numbers += [share(facts["ap_real_valued"])] if real_valued else []
        numbers += [share(facts["difficulties"][level]["ap"]) for level in difficulties]
        numbers += [f"{facts['positives']:,}", *_counts(outcome.failures)]
        anchor = f"q{number}" if number <= sections else ""
        rows.append(QueryRow(anchor, outcome.query.image, outcome.query.label, tuple(numbers)))
    counts = ("positives", "wrong before", "late", "boxes off")
    return Table(("query", "AP", *real_valued, *difficulties, *counts), tuple(rows))


def origin(collection: Reader, facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how the results were measured: pairs of name and value."""
    provenance = facts["provenance"]
    machine = provenance["machine"]
    return [
        ("collection", collection.path.resolve().name),
        ("model", facts["learned_on"]),
        ("dataset", facts["dataset"]),
        ("query photos", "in their own rankings" if facts["keep_query"] else "not in their own rankings"),
        ("command", provenance["command"]),
        ("date", provenance["date"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())),
        ("commit", provenance["commit"] or "not from a checkout"),
        ("seed", f"{provenance['seed']}"),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"),
    ]


def share(value: float | None) -> str:
    """Return a value of 0..1 with three decimals, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def _counts(failures: Failures | None) -> tuple[str, ...]:
    if failures is None:
        return ("–", "–", "–")
    late = failures.misses.total + len(failures.unranked)
    return tuple(f"{count:,}" for count in (failures.false_positives.total, late, failures.misplaced.total))
