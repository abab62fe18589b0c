"""Region proposers: where in a photo an object may be. One file a proposer, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.config import FeatureConfig
from udq.errors import InputError
from udq.proposals.grid import grid
from udq.types import Regions

if TYPE_CHECKING:
    from udq.engine import Engine
    from udq.photos.decoding import Photo
    from udq.trunk import Maps

# propose(photo, maps) -> Regions in pixels of the photo before scaling.
Proposer = Callable[["Photo", "Maps"], Regions]


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


def in_photo(boxes: NDArray[np.float32], photo: Photo) -> Regions:
    """Return boxes (R, 4) found in a photo as the network sees it as regions of the photo, and last all of it.

    Less than a pixel, to which a photo's border can cut a box, is left out. All of the photo is what a query without a
    box asks for.
    """
    height, width = photo.pixels.shape[:2]
    extent = np.array([photo.width, photo.height] * 2, np.float32)
    inside = np.clip(boxes * np.array([photo.width / width, photo.height / height] * 2, np.float32), 0, extent)
    whole = np.array([[0, 0, photo.width, photo.height]], np.float32)
    return Regions(np.concatenate([inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)], whole]))


def _windows(photo: Photo, maps: Maps) -> Regions:
    """The grid depends on the photo's size alone."""
    del maps
    return grid(photo.width, photo.height)


def _grid(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    del feature, weights, engine
    return _windows


def _rpn(feature: FeatureConfig, weights: Path | None, engine: Engine) -> Proposer:
    from udq.proposals import rpn

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
