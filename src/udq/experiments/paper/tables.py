"""The tables and figures of the paper as data: each cell with its data set, settings and printed value.

A file of ``data/`` reads like the printed table: columns, and rows whose ``paper`` lists the values from left to right.
``changes`` are those of ``IndexConfig.replace``; a column's override the table's, and a row's override both.
``measure`` names the quantity of a cell:

    codes, real_valued                                        mAP of codes, or of unquantized features
    codes_diffusion                                           mAP of codes, with diffusion as post-processing
    seconds_codes, seconds_hashing, seconds_real_valued       search time of a query, by kind of scan
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
# The paper's data sets: a benchmark, and whether the 100,000 distractors are added to it.
DATASETS = {
    "oxford5k": ("oxford5k", False),
    "oxford105k": ("oxford5k", True),
    "paris6k": ("paris6k", False),
    "paris106k": ("paris6k", True),
}
# The paper's networks -> the preset that follows section 4.2.
NETWORKS = {"vgg16": "paper", "resnet101": "paper-resnet101"}

Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A value of a table or figure.

    Attributes:
        row, column: its position in the table.
        paper: the value as printed; "N/A" if the paper prints that, empty if it prints nothing.
        measure: the measured quantity; None for published values of other methods, which are not measured.
        dataset: the paper's data set, a key of ``DATASETS``; empty if nothing is measured.
        network: the paper's backbone, a key of ``NETWORKS``; empty if nothing is measured.
        changes: settings that differ from the preset.
        x: its value on the axis of a figure, or None.
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
        """Row and column, for display."""
        return f"{self.row}, {self.column}"


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        name: a name of ``NAMES``.
        title: a title for display.
        cells: row by row.
        axis: label of a figure's x axis; empty for a table.
        logarithmic: whether the axis is logarithmic.
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
        """The cells to measure: all but published values of other methods."""
        return [cell for cell in self.cells if cell.measure is not None]


def load(name: str) -> Experiment:
    """Read a table or figure; raises InputError that lists the known names."""
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
    """Return the cell of a column and a row, with the settings of both and of the table."""
    parts = (table, column, row)
    changes: Changes = {}
    for part in parts:
        for stage, values in part.get("changes", {}).items():
            changes[stage] = changes.get(stage, {}) | values
    merged = {
        key: next((part[key] for part in reversed(parts) if key in part), "")
        for key in ("dataset", "network", "measure")
    }
    is_measured = not row.get("published", False)
    if is_measured:
        IndexConfig().replace(changes)  # reports a misspelt setting now, not after hours
    return Cell(
        row["name"],
        column["name"],
        printed,
        merged["measure"] if is_measured else None,
        merged["dataset"] if is_measured else "",
        merged["network"] if is_measured else "",
        changes if is_measured else {},
        row.get("x"),
    )
