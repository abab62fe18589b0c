"""The transformation of an object between two photos: from matches of local features to a plausible homography.

A single match of features with scale and angle determines a similarity: a shift, rotation and scaling (J. Philbin et
al.: Object retrieval with large vocabularies and fast spatial matching. CVPR 2007). Each match is a hypothesis, and the
one that most other matches agree with wins; unlike RANSAC, this needs no random sample of four correct matches. A
homography is then fitted to these matches by MAGSAC++ (D. Barath et al., CVPR 2020). The results are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.keypoints.sift import LocalFeatures, opencv
from udq.types import Box

# Tolerances for a match that agrees with a similarity: an error of a tenth of the diagonal of the box, as few objects
# are flat; a rotation of 30 degrees; and a scale factor of 2 (one octave).
_FAR, _TURN, _OCTAVES = 0.1, np.deg2rad(30), 1.0
# Number of hypotheses, from the clearest matches: bounds the time for a photo of the same scene.
_TRIED = 256
# Comparisons of hypotheses and matches at a time.
_AT_ONCE = 2**15
# Number of matches from which all eight parameters of a homography are fitted; fewer only determine a similarity.
_ENOUGH = 15
# Largest error of an inlier, in pixels of the view.
_NEAR = 10.0
# Bounds of a plausible homography: scaling by 10, an anisotropy of 4, and a change of the area by perspective of 3. At
# a more oblique angle, features no longer match.
_SCALE, _STRETCH, _PERSPECTIVE = 10.0, 4.0, 3.0

Matrix = NDArray[np.float64]


def agreeing(
    query: LocalFeatures, photo: LocalFeatures, pairs: NDArray[np.int64], diagonal: float, *, least: int = 1
) -> NDArray[np.int64]:
    """Return the pairs that agree with the similarity that most of them agree with.

    Args:
        query, photo: features of both.
        pairs: (m, 2), as ``matching.match`` returns them.
        diagonal: of the box of the query, in pixels.
        least: number of pairs that are of interest; fewer may be returned with several pairs for one point.

    Returns:
        (a, 2) int64, one pair per point: a corner with two directions is two features, but no more evidence than one.
    """
    return agreeing_each(query, photo, [pairs], diagonal, least=least)[0]


def agreeing_each(
    query: LocalFeatures, photos: LocalFeatures, every: Sequence[NDArray[np.int64]], diagonal: float, *, least: int = 1
) -> list[NDArray[np.int64]]:
    """Return what ``agreeing`` returns, for several photos at once.

    Args:
        query: its features.
        photos: features of all photos, in any order.
        every: the pairs (m, 2) of each photo: rows of ``query`` and of ``photos``.
        diagonal, least: as for ``agreeing``; a photo with fewer pairs than ``least`` is not examined.
    """
    found = list(every)
    counts = np.array([len(pairs) for pairs in every])
    examined = np.flatnonzero(counts >= max(1, least))
    if not len(examined):
        return found
    moves = _Moves.of(query, photos, np.concatenate([every[row] for row in examined.tolist()]))
    starts = np.cumsum([0, *counts[examined]])
    for block in _blocks(counts[examined]):
        agreed = _most_agreeing(moves, starts[block], counts[examined[block]], diagonal)
        for row, mask in zip(examined[block].tolist(), agreed, strict=True):
            pairs = every[row][mask[: counts[row]]]
            found[row] = _one_per_point(query, photos, pairs) if len(pairs) >= least else pairs
    return found


@dataclass(frozen=True)
class _Moves:
    """What each of n matches says about the object, with points as complex numbers.

    Attributes:
        start, end: (n,) complex, points in the query and in the photo.
        scale: (n,) sizes in the photo by those in the query.
        turn: (n,) complex, of length 1.
    """

    start: NDArray[np.complex128]
    end: NDArray[np.complex128]
    scale: NDArray[np.float32]
    turn: NDArray[np.complex128]

    @staticmethod
    def of(query: LocalFeatures, photos: LocalFeatures, pairs: NDArray[np.int64]) -> _Moves:
        """Return those of pairs (n, 2) of rows."""
        one, other = pairs.T
        return _Moves(
            query.points[one].astype(np.float64) @ (1, 1j),
            photos.points[other].astype(np.float64) @ (1, 1j),
            photos.sizes[other] / query.sizes[one],
            np.exp(1j * (photos.angles[other] - query.angles[one])),
        )

    def rows(self, rows: NDArray[np.int64]) -> _Moves:
        """Return those of some matches, in an array of any shape."""
        return _Moves(self.start[rows], self.end[rows], self.scale[rows], self.turn[rows])


def _blocks(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield photos with similar numbers of matches together, so that their comparisons are few enough for the cache."""
    order = np.argsort(counts, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * counts[order[end]] * min(counts[order[end]], _TRIED) > _AT_ONCE:
            yield order[start:end]
            start = end


def _most_agreeing(
    moves: _Moves, starts: NDArray[np.int64], counts: NDArray[np.int64], diagonal: float
) -> NDArray[np.bool_]:
    """Return the matches (P, largest count) that agree with the hypothesis that most agree with, for P photos."""
    column = np.arange(counts.max())
    real = column < counts[:, None]
    # Instead of missing matches, the first one is repeated: as a hypothesis, it comes after itself.
    each = moves.rows(starts[:, None] + np.where(real, column, 0))
    octave = np.log2(each.scale)
    # A product of complex numbers rotates and scales: rows are hypotheses, columns the matches that they are tested on.
    tried = slice(0, _TRIED)
    movement = (each.scale * each.turn)[:, tried, None]
    start, end = each.start[:, None], each.end[:, None]
    error = (end - movement * start) - (each.end[:, tried, None] - movement * each.start[:, tried, None])
    agree = error.real**2 + error.imag**2 < (_FAR * diagonal * each.scale[:, tried, None]) ** 2
    agree &= (each.turn[:, tried, None] * each.turn.conj()[:, None]).real > np.cos(_TURN)
    agree &= np.abs(octave[:, None] - octave[:, tried, None]) < _OCTAVES
    agree &= real[:, None]
    best: NDArray[np.bool_] = agree[np.arange(len(counts)), agree.sum(axis=2).argmax(axis=1)]
    return best


def _one_per_point(query: LocalFeatures, photos: LocalFeatures, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first pair (n, 2) of each point, of the query and of the photo."""
    for points, column in ((query.points, 0), (photos.points, 1)):
        rounded = np.ascontiguousarray(points[pairs[:, column]].round(1)) + np.float32(0)  # no -0
        _, first = np.unique(rounded.view(np.int64)[:, 0], return_index=True)
        pairs = pairs[np.sort(first)]
    return pairs


def fit(
    start: NDArray[np.float32], end: NDArray[np.float32], box: Box, near: float
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Fit a homography to matches that agree, and return it with its inliers.

    Args:
        start, end: (a, 2) float32, a >= 2, pixels of the query and of the photo.
        box: of the query; if the homography is no plausible view of it, a similarity is fitted instead.
        near: pixels of the photo per pixel of the view.

    Returns:
        (3, 3) float64 and (a,) bool.
    """
    homography = magsac(start, end, _NEAR * near) if len(start) >= _ENOUGH else None
    if homography is not None and possible(homography, box):
        return homography, _distances(homography, start, end) < _NEAR * near
    similarity = _similarity(start, end)
    # A similarity cannot model a change of viewpoint, so a larger error is allowed.
    return similarity, _distances(similarity, start, end) < 2 * _NEAR * near


def magsac(start: NDArray[np.float32], end: NDArray[np.float32], near: float) -> Matrix | None:
    """Return the homography that MAGSAC++ fits to matches, with a threshold of ``near`` pixels; None if it fails."""
    cv2 = opencv()
    try:
        homography, _ = cv2.findHomography(start, end, cv2.USAC_MAGSAC, near, maxIters=1000, confidence=0.999)
    except cv2.error:  # points on one line
        return None
    if homography is None or not np.isfinite(homography).all():
        return None
    return np.asarray(homography, np.float64)


def _similarity(start: NDArray[np.float32], end: NDArray[np.float32]) -> Matrix:
    """Return the similarity of least squares; with complex numbers, rotation and scale are one division."""
    one, other = start.astype(np.float64) @ (1, 1j), end.astype(np.float64) @ (1, 1j)
    centred, other_centred = one - one.mean(), other - other.mean()
    turn = (centred.conj() * other_centred).sum() / max(float((np.abs(centred) ** 2).sum()), 1e-9)
    shift = other.mean() - turn * one.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0.0, 0.0, 1.0]])


