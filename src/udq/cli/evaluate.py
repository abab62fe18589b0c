"""``udq evaluate`` and ``demo``: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.options import CollectionPath, Device, Json, Rerank, Threads, parse_stages
from udq.cli.progress_bar import progress
from udq.common.files import check_output
from udq.errors import InputError

GroundTruthPath = Annotated[Path, typer.Option(metavar="PATH", help="The ground truth of the benchmark.")]
Layout = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Layout of the ground truth: boxes (a CSV), oxford5k, paris6k, roxford5k, rparis6k or instre.",
    ),
]
QueryFolder = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Query photos outside the collection. Default: beside the ground truth."),
]
KeepQuery = Annotated[
    bool, typer.Option("--keep-query", help="Keep a query's own photo in its ranking; oxford5k and paris6k always do.")
]
RealValued = Annotated[
    bool,
    typer.Option(
        "--real-valued",
        help="Also rank by features before quantization: extracts all photos again, which takes as long as indexing.",
    ),
]
FeatureFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="With --real-valued: keep the features in FOLDER for the next time, about 0.5 MB per photo.",
    ),
]
Sheet = Annotated[Path | None, typer.Option(metavar="OUT.jpg", help="Write a sheet of the best and worst queries.")]
Report = Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page of what went wrong, in one file.")]


def evaluate(
    collection: CollectionPath,
    ground_truth: GroundTruthPath,
    dataset: Layout = "boxes",
    queries: QueryFolder = None,
    keep_query: KeepQuery = False,
    real_valued: RealValued = False,
    features: FeatureFolder = None,
    rerank: Rerank = None,
    picture: Sheet = None,
    report: Report = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure a collection against a benchmark: mean average precision, and how well the boxes fit."""
    from udq import datasets
    from udq.collection import Collection
    from udq.evaluation import benchmark as evaluation

    if picture is not None:
        from udq.reports import results, sheet

        sheet.file_format(picture)
    if report is not None:
        from udq.reports import errors  # imports jinja2

        errors.check(report)
    if features is not None and not real_valued:
        raise InputError(f"--features {features}: expected --real-valued with it; add it, or leave --features out")
    opened = Collection.open(collection, device=device, threads=threads)
    for file in filter(None, (picture, report)):
        check_output(file, (*filter(None, (ground_truth,)), *(image.path for image in opened.images)))
    done = evaluation.evaluate(
        opened,
        datasets.load(dataset, ground_truth),
        keep_query=keep_query,
        queries=queries,
        real_valued=real_valued,
        features=features,
        stages=parse_stages(rerank),
        progress=progress,
    )
    if picture is not None:
        sheet.save(results.evaluation_sheet(opened, done), picture)
    size = 0 if report is None else errors.write(opened, done, report, progress=progress)
    printing.print_evaluation(done.report, as_json=as_json)
    if as_json:
        return
    if picture is not None:
        printing.say(f"picture: {picture}")
    if report is not None:
        printing.say(f"report: {report}, {size / 1e6:.1f} MB")


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of the photos and results.")
    ] = Path("udq-demo"),
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Build, search and measure a collection of photos composed from those that installed packages ship."""
    from udq.experiments.demo.run import run_demo

    facts = run_demo(output, device=device, threads=threads, progress=progress)
    if as_json:
        printing.print_json(facts)
        return
    print(f"mAP of {facts['queries']} queries, {facts['bytes_per_region']:g}-byte codes: {facts['mAP']:.3f}"
          f"  (real-valued features: {facts['real_valued']['mAP']:.3f})")  # fmt: skip
    first_page = facts["localisation"]["top_20"]
    print(f"reported boxes, first 20 photos: mean IoU {first_page['mean_iou']:.3f}, "
          f"{first_page['share_iou_50']:.0%} at 0.5 or better")  # fmt: skip
    for name, path in facts["written"].items():
        printing.say(f"{name + ':':<12} {path}")
