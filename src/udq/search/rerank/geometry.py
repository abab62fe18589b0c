"""How an object was moved from one photo to another: from matches that agree, to a homography that can be true.

Each match of features that have a scale and a direction says by itself how the object was moved, turned and scaled
(J. Philbin et al.: Object retrieval with large vocabularies and fast spatial matching. CVPR 2007). That movement is
tried for each of the matches, and the one that most others agree with wins: no draw of four is needed that may never
come. What agrees is then fitted by MAGSAC++ (D. Barath et al., CVPR 2020). All of it is the same each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udq.search.rerank.local_features import LocalFeatures, opencv
from udq.types import Box

# What agrees with a movement: as far off as a tenth of the box's diagonal, since few objects are flat; turned by less
# than 30 degrees and scaled by less than 2 beside it.
_FAR, _TURN, _OCTAVES = 0.1, np.deg2rad(30), 1.0
# Movements that are tried, those of the clearest matches: what time a photo of the very same scene takes is bounded.
_TRIED = 256
# Matches from which on all eight numbers of a homography are fitted; fewer say a similarity and no more.
_ENOUGH = 15
# How far off a match may be of what was fitted, in pixels that were looked at.
_NEAR = 10.0
# What a homography may do: scale by 10, stretch one way 4 times as much as the other, and change an area by perspective
# 3 times. What is seen more aslant than that has no features left that match.
_SCALE, _STRETCH, _PERSPECTIVE = 10.0, 4.0, 3.0

Matrix = NDArray[np.float64]


def agreeing(
    query: LocalFeatures, photo: LocalFeatures, pairs: NDArray[np.int64], diagonal: float
) -> NDArray[np.int64]:
    """Return the pairs that agree with the movement that most of them agree with.

    Args:
        query, photo: features of both.
        pairs: (m, 2), as ``local_features.match`` gives them.
        diagonal: of the query's box, in pixels.

    Returns:
        (a, 2) int64, one pair a place: a corner of two directions is two features, and no more evidence than one.
    """
    if not len(pairs):
        return pairs
    one, other = query.points[pairs[:, 0]].astype(np.float64), photo.points[pairs[:, 1]].astype(np.float64)
    scale = photo.sizes[pairs[:, 1]] / query.sizes[pairs[:, 0]]
    angle = photo.angles[pairs[:, 1]] - query.angles[pairs[:, 0]]
    tried = slice(0, _TRIED)
    # Complex numbers turn and scale by a product: rows are movements, columns the matches that they are tried on.
    start, end = one @ (1, 1j), other @ (1, 1j)
    moved = (scale * np.exp(1j * angle))[tried, None] * (start[None] - start[tried, None])
    off = np.abs(end[None] - end[tried, None] - moved) / scale[tried, None]
    turned = np.abs(np.angle(np.exp(1j * (angle[None] - angle[tried, None]))))
    scaled = np.abs(np.log2(scale[None] / scale[tried, None]))
    agree = (off < _FAR * diagonal) & (turned < _TURN) & (scaled < _OCTAVES)
    found: NDArray[np.int64] = pairs[agree[agree.sum(axis=1).argmax()]]
    for points, column in ((query.points, 0), (photo.points, 1)):
        _, first = np.unique(points[found[:, column]].round(1), axis=0, return_index=True)
        found = found[np.sort(first)]
    return found


def fit(
    start: NDArray[np.float32], end: NDArray[np.float32], box: Box, near: float
) -> tuple[Matrix, NDArray[np.bool_]]:
    """Return the homography of matches that agree, and which of them it takes to their place.

    Args:
        start, end: (a, 2) float32, a >= 2, pixels of the query and of the photo.
        box: the query's; what takes it to something impossible gives way to a similarity.
        near: how many pixels of the photo are one that was looked at.

    Returns:
        (3, 3) float64 and (a,) bool.
    """
    homography = magsac(start, end, _NEAR * near) if len(start) >= _ENOUGH else None
    if homography is not None and possible(homography, box):
        return homography, _distances(homography, start, end) < _NEAR * near
    similarity = _similarity(start, end)
    # It cannot follow an object that is seen from another side, so more is let pass.
    return similarity, _distances(similarity, start, end) < 2 * _NEAR * near


def magsac(start: NDArray[np.float32], end: NDArray[np.float32], near: float) -> Matrix | None:
    """Return the homography that MAGSAC++ fits to matches, those within ``near`` pixels; None where there is none."""
    cv2 = opencv()
    try:
        found, _ = cv2.findHomography(start, end, cv2.USAC_MAGSAC, near, maxIters=1000, confidence=0.999)
    except cv2.error:  # points on one line
        return None
    return None if found is None or not np.isfinite(found).all() else np.asarray(found, np.float64)


def _similarity(start: NDArray[np.float32], end: NDArray[np.float32]) -> Matrix:
    """Return the turn, scale and shift of least squares: all of it is one division of complex numbers."""
    one, other = start.astype(np.float64) @ (1, 1j), end.astype(np.float64) @ (1, 1j)
    here, there = one - one.mean(), other - other.mean()
    turn = (here.conj() * there).sum() / max(float((np.abs(here) ** 2).sum()), 1e-9)
    shift = other.mean() - turn * one.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0.0, 0.0, 1.0]])


def _distances(homography: Matrix, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.norm(carried(homography, start) - end, axis=1)
    return found


def carried(homography: Matrix, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return where a homography takes points (n, 2)."""
    there = np.column_stack([points, np.ones(len(points))]) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = there[:, :2] / there[:, 2:]
    return found


def corners(box: Box) -> NDArray[np.float64]:
    """Return the corners (4, 2) of a box, clockwise as it is seen, from the upper left one."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def upright(polygon: NDArray[np.floating], width: int, height: int) -> Box | None:
    """Return the upright box of what a polygon (4, 2) holds, inside a photo of that size; None where it is not in it.

    It is the box round the ellipse that touches the four sides. Objects seldom fill the corners of a box, so one round
    the corners of a turned box would be far too large (benchmarks/decisions/verification.py); of an upright
    one both are the same.
    """
    right = (polygon[1] + polygon[2] - polygon[0] - polygon[3]) / 4
    down = (polygon[2] + polygon[3] - polygon[0] - polygon[1]) / 4
    middle, reach = polygon.mean(axis=0), np.hypot(right, down)
    x1, y1 = np.maximum(middle - reach, 0.0).tolist()
    x2, y2 = np.minimum(middle + reach, (width, height)).tolist()
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def possible(homography: Matrix, box: Box) -> bool:
    """Whether a homography may be a view of what is in a box: not mirrored, folded, or stretched out of all bounds."""
    depth = np.column_stack([corners(box), np.ones(4)]) @ homography[2]
    if not (np.isfinite(depth).all() and (depth * np.sign(depth[0]) > 1e-9).all()):
        return False  # the horizon is inside the box
    polygon = carried(homography, corners(box))
    sides = np.roll(polygon, -1, axis=0) - polygon
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    if not (turns > 0).all():  # not convex, or the other way round
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
    """Return the derivative (2, 2) of a homography in the middle of a box."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1.0])
    depth = homography[2] @ middle
    there = homography[:2] @ middle / depth
    found: Matrix = (homography[:2, :2] - np.outer(there, homography[2, :2])) / depth
    return found
