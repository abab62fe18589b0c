"""Write measured values beside the paper's: JSON, Markdown, and a picture for a figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udq.common.files import write_whole
from udq.common.provenance import provenance
from udq.common.text import counted
from udq.config import preset
from udq.experiments.paper.cells import Result
from udq.experiments.paper.settings import PAPER, Settings
from udq.experiments.paper.tables import NETWORKS, TIMES, Cell, Experiment


def write(experiment: Experiment, results: Sequence[Result], settings: Settings) -> list[Path]:
    """Write a table or figure, and return the written files.

    Args:
        experiment: the table or figure.
        results: results of its cells, in order.
        settings: settings of the run.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    stem = settings.output / experiment.name
    facts = to_json(experiment, results, settings)
    written = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    write_whole(written[0], (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(written[1], to_markdown(experiment, results, settings).encode())
    if experiment.axis and any(result.measured is not None for result in results):
        from udq.experiments.paper import plot
        from udq.reports import curves

        written.append(stem.with_suffix(".png"))
        curves.save(plot.figure(experiment, results), written[-1])
    for result in results:
        if result.sheet is not None:
            written.append(settings.output / f"{experiment.name}-{result.cell.dataset}.jpg")
            shutil.copyfile(result.sheet, written[-1])
    return written


def to_json(experiment: Experiment, results: Sequence[Result], settings: Settings) -> dict[str, Any]:
    """Return the paper's and the measured values, with everything that they depend on."""
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "preset": settings.preset,
        "measured": sum(result.measured is not None for result in results),
        "cells": [_cell(result) for result in results],
        "provenance": provenance(seed=settings.of(experiment.measured[0]).sample.seed),
    }


def to_markdown(experiment: Experiment, results: Sequence[Result], settings: Settings) -> str:
    """Return the table as in the paper, with ``paper / measured`` in each cell, and notes on the values."""
    by_position = {(result.cell.row, result.cell.column): result for result in results}
    lines = [f"# {experiment.title}", "", "Each cell: the paper's value / measured here.", ""]
    lines.append(f"|  | {' | '.join(experiment.columns)} |")
    lines.append("| --- |" + " --- |" * len(experiment.columns))
    for row in experiment.rows:
        values = [written(by_position[row, column]) for column in experiment.columns]
        lines.append(f"| {row} | {' | '.join(values)} |")
    notes = [*_conditions(results, settings), *missing(results)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def side_by_side(experiment: Experiment, by_preset: Mapping[str, Sequence[Result]]) -> str:
    """Return the table as in the paper, with the paper's value and that of each preset in each cell.

    Args:
        experiment: the table or figure.
        by_preset: name of the preset -> results of its cells, in order.
    """
    presets = " / ".join(f"preset {name}" for name in by_preset)
    lines = [f"# {experiment.title}", "", f"Each cell: the paper's value / {presets}.", ""]
    lines += [f"|  | {' | '.join(experiment.columns)} |", "| --- |" + " --- |" * len(experiment.columns)]
    positions = [{(each.cell.row, each.cell.column): each for each in found} for found in by_preset.values()]
    for row in experiment.rows:
        values = []
        for column in experiment.columns:
            first, *others = (of_preset[row, column] for of_preset in positions)
            more = [] if first.cell.measure is None else map(figure, others)
            values.append(" / ".join([written(first), *more]))
        lines.append(f"| {row} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def written(result: Result) -> str:
    """Return ``paper / measured`` of a cell, with dashes for missing values; published values stay alone."""
    if result.cell.measure is None:
        return result.cell.paper
    return f"{result.cell.paper or '–'} / {figure(result)}"


def figure(result: Result) -> str:
    """Return a measured value as text: mAP with three decimals like the paper, seconds with three digits."""
    if result.measured is None:
        return "–"
    return f"{result.measured:.3g}" if result.cell.measure in TIMES else f"{result.measured:.3f}"


def missing(results: Sequence[Result]) -> list[str]:
    """Return why cells were not measured, one line per reason."""
    cells: dict[str, list[Cell]] = {}
    for result in results:
        if result.reason:
            cells.setdefault(result.reason, []).append(result.cell)
    return [
        f"not measured: {some[0].where}{f' and {len(some) - 1} more' if len(some) > 1 else ''}: {reason}"
        for reason, some in cells.items()
    ]


def _conditions(results: Sequence[Result], settings: Settings) -> list[str]:
    """Return data, network and machine of the values in lines, and how they differ from the paper's."""
    measured = [result for result in results if result.measured is not None]
    lines = []
    for dataset, photos, queries in dict.fromkeys(
        (each.facts["dataset"], each.facts["photos"], each.facts["queries"]) for each in measured
    ):
        own = {each.cell.dataset for each in measured if each.facts["dataset"] == dataset}
        stands = "" if _official(dataset) in own else f", which stands in for the paper's {', '.join(sorted(own))}"
        size = f"{counted(photos, 'photo')}, {counted(queries, 'query', 'queries')}"
        lines.append(f"measured on {dataset}: {size}{stands}")
    lines += dict.fromkeys(note for each in measured for note in each.facts["notes"])
    for backbone, *given in dict.fromkeys(
        (each.facts["backbone"], *(each.facts[file] and each.facts[file]["path"] for file in ("weights", "rpn")))
        for each in measured
    ):
        files = [settings.changes.name] if settings.changes else []
        files += [file for file in given if file]
        how = f"preset {settings.preset}" + (f" with {', '.join(files)}" if files else "")
        paper = {preset(name).features.backbone for name in NETWORKS.values()}
        stands = "" if settings.preset == PAPER and backbone in paper else ", not the paper's network"
        lines.append(f"network {backbone}, {how}{stands}")
    fewer = {each.facts["learned_on"].partition("; ")[2] for each in measured}
    lines += [f"codes are coarser than the paper's: {each}" for each in sorted(fewer) if each]
    # Cells of several runs may have been measured on different machines, versions and days.
    origins = [each.facts["provenance"] for each in measured]
    return lines + list(
        dict.fromkeys(
            f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores; "
            f"udq {origin['versions'].get('udq', 'of a checkout')}, commit {origin['commit']}; {origin['date'][:10]}"
            for origin in origins
        )
    )


def _official(dataset: str) -> str:
    """Return the paper's name of a data set, such as ``oxford105k`` for ``oxford5k with distractors``."""
    names = {"oxford5k with distractors": "oxford105k", "paris6k with distractors": "paris106k"}
    return names.get(dataset, dataset)


def _cell(result: Result) -> dict[str, Any]:
    cell = result.cell
    status = "published" if cell.measure is None else "measured" if result.measured is not None else "missing"
    facts: dict[str, Any] = {"row": cell.row, "column": cell.column, "paper": cell.paper, "status": status}
    if cell.measure is not None:
        facts |= {
            "measured": result.measured,
            "measure": cell.measure,
            "paper_dataset": cell.dataset,
            "paper_network": cell.network,
            "changes": cell.changes,
        }
    if result.reason:
        facts["reason"] = result.reason
    return facts | ({"on": dict(result.facts)} if result.facts else {})
