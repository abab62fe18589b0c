"""What a user asked for: which data, and which settings a cell's own change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from udq import config
from udq.config import IndexConfig
from udq.experiments.paper.data import DataFolder
from udq.experiments.paper.tables import NETWORKS, Cell

PAPER = "paper"
"""The preset that stands for the paper's of each cell's network."""


@dataclass(frozen=True)
class Settings:
    """What a user asked for.

    Attributes:
        shelf: where data are.
        output: the folder for results.
        preset: settings that cells change; ``paper`` stands for the paper's preset of each cell's network.
        changes: a TOML file of further changes, which cells' own win over.
        weights, rpn: a file for each backbone, "" for any of them.
        limit: measure the first cells of each table alone.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    shelf: DataFolder
    output: Path
    preset: str = "default"
    changes: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    rpn: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    device: str = "auto"

    def of(self, cell: Cell) -> IndexConfig:
        """Return the settings of a cell."""
        base = config.preset(NETWORKS[cell.network] if self.preset == PAPER else self.preset)
        if self.changes is not None:
            base = IndexConfig.from_toml(self.changes, base)
        return base.replace(cell.changes)
