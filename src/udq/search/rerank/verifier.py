"""Spatial verification: whether a photo shows the object in the box of a query, by matches of local features.

The matches must agree with one homography.

    verifier = Verifier(Path("query.jpg"), (120, 80, 340, 300))
    for verification in verifier.verify([(Path("one.jpg"), (10, 20, 200, 180)), (Path("other.jpg"), None)]):
        print(verification.inliers if verification else "not verified")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from udq.common import threads as thread_limits
from udq.common.progress import tracked
from udq.errors import ImageError
from udq.photos import boxes, sandbox
from udq.photos.indexed import PhotoPath
from udq.photos.sandbox import Decoder
from udq.search.rerank import geometry, local_features
from udq.types import Box, Verification

# Number of inliers from which a photo counts as verified. Far fewer than 1 % of the wrong photos among the first 50
# have 6; about 1 % have 5 (benchmarks/decisions/verification.py).
LEAST = 6
# Longer side in pixels to which a view of a photo and of the query is scaled, and the largest enlargement of each. SIFT
# finds more features in a larger view, and takes longer.
_LONGER, _QUERY_LONGER, _ENLARGED, _QUERY_ENLARGED = 384, 448, 1.5, 2.0
# How far a view extends beyond the box by the index on each side, as a share of the longer side of the box: boxes are
# too small as often as too large.
MARGIN = 0.25
# Photos with a longer side of more pixels are decoded at a smaller scale, which is several times as fast for JPEG. An
# object that is too small at that scale is too small for the index as well.
_MOST = 1600
# Seconds that decoding one photo may take: only photos of tens of megapixels in a format without a smaller scale exceed
# it, and 50 of these would block a search for minutes.
_SECONDS = 10.0


class Verifier:
    """Verifies whether photos show the object of one query; safe to share between threads.

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
        decoder: Decoder | None = None,
    ) -> None:
        """Extract the local features of the query.

        Args:
            photo: the query photo.
            box: x1, y1, x2, y2 in its pixels; the whole photo if None.
            least: number of inliers from which a photo counts as verified, >= 3.
            decoder: decodes the query and the photos to verify, each in a process with limits; that of this process
                if None.

        Raises:
            InputError: no such photo, or the box is outside it.
            ImageError: the photo cannot be decoded.
            DependencyError: OpenCV is not installed.
        """
        local_features.require()
        if least < 3:
            raise ValueError(f"least: expected 3 or more, because any two matches agree, found {least}")
        self._least = least
        side = _QUERY_LONGER
        if box is not None:
            x1, y1, x2, y2 = boxes.check_shape(box)
            side = max(16, min(_QUERY_LONGER, round(_QUERY_ENLARGED * max(x2 - x1, y2 - y1))))
        self._decoder = decoder or sandbox.shared()
        crop, self.box = self._decoder.load_crop(photo, box, shorter=side, longer=side, least=side)
        # The crop has whole pixels; the box may have fractions.
        left, top = round(self.box[0]), round(self.box[1])
        with thread_limits.one_core_each():
            self.features = local_features.extract(crop.pixels, (left, top, left + crop.width, top + crop.height))

    def verify(
        self,
        photos: Sequence[tuple[PhotoPath, Box | None]],
        *,
        threads: int | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> list[Verification | None]:
        """Verify photos in parallel; the results do not depend on the number of threads.

        Args:
            photos: the file of each photo and the box of the object by the index, x1, y1, x2, y2 in its pixels. The
                object is searched for in the box and a margin around it, or in the whole photo if the box is None.
            threads: number of photos to process in parallel; as many as there are cores if None.
            step: called for each photo.

        Returns:
            The verification of each photo; None if it does not show the object, cannot be read any more, takes too
            long to decode, or has been replaced by a link that leads out of the folder of its collection.
        """
        if not photos:
            return []
        with thread_limits.pool(min(thread_limits.count(threads), len(photos))) as workers:
            return list(tracked(workers.map(self._verify, *zip(*photos, strict=True)), step))

    def _verify(self, photo: PhotoPath, box: Box | None) -> Verification | None:
        try:
            view = self._decoder.load_window(
                photo, box, margin=MARGIN, longer=_LONGER, enlarged=_ENLARGED, most=_MOST, seconds=_SECONDS
            )
        except ImageError:
            return None
        features = local_features.extract(view.pixels, view.window)
        x1, y1, x2, y2 = self.box
        pairs = local_features.match(self.features, features)
        pairs = geometry.agreeing(self.features, features, pairs, float(np.hypot(x2 - x1, y2 - y1)))
        if len(pairs) < self._least:
            return None
        start, end = self.features.points[pairs[:, 0]], features.points[pairs[:, 1]]
        homography, near = geometry.fit(start, end, self.box, features.step)
        inliers = int(near.sum())
        # Matches of which less than half fit the homography agreed by chance.
        if inliers < max(self._least, len(pairs) / 2) or not geometry.possible(homography, self.box):
            return None
        polygon = geometry.projected(homography, geometry.corners(self.box))
        upright = geometry.upright(polygon, view.width, view.height)
        if upright is None:
            return None
        return Verification(inliers, homography, polygon.astype(np.float32), upright, start[near], end[near])
