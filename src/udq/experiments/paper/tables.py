"""A table or figure of the paper as data: its cells, each with data set, settings and the value as printed.

A file of ``data/`` reads like the printed table: columns, and rows whose ``paper`` are the values from left to right.
Settings are changes as ``IndexConfig.replace`` takes them; those of the table come first, then the column's, then the
row's. ``measure`` says what of a cell is measured:

    codes, real_valued                                        mAP, of codes or of features that nothing has quantized
    codes_diffusion                                           mAP of codes, with diffusion as post-processing
    seconds_codes, seconds_hashing, seconds_real_valued       a query's search time by each kind of scan
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from udq.config import IndexConfig
from udq.errors import InputError

NAMES = ("table2", "table3", "table4", "table5", "table6", "table7", "fig3", "fig4", "fig5")
ACCURACIES = ("codes", "codes_diffusion", "real_valued")
TIMES = ("seconds_codes", "seconds_hashing", "seconds_real_valued")
# What the paper's data sets are made of: a benchmark, and whether the 100,000 distractors are added to it.
DATASETS = {
    "oxford5k": ("oxford5k", False),
    "oxford105k": ("oxford5k", True),
    "paris6k": ("paris6k", False),
    "paris106k": ("paris6k", True),
}
# The preset that follows section 4.2 for each of the paper's networks.
NETWORKS = {"vgg16": "paper", "resnet101": "paper-resnet101"}

Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One figure of the paper.

    Attributes:
        row, column: its place in the table.
        paper: the value as printed; "N/A" where the paper says so, empty where it prints none.
        measure: what is measured, or None for a value of other people's, which stays as published.
        dataset: the paper's data set, of ``DATASETS``; empty where nothing is measured.
        network: the paper's backbone, of ``NETWORKS``; empty where nothing is measured.
        changes: settings that differ from the preset's.
        x: its place on the axis of a figure, or None.
    """

    row: str
    column: str
    paper: str
    measure: str | None
    dataset: str
    network: str
    changes: Changes
    x: float | None

    @property
    def where(self) -> str:
        """The cell's place, for people."""
        return f"{self.row}, {self.column}"


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        name: of ``NAMES``.
        title: for people.
        cells: row by row.
        axis: what a figure's cells are drawn over, or empty.
        logarithmic: whether that axis is.
        pictures: whether it shows photos.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    axis: str = ""
    logarithmic: bool = False
    pictures: bool = False

    @property
    def rows(self) -> list[str]:
        """Names of the rows, from top to bottom."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, from left to right."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def measured(self) -> list[Cell]:
        """The cells that are ours to measure."""
        return [cell for cell in self.cells if cell.measure is not None]


def load(name: str) -> Experiment:
    """Read a table or figure; raises InputError with the names there are."""
    if name not in NAMES:
        raise InputError(f"experiment '{name}': expected one of {', '.join(NAMES)} or all")
    table = tomllib.loads(resources.files("udq.experiments.paper").joinpath("data", f"{name}.toml").read_text("utf-8"))
    cells = [
        _cell(table, column, row, printed)
        for row in table["rows"]
        for column, printed in zip(table["columns"], row["paper"], strict=True)
    ]
    return Experiment(
        name,
        table["title"],
        tuple(cells),
        table.get("axis", ""),
        table.get("logarithmic", False),
        table.get("pictures", False),
    )


def _cell(table: Mapping[str, Any], column: Mapping[str, Any], row: Mapping[str, Any], printed: str) -> Cell:
    parts = (table, column, row)
    changes: Changes = {}
    for part in parts:
        for stage, values in part.get("changes", {}).items():
            changes[stage] = changes.get(stage, {}) | values
    settled = {
        key: next((part[key] for part in reversed(parts) if key in part), "")
        for key in ("dataset", "network", "measure")
    }
    ours = not row.get("published", False)
    if ours:
        IndexConfig().replace(changes)  # a misspelt setting is an error now, not after hours
    return Cell(
        row["name"],
        column["name"],
        printed,
        settled["measure"] if ours else None,
        settled["dataset"] if ours else "",
        settled["network"] if ours else "",
        changes if ours else {},
        row.get("x"),
    )
