"""``udq demo``: compose photos, build a collection, search and evaluate it, and write a web page of the results."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from udq.collection import Collection
from udq.common.progress import Progress, silent
from udq.datasets import REGISTRY
from udq.errors import InputError
from udq.evaluation import benchmark, metrics, scoring
from udq.experiments.demo.compose import PHOTO_COUNT, compose
from udq.experiments.demo.page import MatchView, QueryView, write_page
from udq.reports import results
from udq.reports import sheet as sheets

_SHOWN = 10  # matches per query on the page


def run_demo(
    output: Path, *, device: str = "auto", threads: int | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Run the demonstration.

    Args:
        output: the folder to create, for photos, ground truth, collection, page and pictures.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads; as many as there are cores if None.
        progress: called for each photo and query.

    Returns:
        The report of ``evaluate``, with the written paths under ``written``.

    Raises:
        InputError: ``output`` already exists.
        DependencyError: the packages that ship the photos are not installed.
    """
    if output.exists():
        raise InputError(f"{output}: already exists; name another folder with -o, or delete it first")
    try:
        return _run(output, device, threads, progress)
    except BaseException:
        # Did not exist before, so it can be deleted: an error or Ctrl-C leaves nothing incomplete.
        shutil.rmtree(output, ignore_errors=True)
        raise


def _run(output: Path, device: str, threads: int | None, progress: Progress) -> dict[str, Any]:
    photos, path = output / "photos", output / "demo.udq"
    with progress("composing photos", PHOTO_COUNT) as step:
        answers = compose(output, on_photo=step)
    collection = Collection.build(photos, path, device=device, threads=threads, progress=progress)
    truth = REGISTRY["boxes"](answers)
    done = benchmark.evaluate(collection, truth, real_valued=True, progress=progress)
    codes = benchmark.evaluate(collection, truth, stages=(), progress=progress).report["mAP"]

    first = truth.queries[0]
    found = collection.search(photos / first.image, first.box, k=8)
    search_picture, sheet = output / "search.jpg", output / "best-and-worst.jpg"
    sheets.save(results.search_sheet(collection, found), search_picture)
    sheets.save(results.evaluation_sheet(collection, done), sheet)
    page = write_page(
        output,
        title="udq: object instance search",
        facts=_facts(done.report, codes, found.elapsed_ms),
        queries=_views(collection, done.outcomes),
    )
    written = {
        "page": page,
        "search": search_picture,
        "sheet": sheet,
        "photos": photos,
        "answers": answers,
        "collection": path,
    }
    return done.report | {"written": {name: str(place) for name, place in written.items()}}


def _facts(facts: dict[str, Any], codes: float, elapsed_ms: dict[str, float]) -> list[tuple[str, str]]:
    first_page = facts["localisation"]["top_20"]
    return [
        ("photos", f"{facts['images']:,}"),
        ("regions", f"{facts['regions']:,}"),
        ("bytes per region", f"{facts['bytes_per_region']:g}"),
        ("queries", f"{facts['queries']}"),
        ("mAP, verified", f"{facts['mAP']:.3f}"),
        ("mAP, codes alone", f"{codes:.3f}"),
        ("mAP, real-valued", f"{facts['real_valued']['mAP']:.3f}"),
        ("mean IoU of right photos in the top 20", f"{first_page['mean_iou']:.3f}"),
        ("one search", f"{elapsed_ms['total']:.0f} ms"),
    ]


def _views(collection: Collection, outcomes: tuple[scoring.Outcome, ...]) -> list[QueryView]:
    sizes = {image.name: (image.width, image.height) for image in collection.images}
    views = []
    for outcome in outcomes:
        query = outcome.query
        matches = [
            MatchView(
                f"photos/{match.image}",
                sizes[match.image],
                match.box,
                match.score,
                match.image in query.positives,
                metrics.intersection_over_union(match.box, query.boxes[match.image])
                if match.image in query.boxes
                else None,
            )
            for match in outcome.matches[:_SHOWN]
        ]
        width, height = sizes[query.image]
        box = query.box or (0.0, 0.0, float(width), float(height))
        views.append(QueryView(query.label, f"photos/{query.image}", box, (width, height), outcome.ap, matches))
    return views
