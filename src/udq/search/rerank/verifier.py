"""Whether a photo shows the very object in a box: local features of both, and one movement that explains their matches.

verifier = Verifier(Path("query.jpg"), (120, 80, 340, 300))
for found in verifier.verify([(Path("one.jpg"), (10, 20, 200, 180)), (Path("other.jpg"), None)]):
    print(found.inliers if found else "not verified")
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from udq.common import threads as thread_limits
from udq.errors import ImageError
from udq.photos import boxes, decoding
from udq.search.rerank import geometry, local_features
from udq.types import Box, Verification

# Matches that agree, from which on a photo counts as verified: of wrong photos among the first 50, far fewer than one
# in a hundred have as many, while with 5 it is about one (benchmarks/decisions/verification.py).
LEAST = 6
# Pixels of the longer side of a view and of the query's; one that has fewer is enlarged up to so many times. SIFT finds
# the more the larger a view is, and takes the longer.
_LONGER, _QUERY_LONGER, _ENLARGED, _QUERY_ENLARGED = 384, 448, 1.5, 2.0
# How far a view reaches beyond the box of the index on each side, in parts of its longer side: boxes are too small as
# often as too large.
MARGIN = 0.25
# Pixels of a photo's longer side from which on it is decoded at a smaller scale, which for a JPEG is several times as
# fast. An object that is too small to be seen then is too small for the index as well.
_MOST = 1600


class Verifier:
    """Looks for the object of one query in photos; safe to share between threads.

    Attributes:
        box: the object in the query photo, x1, y1, x2, y2 in its pixels.
        features: local features of what is inside the box.
    """

    def __init__(
        self,
        photo: Path,
        box: Sequence[float] | None = None,
        *,
        least: int = LEAST,
        load_crop: decoding.LoadCrop = decoding.load_crop,
    ) -> None:
        """Look at the query.

        Args:
            photo: the query photo.
            box: x1, y1, x2, y2 in its pixels; the whole photo where None.
            least: inliers from which on a photo counts as verified, >= 3.
            load_crop: decodes the query; ``Decoder.load_crop`` where the photo may be a stranger's.

        Raises:
            InputError: no such photo, or a box outside it.
            ImageError: it cannot be decoded.
            DependencyError: OpenCV is not installed.
        """
        local_features.require()
        if least < 3:
            raise ValueError(f"least: expected 3 or more, as any two matches agree, found {least}")
        self._least = least
        side = _QUERY_LONGER
        if box is not None:
            x1, y1, x2, y2 = boxes.check_shape(box)
            side = max(16, min(_QUERY_LONGER, round(_QUERY_ENLARGED * max(x2 - x1, y2 - y1))))
        crop, self.box = load_crop(photo, box, shorter=side, longer=side, least=side)
        # What was cut out has whole pixels, the box perhaps not.
        left, top = round(self.box[0]), round(self.box[1])
        with thread_limits.one_core_each():
            self.features = local_features.extract(crop.pixels, (left, top, left + crop.width, top + crop.height))

    def verify(
        self, photos: Sequence[tuple[Path, Box | None]], *, threads: int | None = None
    ) -> list[Verification | None]:
        """Return how each of some photos shows the object, in their order; the same for any number of threads.

        Args:
            photos: where each is, and where the index says that the object is in it, x1, y1, x2, y2 in its pixels: it
                is looked for there and somewhat around. In the whole photo where None.
            threads: photos looked at at the same time; as many as torch computes with where None.

        Returns:
            None for a photo that does not show the object, or cannot be read now.
        """
        if not photos:
            return []
        if threads is None:
            threads = thread_limits.available()
        with (
            thread_limits.one_core_each(),
            ThreadPoolExecutor(max(1, min(threads, len(photos))), "verify") as pool,
        ):
            return list(pool.map(self._verify, *zip(*photos, strict=True)))

    def _verify(self, path: Path, box: Box | None) -> Verification | None:
        try:
            view = decoding.load_window(path, box, margin=MARGIN, longer=_LONGER, enlarged=_ENLARGED, most=_MOST)
        except ImageError:
            return None
        found = local_features.extract(view.pixels, view.window)
        x1, y1, x2, y2 = self.box
        pairs = local_features.match(self.features, found)
        pairs = geometry.agreeing(self.features, found, pairs, float(np.hypot(x2 - x1, y2 - y1)))
        if len(pairs) < self._least:
            return None
        start, end = self.features.points[pairs[:, 0]], found.points[pairs[:, 1]]
        homography, near = geometry.fit(start, end, self.box, found.step)
        inliers = int(near.sum())
        # Where a movement explains less than half of what agreed with it roughly, chance made it agree.
        if inliers < max(self._least, len(pairs) / 2) or not geometry.possible(homography, self.box):
            return None
        polygon = geometry.carried(homography, geometry.corners(self.box))
        upright = geometry.upright(polygon, view.width, view.height)
        if upright is None:
            return None
        return Verification(inliers, homography, polygon.astype(np.float32), upright, start[near], end[near])
