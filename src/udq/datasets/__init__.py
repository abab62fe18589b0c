"""Ground truths of benchmarks: one module per file layout, one line per data set in the registry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from udq.datasets.boxes import load as load_boxes
from udq.datasets.instre import load as load_instre
from udq.datasets.oxford_paris import load_oxford5k, load_paris6k
from udq.datasets.revisited import load_roxford5k, load_rparis6k
from udq.datasets.truth import Answers, GroundTruth, Query
from udq.errors import InputError

__all__ = ["REGISTRY", "Answers", "GroundTruth", "Query", "load"]

# load(path of the ground truth) -> GroundTruth
REGISTRY: dict[str, Callable[[Path], GroundTruth]] = {
    "boxes": load_boxes,
    "oxford5k": load_oxford5k,
    "paris6k": load_paris6k,
    "roxford5k": load_roxford5k,
    "rparis6k": load_rparis6k,
    "instre": load_instre,
}


def load(dataset: str, path: str | os.PathLike[str]) -> GroundTruth:
    """Read a ground truth.

    Args:
        dataset: a name in the registry, which decides the layout.
        path: a file or a folder, depending on the layout.

    Raises:
        InputError: unknown data set, or not a ground truth of this data set.
    """
    if dataset not in REGISTRY:
        raise InputError(f"dataset '{dataset}': expected one of {', '.join(REGISTRY)}")
    return REGISTRY[dataset](Path(path))
