"""Region proposers: where in a photo an object may be. One file a proposer, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from udq.proposals.grid import grid
from udq.types import Regions

if TYPE_CHECKING:
    from torch import Tensor

# propose(feature_map (C, h, w) float32, width, height) -> Regions of a photo of that many pixels.
Proposer = Callable[["Tensor", int, int], Regions]

REGISTRY: dict[str, Proposer] = {
    "grid": grid,
}

RANKED = frozenset({"rpn"})
"""Names of proposers whose regions come best first: there a region's place says how likely it is a whole object."""
