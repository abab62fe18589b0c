"""Region proposers: boxes in a photo that may hold an object. One file and one line in the registry per proposer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udq.config import FeatureConfig
from udq.errors import InputError
from udq.features.proposals.base import UNSCORED, Proposals, Proposer
from udq.features.proposals.grid import grid

if TYPE_CHECKING:
    from torch import Tensor

    from udq.features.device import Engine
    from udq.photos.pyramid import View


def build(feature: FeatureConfig, *, rpn: Path | None, engine: Engine) -> Proposer:
    """Return the proposer that the settings name.

    Args:
        feature: name of the proposer, and the backbone whose maps it receives.
        rpn: a file that ``udq train-rpn`` wrote, instead of the network shipped for the backbone.
        engine: computes the proposer's own network, on the device of the maps.

    Raises:
        InputError: an unknown name, or a region proposal network that is missing or does not fit the backbone.
    """
    if feature.proposals not in REGISTRY:
        raise InputError(f"proposals '{feature.proposals}': expected one of {', '.join(REGISTRY)}")
    if rpn is not None and "rpn" not in feature.proposals:
        raise InputError(f"--rpn {rpn}: proposals '{feature.proposals}' use no network; add --proposals rpn")
    return REGISTRY[feature.proposals](feature, rpn, engine)


def _windows(view: View, feature_map: Tensor, fine_map: Tensor) -> Proposals:
    """Propose the grid, which depends on nothing but the sizes of photo and view.

    The windows of a finer view are smaller than those of the coarse one: it is for smaller objects.
    """
    del feature_map, fine_map
    height, width = view.pixels.shape[:2]
    boxes = grid(width, height, shorter=min(view.photo) * width / view.width / view.factor)
    return Proposals(boxes, np.full(len(boxes), UNSCORED, np.float32))


def _grid(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    del feature, weights, engine
    return _windows


def _rpn(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    from udq.features.proposals import rpn

    return rpn.load(feature, weights, engine)


def _both(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    learned = _rpn(feature, weights, engine)

    def propose(view: View, feature_map: Tensor, fine_map: Tensor) -> Proposals:
        one, other = (each(view, feature_map, fine_map) for each in (learned, _windows))
        return Proposals(np.concatenate([one.boxes, other.boxes]), np.concatenate([one.scores, other.scores]))

    return propose


# name -> builder, which takes the settings, the file of a region proposal network (or None), and the engine.
REGISTRY: dict[str, Callable[[FeatureConfig, Path | None, Engine], Proposer]] = {
    "grid": _grid,
    "rpn": _rpn,
    "rpn+grid": _both,
}
RANKED = frozenset({"rpn", "rpn+grid"})
"""Proposers that return regions best first: a region's rank tells how likely it is a whole object."""
