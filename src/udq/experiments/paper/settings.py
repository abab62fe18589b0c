"""The settings of a run: the data, the output folder, and the configuration that cells change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from udq import config
from udq.config import IndexConfig
from udq.experiments.paper.data import DataFolder
from udq.experiments.paper.tables import NETWORKS, Cell

PAPER = "paper"
"""The preset that stands for the paper's preset of each cell's network."""
QUERY_STEPS = 5000
"""Steps of fine-tuning on the queries with that preset, as in Salvador et al. (sec. 4.2)."""


@dataclass(frozen=True)
class Settings:
    """The options of ``udq reproduce``.

    Attributes:
        data: the folder of data sets.
        output: the folder of results.
        preset: the configuration that cells change; ``paper`` is the paper's preset of each cell's network.
        changes: a TOML file of further changes, which those of a cell override.
        weights, rpn: backbone -> file of weights; the key "" is for all others.
        limit: measure only the first cells of each table.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads; as many as there are cores if None.
    """

    data: DataFolder
    output: Path
    preset: str = "default"
    changes: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    rpn: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    device: str = "auto"
    threads: int | None = None

    def of(self, cell: Cell) -> IndexConfig:
        """Return the configuration of a cell."""
        base = config.preset(NETWORKS[cell.network] if self.preset == PAPER else self.preset)
        if self.preset == PAPER:
            base = base.replace({"training": {"query_steps": QUERY_STEPS}})
        if self.changes is not None:
            base = IndexConfig.from_toml(self.changes, base)
        return base.replace(cell.changes)
