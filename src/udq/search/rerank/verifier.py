"""Spatial verification: whether a photo shows the object in the box of a query, by matches of local features.

The matches must agree with one homography. Local features come from the collection; photos of a collection that stores
none are decoded, and searched in and around the box by the index.

    verifier = Verifier(Path("query.jpg"), (120, 80, 340, 300))
    for verification in verifier.verify([Candidate(Path("one.jpg"), (10, 20, 200, 180)), Candidate(Path("two.jpg"))]):
        print(verification.inliers if verification else "not verified")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udq.common import threads as thread_limits
from udq.common.progress import tracked
from udq.errors import ImageError
from udq.keypoints import geometry, sift
from udq.keypoints.codebook import NONE, Codebook, joined
from udq.keypoints.matching import match, match_stored
from udq.keypoints.sift import LocalFeatures
from udq.photos import boxes, sandbox
from udq.photos.indexed import PhotoPath
from udq.photos.sandbox import Decoder
from udq.search.scan.kernels import in_threads
from udq.types import Box, Verification

# Number of inliers from which a photo counts as verified (benchmarks/decisions/verification.py).
LEAST = 6
# Longer side in pixels to which a view of a photo and of the query is scaled, and the largest enlargement of each. SIFT
# finds more features in a larger view, and takes longer.
_LONGER, _QUERY_LONGER, _ENLARGED, _QUERY_ENLARGED = 384, 448, 1.5, 2.0
# The strongest features of a view: bounds the time for a photo with very many, such as one of leaves.
_MOST_FEATURES = 400
# How far a view extends beyond the box by the index on each side, as a share of the longer side of the box: boxes are
# too small as often as too large.
MARGIN = 0.25
# Photos with a longer side of more pixels are decoded at a smaller scale, which is several times as fast for JPEG. An
# object that is too small at that scale is too small for the index as well.
_MOST = 1600
# Seconds that decoding one photo may take: only photos of tens of megapixels in a format without a smaller scale exceed
# it, and 50 of these would block a search for minutes.
_SECONDS = 10.0
# Cells of the query's box across and down, in which inliers are counted.
_GRID = 6


@dataclass(frozen=True)
class Candidate:
    """A photo to verify.

    Attributes:
        file: the photo.
        box: the object by the index, x1, y1, x2, y2 in pixels; the whole photo if None.
        width, height: of the photo in pixels; 0 if unknown.
        points: (P, 24) uint8, its stored local features.
        step: pixels of the photo per pixel of the view that these were extracted from; 0 if none are stored for any
            photo, and the photo is decoded instead.
    """

    file: PhotoPath
    box: Box | None = None
    width: int = 0
    height: int = 0
    points: NDArray[np.uint8] = field(default_factory=NONE.copy)
    step: float = 0.0


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
        mirrored: bool = False,
        decoder: Decoder | None = None,
    ) -> None:
        """Extract the local features of the query.

        Args:
            photo: the query photo.
            box: x1, y1, x2, y2 in its pixels; the whole photo if None.
            least: number of inliers from which a photo counts as verified, >= 3.
            mirrored: search for the mirror image of the object instead. Objects that are turned by any angle are found
                anyway.
            decoder: decodes the query and the photos to verify, each in a process with limits; that of this process
                if None.

        Raises:
            InputError: no such photo, or the box is outside it.
            ImageError: the photo cannot be decoded.
            DependencyError: OpenCV is not installed.
        """
        sift.require()
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
        pixels = np.ascontiguousarray(crop.pixels[:, ::-1]) if mirrored else crop.pixels
        self._mirror = _mirror(self.box) if mirrored else np.eye(3)
        window = left, top, left + crop.width, top + crop.height
        self.features = sift.extract(pixels, window, _MOST_FEATURES)
        self._rotated = Codebook.shipped().rotated(self.features)

    def verify(
        self,
        photos: Sequence[Candidate],
        *,
        threads: int | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> list[Verification | None]:
        """Verify photos in parallel; the results do not depend on the number of threads.

        Args:
            photos: to verify. If their local features are stored, the object is searched for everywhere; otherwise in
                the box by the index and a margin around it.
            threads: number of photos to process in parallel; as many as there are cores if None.
            step: called for each photo.

        Returns:
            The verification of each photo; None if it does not show the object, cannot be read any more, takes too
            long to decode, or has been replaced by a link that leads out of the folder of its collection.
        """
        if not photos:
            return []
        count = min(thread_limits.count(threads), len(photos))
        if all(photo.step for photo in photos):
            return list(tracked(self._verify_stored(photos, count), step))
        with thread_limits.pool(count) as workers:
            return list(tracked(workers.map(self._verify_decoded, photos), step))

    def _verify_stored(self, photos: Sequence[Candidate], threads: int) -> Iterator[Verification | None]:
        def matched(start: int, end: int) -> list[NDArray[np.int64]]:
            return match_stored(self._rotated, [photo.points for photo in photos[start:end]])

        # Matching is compiled. What is left holds the interpreter's lock: several threads would wait for each other.
        edges = np.linspace(0, len(photos), threads + 1).astype(int).tolist()
        with thread_limits.one_core_each():
            every = list(chain(*in_threads(matched, pairwise(edges))))
            # Only matched features are decoded, and their geometry is examined, of all photos at once.
            kept = [photo.points[pairs[:, 1]] for photo, pairs in zip(photos, every, strict=True)]
            decoded = Codebook.shipped().decode(joined(kept), 0.0)
            starts = np.cumsum([0, *map(len, kept)])
            for pairs, start in zip(every, starts, strict=False):
                pairs[:, 1] = np.arange(start, start + len(pairs))
            agreed = geometry.agreeing_each(self._rotated, decoded, every, self._diagonal, least=self._least)
            for photo, pairs in zip(photos, agreed, strict=True):
                yield self._verified(self._rotated, decoded, pairs, photo.width, photo.height, photo.step)

    def _verify_decoded(self, photo: Candidate) -> Verification | None:
        try:
            view = self._decoder.load_window(
                photo.file, photo.box, margin=MARGIN, longer=_LONGER, enlarged=_ENLARGED, most=_MOST, seconds=_SECONDS
            )
        except ImageError:
            return None
        found = sift.extract(view.pixels, view.window, _MOST_FEATURES)
        matched = match(self.features, found)
        pairs = geometry.agreeing(self.features, found, matched, self._diagonal, least=self._least)
        return self._verified(self.features, found, pairs, view.width, view.height, found.step)

    @property
    def _diagonal(self) -> float:
        x1, y1, x2, y2 = self.box
        return float(np.hypot(x2 - x1, y2 - y1))

    def _verified(
        self,
        query: LocalFeatures,
        photo: LocalFeatures,
        pairs: NDArray[np.int64],
        width: int,
        height: int,
        step: float,
    ) -> Verification | None:
        """Verify a photo of that size by the pairs (a, 2) of features that agree; ``step`` as in ``Candidate``."""
        if len(pairs) < self._least:
            return None
        start, end = query.points[pairs[:, 0]], photo.points[pairs[:, 1]]
        homography, near = geometry.fit(start, end, self.box, step)
        inliers = int(near.sum())
        # Matches of which less than half fit the homography agreed by chance.
        if inliers < max(self._least, len(pairs) / 2) or not geometry.possible(homography, self.box):
            return None
        polygon = geometry.projected(homography, geometry.corners(self.box))
        upright = geometry.upright(polygon, width, height)
        if upright is None:
            return None
        # Back from the mirror image of the query, if that is what was matched.
        start = np.asarray(geometry.projected(self._mirror, start[near]), np.float32)
        homography = homography @ self._mirror
        placed = np.asarray(geometry.projected(homography, geometry.corners(self.box)), np.float32)
        return Verification(inliers, homography, placed, upright, start, end[near], self._coverage(start))

    def _coverage(self, points: NDArray[np.float32]) -> float:
        """Return the share of the cells of the query's box that contain points (n, 2)."""
        x1, y1, x2, y2 = self.box
        cells = ((points - (x1, y1)) * _GRID / (x2 - x1, y2 - y1)).astype(np.int64).clip(0, _GRID - 1)
        return len(np.unique(cells @ (1, _GRID))) / _GRID**2


def _mirror(box: Box) -> NDArray[np.float64]:
    """Return the homography that exchanges left and right within a box."""
    return np.array([[-1.0, 0.0, box[0] + box[2]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
