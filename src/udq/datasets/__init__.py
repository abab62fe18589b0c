"""Benchmarks: one file a layout of ground truth, one line a data set in the registry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from udq.datasets.boxes import load as _boxes
from udq.datasets.instre import load as _instre
from udq.datasets.oxford_paris import load_oxford5k, load_paris6k
from udq.datasets.revisited import load_roxford5k, load_rparis6k
from udq.datasets.truth import Answers, GroundTruth, Query
from udq.errors import InputError

__all__ = ["REGISTRY", "Answers", "GroundTruth", "Query", "load"]

# load(path of the ground truth) -> GroundTruth
REGISTRY: dict[str, Callable[[Path], GroundTruth]] = {
    "boxes": _boxes,
    "oxford5k": load_oxford5k,
    "paris6k": load_paris6k,
    "roxford5k": load_roxford5k,
    "rparis6k": load_rparis6k,
    "instre": _instre,
}


def load(dataset: str, path: str | os.PathLike[str]) -> GroundTruth:
    """Read a ground truth.

    Args:
        dataset: its layout, a name in the registry.
        path: a file or a folder, as the layout has it.

    Raises:
        InputError: no such data set, or a ground truth that is not one of its.
    """
    if dataset not in REGISTRY:
        raise InputError(f"dataset '{dataset}': expected one of {', '.join(REGISTRY)}")
    return REGISTRY[dataset](Path(path))
