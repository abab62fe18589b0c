"""Region proposers: where in a photo an object may be. One file a proposer, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udq.config import FeatureConfig
from udq.errors import InputError
from udq.features.proposals.base import Proposer
from udq.features.proposals.grid import grid
from udq.types import Regions

if TYPE_CHECKING:
    from udq.features.device import Engine
    from udq.features.trunk import Maps
    from udq.photos.decoding import Photo


def build(feature: FeatureConfig, *, rpn: Path | None, engine: Engine) -> Proposer:
    """Return the proposer that the settings name.

    Args:
        feature: its name, and the backbone whose maps it will see.
        rpn: a file that ``udq train-rpn`` wrote, instead of the network that is shipped for the backbone.
        engine: where the maps are, and how the proposer's own network is computed.

    Raises:
        InputError: an unknown name, or a region proposal network that there is no file of or that does not fit.
    """
    if feature.proposals not in REGISTRY:
        raise InputError(f"proposals '{feature.proposals}': expected one of {', '.join(REGISTRY)}")
    if rpn is not None and "rpn" not in feature.proposals:
        raise InputError(f"--rpn {rpn}: proposals '{feature.proposals}' use no network; add --proposals rpn")
    return REGISTRY[feature.proposals](feature, rpn, engine)


def _windows(photo: Photo, maps: Maps) -> Regions:
    """The grid depends on the photo's size alone."""
    del maps
    return grid(photo.width, photo.height)


def _grid(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    del feature, weights, engine
    return _windows


def _rpn(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    from udq.features.proposals import rpn

    return rpn.load(feature, weights, engine)


def _both(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    learned = _rpn(feature, weights, engine)

    def propose(photo: Photo, maps: Maps) -> Regions:
        # Both have the whole photo: the network last, the grid first.
        return Regions(np.concatenate([learned(photo, maps).boxes, _windows(photo, maps).boxes[1:]]))

    return propose


# name -> how to build it from the settings, a file of a region proposal network, and the engine.
REGISTRY: dict[str, Callable[[FeatureConfig, Path | None, Engine], Proposer]] = {
    "grid": _grid,
    "rpn": _rpn,
    "rpn+grid": _both,
}
RANKED = frozenset({"rpn", "rpn+grid"})
"""Proposers whose regions come best first: there a region's place says how likely it is a whole object."""