def _distances(homography: Matrix, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the error (n,) of each match in pixels of the photo."""
    error: NDArray[np.float64] = np.linalg.norm(projected(homography, start) - end, axis=1)
    return error


def projected(homography: Matrix, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the image of points (n, 2) under a homography."""
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mapped: NDArray[np.float64] = homogeneous[:, :2] / homogeneous[:, 2:]
    return mapped


def corners(box: Box) -> NDArray[np.float64]:
    """Return the corners (4, 2) of a box, clockwise on the screen from the upper left one."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def upright(polygon: NDArray[np.floating], width: int, height: int) -> Box | None:
    """Return the upright box of the object in a polygon (4, 2), cut to a photo of that size; None if it is outside.

    It is the bounding box of the ellipse that touches the four sides. Objects rarely fill the corners of a box, so the
    bounding box of a rotated polygon would be far too large (benchmarks/decisions/verification.py). For an upright
    polygon both are the same.
    """
    right = (polygon[1] + polygon[2] - polygon[0] - polygon[3]) / 4
    down = (polygon[2] + polygon[3] - polygon[0] - polygon[1]) / 4
    middle, reach = polygon.mean(axis=0), np.hypot(right, down)
    x1, y1 = np.maximum(middle - reach, 0.0).tolist()
    x2, y2 = np.minimum(middle + reach, (width, height)).tolist()
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def possible(homography: Matrix, box: Box) -> bool:
    """Return whether a homography is a plausible view of a box: not mirrored, not folded, not distorted too much."""
    depth = np.column_stack([corners(box), np.ones(4)]) @ homography[2]
    if not (np.isfinite(depth).all() and (depth * np.sign(depth[0]) > 1e-9).all()):
        return False  # the horizon is inside the box
    polygon = projected(homography, corners(box))
    sides = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    if not (turns > 0).all():  # not convex, or mirrored
        return False
    linear = _linear(homography, box)
    largest, least = np.linalg.svd(linear, compute_uv=False)
    if least < 1 / _SCALE or largest > _SCALE or largest > _STRETCH * least:
        return False
    x1, y1, x2, y2 = box
    flat = (x2 - x1) * (y2 - y1) * np.linalg.det(linear)
    x, y = polygon.T
    area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    return bool(flat / _PERSPECTIVE < area < flat * _PERSPECTIVE)


def _linear(homography: Matrix, box: Box) -> Matrix:
    """Return the derivative (2, 2) of a homography at the centre of a box."""
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1.0])
    depth = homography[2] @ centre
    mapped = homography[:2] @ centre / depth
    derivative: Matrix = (homography[:2, :2] - np.outer(mapped, homography[2, :2])) / depth
    return derivative
