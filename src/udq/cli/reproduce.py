"""``udq reproduce``: the paper's tables and figures. Parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from udq import config
from udq.cli import printing
from udq.cli.options import Device, Json, Threads
from udq.cli.progress_bar import progress, resumable
from udq.common.files import write_whole
from udq.errors import InputError, UdqError
from udq.features import backbones

if TYPE_CHECKING:
    from udq.experiments.paper.cells import Result
    from udq.experiments.paper.settings import Settings
    from udq.experiments.paper.tables import Experiment

_ALL = "all"


Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A table or figure of --list, such as table2; or all.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of oxford5k/, paris6k/ and flickr100k/, or one with images/ and ground_truth.csv."
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="DIR is this one data set: boxes, oxford5k, paris6k, roxford5k, ..."),
]
GroundTruthPath = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Its ground truth, if that is not in its usual place.")
]
PaperPreset = Annotated[
    str,
    typer.Option(
        metavar="NAME[,NAME]",
        help=f"{', '.join(config.PRESETS)}; paper is VGG16 or ResNet101, as each cell requires. Several are "
        "measured one after the other, and shown side by side.",
    ),
]
CellConfig = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings; those of a cell override it.")
]
WeightFiles = Annotated[
    list[str] | None,
    typer.Option(metavar="[BACKBONE=]FILE", help="Weights, for offline use; may be given for each backbone."),
]
RpnFiles = Annotated[
    list[str] | None,
    typer.Option(metavar="[BACKBONE=]FILE", help="Region proposal network that 'udq train-rpn' made; likewise."),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Measure the first N cells of each table.")]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of the results and the finished cells.")
]
ListThem = Annotated[bool, typer.Option("--list", help="List the tables and figures.")]


def reproduce(
    name: Name = None,
    data: Data = None,
    dataset: Dataset = None,
    ground_truth: GroundTruthPath = None,
    preset: PaperPreset = "default",
    config_file: CellConfig = None,
    weights: WeightFiles = None,
    rpn: RpnFiles = None,
    limit: Limit = None,
    output: Output = Path("udq-reproduce"),
    device: Device = "auto",
    threads: Threads = None,
    list_them: ListThem = False,
    as_json: Json = False,
) -> None:
    """Measure a table or figure of the paper, and write the paper's values beside the measured ones.

    If the command is killed or interrupted, run it again to continue: finished cells are kept.
    """
    from udq.experiments.paper import tables

    if list_them:
        _print_list([tables.load(each) for each in tables.NAMES], as_json=as_json)
        return
    if name is None:
        raise InputError("reproduce: expected the name of a table or figure, or all; see udq reproduce --list")
    experiments = [tables.load(each) for each in (tables.NAMES if name == _ALL else (name,))]
    if data is None:
        raise InputError("reproduce: expected --data DIR, the folder of photos and answers; see udq reproduce --help")
    if limit is not None and limit < 1:
        raise InputError(f"--limit: expected 1 or more, found {limit}")
    from udq.experiments.paper import runner
    from udq.experiments.paper.data import DataFolder
    from udq.experiments.paper.settings import Settings

    folder = DataFolder(data, dataset, ground_truth)
    presets = list(dict.fromkeys(preset.split(",")))
    for each in presets:
        config.preset(each)  # raises if the name is unknown
    networks, proposers = _files(weights, "--weights"), _files(rpn, "--rpn")
    runs = [
        Settings(
            folder,
            output if len(presets) == 1 else output / each,
            each,
            config_file,
            networks,
            proposers,
            limit,
            device,
            threads,
        )
        for each in presets
    ]
    with ExitStack() as locks:
        for place in dict.fromkeys((output, *(run.output for run in runs))):
            locks.enter_context(runner.lock_output(place))
        locks.enter_context(resumable(lambda: "finished cells are kept; run the same command to continue"))
        _reproduce(experiments, runs, output, as_json=as_json)


def _reproduce(experiments: Sequence[Experiment], runs: Sequence[Settings], output: Path, *, as_json: bool) -> None:
    """Measure with each preset, write and print the results.

    Raises:
        UdqError: nothing was measured.
    """
    from udq.experiments.paper import results

    written: list[Path] = []
    found = {run.preset: _run(experiments, run, written, as_json=as_json) for run in runs}
    if len(runs) > 1:
        for experiment in experiments:
            by_preset = {name: measured[experiment.name] for name, measured in found.items()}
            written.append(output / f"{experiment.name}.md")
            write_whole(written[-1], results.side_by_side(experiment, by_preset).encode())
    if as_json:
        facts = [results.to_json(each, found[run.preset][each.name], run) for run in runs for each in experiments]
        printing.print_json({"experiments": facts})
    else:
        for file in written:
            printing.say(f"written: {file}")
    every = [result for measured in found.values() for some in measured.values() for result in some]
    if not any(result.measured is not None for result in every):
        reason = next((result.reason for result in every if result.reason), "no cells")
        raise UdqError(f"nothing was measured: {reason}")


def _run(
    experiments: Sequence[Experiment], settings: Settings, written: list[Path], *, as_json: bool
) -> dict[str, list[Result]]:
    """Measure with one preset, print cells as they are done, and add the files of tables to ``written``."""
    from udq.experiments.paper import results, runner

    def say(experiment: Experiment, some: Sequence[Result]) -> None:
        _print_cells(experiment, some, to=sys.stderr if as_json else sys.stdout)

    def write(experiment: Experiment, found: Sequence[Result]) -> None:
        written.extend(results.write(experiment, found, settings))

    return runner.run(experiments, settings, progress=progress, say=say, write=write)


def _print_cells(experiment: Experiment, some: Sequence[Result], *, to: TextIO) -> None:
    """Print a measured cell, or how many cells were left out and why."""
    from udq.experiments.paper import results

    line = some[0].reason or f"paper / measured: {results.written(some[0])}"
    which = some[0].cell.where if len(some) == 1 else f"{len(some)} cells left out"
    printing.say(f"{experiment.name}: {which}: {line}", to=to)


def _print_list(experiments: Sequence[Experiment], *, as_json: bool) -> None:
    if as_json:
        facts = [
            {
                "name": each.name,
                "title": each.title,
                "cells": len(each.measured),
                "datasets": sorted({cell.dataset for cell in each.measured}),
                "networks": sorted({cell.network for cell in each.measured}),
            }
            for each in experiments
        ]
        printing.print_json({"experiments": facts})
        return
    print(f"{'name':<7}  {'cells':>5}  what, data sets")
    for each in experiments:
        print(f"{each.name:<7}  {len(each.measured):>5}  {each.title}")
        print(f"{'':<14}  {', '.join(dict.fromkeys(cell.dataset for cell in each.measured))}")


def _files(given: list[str] | None, option: str) -> dict[str, Path]:
    """Return the file of each backbone; the key "" is for all others."""
    files = {}
    for text in given or ():
        backbone, equals, path = text.partition("=")
        if not equals or backbone not in backbones.REGISTRY:
            backbone, path = "", text
        if not Path(path).is_file():
            raise InputError(f"{option} {text}: no such file; expected FILE or BACKBONE=FILE, such as vgg16=FILE")
        files[backbone] = Path(path)
    return files
