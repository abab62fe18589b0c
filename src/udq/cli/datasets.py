"""``udq datasets``: what there is, how to get it, and whether a copy is whole. Parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.progress_bar import progress, resumable
from udq.errors import InputError, UdqError

app = typer.Typer(
    help="The data sets of the field: list them, download one, check a copy.",
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list", epilog="Example: udq datasets list")
def list_datasets(as_json: Json = False) -> None:
    """Say what data sets there are: photos, queries, size of the download, official address."""
    from udq.datasets.catalogue import CATALOGUE

    printing.print_datasets(list(CATALOGUE.values()), as_json=as_json)


@app.command(epilog="Example: udq datasets download oxford5k -o oxford5k")
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set of 'udq datasets list'.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where it goes.")],
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Another address that has the files under their names.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="A folder that has the files: no network.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Download a data set's files from their official addresses, and unpack them.

    Asks first. Cut or killed, the same command goes on. Checksums are kept and compared the next time.
    """
    from udq.datasets import catalogue
    from udq.datasets import download as downloads

    dataset = catalogue.find(name)
    plan = downloads.DownloadPlan(dataset, output, mirror=mirror, source=source)
    if plan.fetched and not yes:
        _ask(plan.question())
    with resumable(plan.left):
        files = downloads.download(plan, progress=progress)
    if as_json:
        printing.print_json({"dataset": name, "folder": str(output), "files": files})
        return
    for file in files:
        printing.say(f"{file['name']}: sha256 {file['sha256']}, in {file['into']}")
    if dataset.hint:
        print(f"note: {dataset.hint}")


@app.command(epilog="Example: udq datasets check oxford5k")
def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the data set is.")],
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A data set of 'udq datasets list'; by default what was downloaded."),
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Its ground truth, where that is not in the folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say exactly what a copy lacks, and which photos cannot be read; exit 1 where something is missing or broken."""
    from udq.datasets import catalogue
    from udq.datasets import check as checks

    dataset = dataset or catalogue.marked(folder)
    if dataset is None:
        raise InputError(f"{folder}: no download of udq has marked it; give --dataset NAME, one of 'udq datasets list'")
    findings = checks.check(dataset, folder, ground_truth=ground_truth, progress=progress)
    printing.print_findings(findings, as_json=as_json)
    if not findings.whole:
        cure = ""
        if (findings.missing or findings.unreadable) and catalogue.find(dataset).unpacked:
            cure = f"; 'udq datasets download {dataset} -o FOLDER' gets and unpacks it, or does so again"
        raise UdqError(f"{folder}: {dataset} is not whole: {findings.summary()}{cure}")


def _ask(question: str) -> None:
    """Print what will be downloaded, and go on where a person at the terminal agrees."""
    for line in question.splitlines():
        printing.say(line, to=sys.stderr)
    if not sys.stdin.isatty():
        raise InputError("nothing was downloaded: nobody is at the terminal to agree; give --yes, or --from FOLDER")
    print("Download? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was downloaded: you did not agree")
