"""The error report of a benchmark run: an HTML page with the results and what went wrong with the worst queries.

The file is self-contained: its photos are small embedded JPEGs, and it needs no script, no font and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq.common.progress import Progress, silent
from udq.errors import InputError
from udq.evaluation.failures import LEAST_OVERLAP
from udq.evaluation.scoring import TOP
from udq.reports import error_tables, html
from udq.reports.error_sections import Section, SectionBuilder
from udq.reports.error_tables import ScoredQuery, share

if TYPE_CHECKING:
    from udq.evaluation.benchmark import Evaluation
    from udq.search.reader import Reader

# Queries with a section of photos, about 0.2 MB each.
SECTIONS = 30
# A longer table of queries is folded, so that the photos below it stay within reach.
_UNFOLDED = 30
_SUFFIXES = (".html", ".htm")


def check(path: Path) -> None:
    """Raise InputError if a report cannot be written to ``path``; call it before a long evaluation."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: expected a suffix of .html or .htm, found {path.suffix or 'none'}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in an existing folder, found no folder {path.parent}; make it")
    if path.is_dir():
        raise InputError(f"{path}: expected the name of a file, found a folder")


def write(collection: Reader, evaluation: Evaluation, path: Path, *, progress: Progress = silent) -> int:
    """Write the report of a benchmark run; an older file of that name stays until the new one is complete.

    The page is written section by section and is never whole in memory. Photos that cannot be read now leave a grey
    placeholder.

    Args:
        collection: the collection that was measured.
        evaluation: the result of ``evaluate``.
        path: ends in ``.html`` or ``.htm``.
        progress: called for each query that gets a section.

    Returns:
        Size of the file in bytes.

    Raises:
        InputError: ``path`` has another suffix, or its folder does not exist.
        UdqError: the file cannot be written.
    """
    check(path)
    facts = evaluation.report
    scored = [ScoredQuery(*pair) for pair in zip(facts["per_query"], evaluation.outcomes, strict=True)]
    # Queries without positives have no average precision and come last.
    scored.sort(key=lambda each: (each.outcome.failures is None, each.outcome.ap, each.outcome.query.image))
    worst = [each for each in scored if each.outcome.failures is not None][:SECTIONS]
    with progress("report", len(worst)) as step:
        sections = _sections(collection, worst, step)
        html.write(path, html.render("error_report.html", sections=sections, **_page(collection, facts, scored)))
    return path.stat().st_size


def _sections(collection: Reader, worst: Sequence[ScoredQuery], step: Callable[[], object]) -> Iterator[Section]:
    """Build the sections one at a time, as the page is written."""
    builder = SectionBuilder(collection.images, collection.decoder)
    for number, each in enumerate(worst, start=1):
        yield builder.section(f"q{number}", each.outcome, each.facts.get("ap_real_valued"))
        step()


def _page(collection: Reader, facts: dict[str, Any], scored: Sequence[ScoredQuery]) -> dict[str, Any]:
    """Return the variables of ``error_report.html``, except the sections."""
    provenance = facts["provenance"]
    measured = [each.outcome.ap for each in scored if each.outcome.failures is not None]
    shown = min(len(measured), SECTIONS)
    return {
        "title": f"{facts['dataset']}, {collection.path.resolve().name}: what was found, and what went wrong",
        "alone": True,
        "date": provenance["date"],
        "version": provenance["versions"].get("udq", ""),
        "headline": _headline(facts),
        "means": error_tables.means(facts),
        "sizes": error_tables.sizes(facts),
        "notes": facts["notes"],
        "chart": error_tables.histogram(measured),
        "queries": error_tables.queries(scored, shown),
        "unfolded": len(scored) <= _UNFOLDED,
        "top": TOP,
        "least_overlap": LEAST_OVERLAP,
        "worst": f"The {shown} worst of {len(scored):,} queries" if shown < len(scored) else "The queries, worst first",
        "origin": error_tables.origin(collection, facts),
    }


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
        ("bytes per region", f"{facts['bytes_per_region']:g}"),
    ]
