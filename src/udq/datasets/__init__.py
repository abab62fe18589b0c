"""Benchmarks: one file a layout of ground truth, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from udq.datasets.boxes import load as _boxes
from udq.datasets.truth import GroundTruth, Query

__all__ = ["REGISTRY", "GroundTruth", "Query"]

# load(path of the ground truth) -> GroundTruth
REGISTRY: dict[str, Callable[[Path], GroundTruth]] = {
    "boxes": _boxes,
}
