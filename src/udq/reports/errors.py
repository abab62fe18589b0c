"""A benchmark run -> one HTML file that shows people what went wrong: figures, average precisions, the worst queries.

The file stands alone: its photos are small JPEGs inside it, and it needs no script, no font and no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq.common.progress import Progress, silent
from udq.errors import InputError
from udq.evaluation.scoring import TOP
from udq.reports import error_tables, html
from udq.reports.error_sections import Sheets
from udq.reports.error_tables import Row, share

if TYPE_CHECKING:
    from udq.evaluation.benchmark import Evaluation
    from udq.search.reader import Reader

# Queries that are shown with photos: some 0.2 MB each, and more than most people read.
SHEETS = 30
_SUFFIXES = (".html", ".htm")

_LEAD = """<p class="lead">AP, average precision, is 1 when every photo that shows a query's object (a positive) comes
before all others. <span class="wrong">✗ Wrong</span>, in orange: a photo that does not show it, and where udq says it
is. <span class="right">✓ Right</span>, in blue: one that does. The dashed white box is the true place, where that is
known; overlap (IoU) says how well the reported box covers it, from 0 to 1. Yellow is the box that was searched for.
Ranks are those of the whole ranking; a higher score is a closer match.</p>"""


def check(path: Path) -> None:
    """Raise InputError where a report cannot be written to ``path``: before a long evaluation, not after it."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: expected a suffix of .html or .htm, found {path.suffix or 'none'}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that is there, found no folder {path.parent}; make it")
    if path.is_dir():
        raise InputError(f"{path}: expected the name of a file, found a folder")


def write(collection: Reader, evaluation: Evaluation, path: Path, *, progress: Progress = silent) -> int:
    """Write the report of a benchmark run; an older file of that name stays until the new one is complete.

    Photos that cannot be read now leave a grey place.

    Args:
        collection: what was measured.
        evaluation: what ``evaluate`` returned.
        path: ends in ``.html`` or ``.htm``.
        progress: is told of each query that is shown with photos.

    Returns:
        Bytes of the file.

    Raises:
        InputError: ``path`` ends otherwise, or its folder is not there.
        UdqError: the file cannot be written.
    """
    check(path)
    facts = evaluation.report
    title = f"{facts['dataset']}, {collection.path.resolve().name}: what was found, and what went wrong"
    rows = [Row(*pair) for pair in zip(facts["per_query"], evaluation.outcomes, strict=True)]
    # Queries without positives have no average precision, and come last.
    rows.sort(key=lambda row: (row.outcome.failures is None, row.outcome.ap, row.outcome.query.image))
    html.write(path, html.document(title, _body(collection, facts, title, rows, progress), alone=True))
    return path.stat().st_size


def _body(
    collection: Reader, facts: dict[str, Any], title: str, rows: Sequence[Row], progress: Progress
) -> Iterator[str]:
    scored = [row for row in rows if row.outcome.failures is not None]
    worst = scored[:SHEETS]
    yield f"<h1>{html.name(title)}</h1>"
    made = facts["provenance"]
    yield (
        f'<p class="quiet">{escape(made["date"])} · udq {escape(made["versions"].get("udq", ""))} · '
        '<a href="#how">how this was measured</a></p>'
    )
    yield html.facts(_headline(facts))
    yield error_tables.figures(facts)
    yield from (f"<p>Note: {html.words(note)}</p>" for note in facts["notes"])
    yield "<h2>Average precision of the queries</h2>"
    yield error_tables.histogram([row.outcome.ap for row in scored])
    yield from error_tables.queries(rows, len(worst))
    which = f"The {len(worst)} worst of {len(rows):,} queries" if len(worst) < len(rows) else "The queries, worst first"
    yield f"<h2>{which}</h2>\n{_LEAD}"
    sheets = Sheets(collection.images)
    with progress("report", len(worst)) as step:
        for number, row in enumerate(worst, start=1):
            yield sheets.section(f"q{number}", row.outcome, row.facts.get("ap_real_valued"))
            step()
    yield error_tables.origin(collection, facts)


def _headline(facts: dict[str, Any]) -> list[tuple[str, str]]:
    first_page = facts["localisation"][f"top_{TOP}"]
    real_valued = facts.get("real_valued")
    return [
        ("mAP, codes", share(facts["mAP"])),
        ("mAP, real-valued", share(real_valued["mAP"]) if real_valued else "not measured"),
        (f"mean IoU, positives in the top {TOP}", share(first_page["mean_iou"])),
        ("of these at 0.5 or better", f"{first_page['share_iou_50']:.0%}" if first_page["boxes"] else "–"),
        ("queries", f"{facts['queries']:,}"),
        ("photos", f"{facts['images']:,}"),
        ("regions", f"{facts['regions']:,}"),
        ("bytes a region", f"{facts['bytes_per_region']:g}"),
    ]
