"""``udq datasets``: list, download, check. Parses, calls, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from udq.cli import printing
from udq.cli.options import Command, Json
from udq.cli.progress_bar import progress, resumable
from udq.errors import InputError, UdqError

app = typer.Typer(
    help="The data sets of the field: list them, download one, check a copy.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list", cls=Command, epilog="Example: udq datasets list")
def list_datasets(as_json: Json = False) -> None:
    """List the data sets: photos, queries, size of the download, official address."""
    from udq.datasets.catalogue import CATALOGUE

    printing.print_datasets(list(CATALOGUE.values()), as_json=as_json)


@app.command(cls=Command, epilog="Example: udq datasets download oxford5k -o oxford5k")
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set of 'udq datasets list'.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to download to.")],
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Another address that serves the files under the same names.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="A folder that contains the files: no network is used."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Download a data set's files from their official addresses, and unpack them, after asking.

    If the command is killed or interrupted, run it again to continue. Checksums are stored, and compared next time.
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


@app.command(cls=Command, epilog="Example: udq datasets check oxford5k")
def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the data set.")],
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A data set of 'udq datasets list'. Default: the one that was downloaded."),
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Its ground truth, if that is not in the folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is missing from a copy and which photos cannot be read; exit 1 if it is not whole."""
    from udq.datasets import catalogue
    from udq.datasets import check as checks

    dataset = dataset or catalogue.marked(folder)
    if dataset is None:
        raise InputError(f"{folder}: not downloaded by udq; give --dataset NAME, one of 'udq datasets list'")
    findings = checks.check(dataset, folder, ground_truth=ground_truth, progress=progress)
    printing.print_findings(findings, as_json=as_json)
    if not findings.whole:
        cure = ""
        if (findings.missing or findings.unreadable) and catalogue.find(dataset).unpacked:
            cure = f"; 'udq datasets download {dataset} -o FOLDER' downloads and unpacks it again"
        raise UdqError(f"{folder}: {dataset} is not whole: {findings.summary()}{cure}")


def _ask(question: str) -> None:
    """Print what will be downloaded, and continue if the person at the terminal agrees."""
    for line in question.splitlines():
        printing.say(line, to=sys.stderr)
    if not sys.stdin.isatty():
        raise InputError("nothing was downloaded: no terminal to ask at; give --yes, or --from FOLDER")
    print("Download? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was downloaded: you did not agree")
