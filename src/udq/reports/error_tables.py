"""The tables and the chart of the error report, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from udq.common.text import counted
from udq.evaluation.failures import LEAST_OVERLAP, Failures
from udq.evaluation.scoring import RANKS, TOP, Outcome
from udq.reports import html

if TYPE_CHECKING:
    from udq.search.reader import Reader

_BARS = 10
# A longer table is folded, so that the photos below it are in reach.
_OPEN = 30

_COUNTED = f"""<p class="lead quiet">Wrong before: wrong photos before the last positive. Late: positives after a wrong
photo, or never ranked. Boxes off: positives among the first {TOP} photos whose box has an IoU under
{LEAST_OVERLAP:g} with the true one, where that is known.</p>"""


class Row(NamedTuple):
    """One query: its line of the report, and its outcome."""

    facts: dict[str, Any]
    outcome: Outcome


def figures(facts: dict[str, Any]) -> str:
    """Return a table of all means: of codes and of real-valued features, and at each difficulty."""
    names = ["mAP", *(f"mP@{k}" for k in RANKS)]
    lines = []
    for kind, part in (("codes", facts), ("real-valued", facts.get("real_valued"))):
        if part is None:
            continue
        lines.append([kind, *(share(part[name]) for name in names), f"{facts['queries']:,}"])
        for difficulty, means in part.get("difficulties", {}).items():
            lines.append([f"{kind}, {difficulty}", *(share(means[name]) for name in names), f"{means['queries']:,}"])
    return _grid(["", *names, "queries"], [[escape(cell) for cell in line] for line in lines], words={0})


def histogram(values: Sequence[float]) -> str:
    """Return a chart of how many queries have which average precision."""
    counts = [0] * _BARS
    for value in values:
        counts[min(int(value * _BARS), _BARS - 1)] += 1
    width, high, base = 34, 110, 130
    bars = []
    for i, count in enumerate(counts):
        height = high * count / max(*counts, 1)
        left = 10 + i * width
        span = f"{i / _BARS:.1f} to {(i + 1) / _BARS:.1f}"
        bars.append(
            f'<rect x="{left + 2}" y="{base - height:.1f}" width="{width - 4}" height="{height:.1f}">'
            f"<title>AP {span}: {counted(count, 'query', 'queries')}</title></rect>"
        )
        if count:
            bars.append(
                f'<text x="{left + width / 2:g}" y="{base - height - 4:.1f}" text-anchor="middle">{count:,}</text>'
            )
    for i in range(0, _BARS + 1, 2):
        bars.append(
            f'<text class="unit" x="{10 + i * width}" y="{base + 14}" text-anchor="middle">{i / _BARS:.1f}</text>'
        )
    words = "How many queries have which average precision: " + ", ".join(
        f"{count:,} from {i / _BARS:.1f}" for i, count in enumerate(counts) if count
    )
    return (
        f'<svg class="chart" viewBox="0 0 {20 + _BARS * width} {base + 32}" role="img" aria-label="{words}">'
        f'<line x1="10" y1="{base}" x2="{10 + _BARS * width}" y2="{base}"/>{"".join(bars)}'
        f'<text class="unit" x="{10 + _BARS * width / 2:g}" y="{base + 28}" text-anchor="middle">'
        "average precision; bars: queries</text></svg>"
    )


def queries(rows: Sequence[Row], shown: int) -> Iterator[str]:
    """Return a line a query, worst first; a click opens it where it is long."""
    names = list(rows[0].outcome.difficulties)
    exact = "ap_real_valued" in rows[0].facts
    counts = ("positives", "wrong before", "late", "boxes off")
    head = ["query", "AP", *(["real-valued"] if exact else []), *names, *counts]
    lines = []
    for number, (facts, outcome) in enumerate(rows, start=1):
        query = outcome.query
        name = html.name(query.image) + (f" ({html.name(query.label)})" if query.label else "")
        cells = [f'<a href="#q{number}">{name}</a>' if number <= shown else name, share(facts["ap"])]
        cells += [share(facts["ap_real_valued"])] if exact else []
        cells += [share(facts["difficulties"][level]["ap"]) for level in names]
        cells += [f"{facts['positives']:,}", *_counts(outcome.failures)]
        lines.append(cells)
    opened = " open" if len(rows) <= _OPEN else ""
    yield f"<details{opened}><summary>All {len(rows):,} queries, worst first</summary>"
    yield _COUNTED
    yield _grid(head, lines, words={0})
    yield "</details>"


def _counts(found: Failures | None) -> list[str]:
    if found is None:
        return ["–"] * 3
    late = found.misses.total + len(found.unranked)
    return [f"{count:,}" for count in (found.false_positives.total, late, found.misplaced.total)]


def origin(collection: Reader, facts: dict[str, Any]) -> str:
    """Return how the figures came about."""
    made = facts["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    rows = {
        "collection": collection.path.resolve().name,
        "model": facts["learned_on"],
        "dataset": facts["dataset"],
        "query photos": "in their own rankings" if facts["keep_query"] else "not in their own rankings",
        "command": made["command"],
        "date": made["date"],
        "versions": versions,
        "commit": made["commit"] or "not from a checkout",
        "seed": f"{made['seed']}",
        "machine": f"{made['machine']['cpu']}, {made['machine']['cores']} cores, {made['machine']['system']}",
    }
    lines = "".join(f"<tr><th>{name}</th><td>{html.words(str(value))}</td></tr>" for name, value in rows.items())
    return f'<section id="how"><h2>How this was measured</h2>\n<table>{lines}</table></section>'


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]], *, words: set[int]) -> str:
    """Return a table whose columns hold numbers, but for those of ``words``; cells are HTML."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}>{cell}</{tag}>" if i in words else f'<{tag} class="number">{cell}</{tag}>'
            for i, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row('td', line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{row("th", head)}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def share(value: float | None) -> str:
    """Return a figure of 0..1; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
