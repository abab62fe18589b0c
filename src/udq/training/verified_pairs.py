"""Geometry as a teacher: pairs of regions of different photos that show the same object, found without labels.

The collection holds evidence that is stronger than its own codes: if one movement of an object explains many matches of
local features of two photos, both photos show that object, and what the movement maps on each other are two views of
the same part of it.

    1  Candidates for each photo are those with most of the nearest neighbours of its regions.
    2  Their local features are matched, and the matches must agree with a homography (``udq.keypoints.geometry``).
    3  A region with enough inliers is mapped into the other photo. The region there that overlaps it most is its pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.common.threads import pool
from udq.keypoints import extraction, geometry
from udq.keypoints.codebook import Codebook
from udq.keypoints.matching import match
from udq.keypoints.sift import LocalFeatures
from udq.training import refinement
from udq.training.sampling import Sample
from udq.types import Box, Features

# Neighbours of each region that vote for candidates, and candidates of each photo.
_NEIGHBOURS, _CANDIDATES = 8, 15
# Inliers of two photos that show the same object, and of a region that shows a part of it.
_INLIERS, _INSIDE = 10, 4
# How far matches may be from a common similarity, as a share of the diagonal of the photo: half of what a search
# allows, as an object rarely fills it.
_FAR = 0.5
# Least IoU of a mapped region and its pair.
_OVERLAP = 0.5
# Pairs that judge features, and random regions that they are compared with.
_JUDGED, _OTHERS = 1000, 5000
# Regions that are searched for to estimate the precision of features, one of each photo.
_QUERIES = 500


@dataclass(frozen=True)
class VerifiedPairs:
    """Pairs of regions that show the same part of an object.

    Attributes:
        rows: (n, 2) int64, rows of the sample.
        photos: number of pairs of photos that they come from.
    """

    rows: NDArray[np.int64]
    photos: int

    def halves(self, images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows (n, 2) in two parts, which share no photo if there are several objects.

        Args:
            images: (G,) the photo of each region of the sample.
        """
        photos = images[self.rows]
        group = _connected(photos, int(images.max(initial=-1)) + 1)[photos[:, 0]]
        if len(np.unique(group)) == 1:
            group = photos[:, 0]
        order = np.unique(group, return_inverse=True)[1]
        return self.rows[order % 2 == 0], self.rows[order % 2 == 1]


def gain(
    before: Features, after: Features, pairs: NDArray[np.int64], images: NDArray[np.int64], *, seed: int = 0
) -> float:
    """Return how much more often features rank a region before a random one of another photo, -1..1.

    Args:
        before, after: (G, d) features of the same regions, of unit length.
        pairs: (n, 2) rows; the second is what the first should find.
        images: (G,) the photo of each region.
        seed: of the random regions.
    """
    rng = np.random.default_rng(seed)
    chosen = pairs[rng.permutation(len(pairs))[:_JUDGED]]
    others = rng.permutation(len(images))[:_OTHERS]
    apart = (images[others] != images[chosen[:, :1]]) & (images[others] != images[chosen[:, 1:]])
    shares = []
    for features in (before.vectors, after.vectors):
        own = (features[chosen[:, 0]] * features[chosen[:, 1]]).sum(axis=1, keepdims=True)
        nearer = (features[chosen[:, 0]] @ features[others].T >= own) & apart
        shares.append(float(nearer.sum() / max(apart.sum(), 1)))
    return shares[0] - shares[1]


@dataclass(frozen=True)
class Estimate:
    """How well regions are found before and after training, by verified pairs instead of labels.

    Attributes:
        before, after: mean average precision, 0..1: how far in front of all photos those are that a pair ties to the
            region that is searched for. No forecast of mAP on other objects (docs/training.md): the projection that
            training starts from is fitted to these pairs.
        error: standard error of the difference.
        queries: number of regions that were searched for, one of each photo in pairs, at most 500.
    """

    before: float
    after: float
    error: float
    queries: int


def estimate(
    before: Features, after: Features, pairs: NDArray[np.int64], images: NDArray[np.int64], *, seed: int = 0
) -> Estimate | None:
    """Return the precision of features before and after training; None if there are fewer than two queries.

    Args:
        before, after: (G, d) features of the same regions, of unit length.
        pairs: (n, 2) rows that show the same part of an object.
        images: (G,) the photo of each region, ascending.
        seed: of the choice of queries.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    order = np.random.default_rng(seed).permutation(len(both))
    asked = both[order[np.unique(images[both[order, 0]], return_index=True)[1]], 0]
    asked = asked[np.random.default_rng(seed).permutation(len(asked))[:_QUERIES]]
    if len(asked) < 2:
        return None
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    photos = images[starts]
    found = np.empty((2, len(asked)))
    products = [features.vectors @ features.vectors[asked].T for features in (before, after)]
    for place, row in enumerate(asked.tolist()):
        positive = np.isin(photos, images[both[both[:, 0] == row, 1]])
        # Photos that other regions of this photo are tied to may show the object of this one, or another.
        unclear = np.isin(photos, images[both[images[both[:, 0]] == images[row], 1]]) & ~positive
        ranked = ~unclear & (photos != images[row])
        for result, alike in zip(found, products, strict=True):
            best = np.maximum.reduceat(alike[:, place], starts)[ranked]
            result[place] = _average_precision(best, positive[ranked])
    gains = found[1] - found[0]
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return Estimate(float(found[0].mean()), float(found[1].mean()), error, len(gains))


def _average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Return the mean precision at the ranks of the positives, of which there is one at least."""
    right = positive[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())


def _connected(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return a number (count,) for each photo, equal for photos that pairs (n, 2) connect."""
    number = np.arange(count)
    while True:
        least = np.minimum(number[pairs[:, 0]], number[pairs[:, 1]])
        reached = number.copy()
        np.minimum.at(reached, pairs[:, 0], least)
        np.minimum.at(reached, pairs[:, 1], least)
        if np.array_equal(reached, number):
            return number
        number = reached


def find(
    sample: Sample, features: Features, *, threads: int | None = None, step: Callable[[], None] = lambda: None
) -> VerifiedPairs:
    """Return the pairs of a sample; the number of threads does not change them.

    Args:
        sample: regions and local features of photos.
        features: (G, d) features of the regions, of unit length, by which candidates are chosen.
        threads: number of threads; as many as there are cores if None.
        step: called for each photo.
    """
    photos = _Photos(sample)
    candidates = _candidates(features, sample.images, len(sample.photos), threads)
    found, tied = [np.empty((0, 2), np.int64)], 0
    with pool(threads) as workers:
        for pairs in workers.map(photos.pairs, range(len(candidates)), candidates):
            found += pairs
            tied += len(pairs)
            step()
    return VerifiedPairs(np.concatenate(found), tied)


def _candidates(
    features: Features, images: NDArray[np.int64], photos: int, threads: int | None
) -> list[NDArray[np.int64]]:
    """Return the candidates of each photo, those after it in the sample alone: of two photos, one has the other."""
    if not len(features) or photos < 2:
        return [np.empty(0, np.int64)] * photos
    near = refinement.neighbours(features, images, count=_NEIGHBOURS, elsewhere=True, threads=threads)
    votes: dict[tuple[int, int], float] = {}
    for rank, column in enumerate(near.T):
        known = column >= 0
        for one, other in zip(images[known].tolist(), images[column[known]].tolist(), strict=True):
            for pair in ((one, other), (other, one)):
                votes[pair] = votes.get(pair, 0.0) + 1 / (1 + rank)
    of_photo: list[list[tuple[float, int]]] = [[] for _ in range(photos)]
    for (one, other), weight in votes.items():
        of_photo[one].append((-weight, other))
    chosen = {
        (min(one, other), max(one, other))
        for one, others in enumerate(of_photo)
        for _, other in sorted(others)[:_CANDIDATES]
    }
    later: list[list[int]] = [[] for _ in range(photos)]
    for one, other in sorted(chosen):
        later[one].append(other)
    return [np.array(others, np.int64) for others in later]


class _Photos:
    """The photos of a sample, with the rows of their regions."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._starts = np.searchsorted(sample.images, np.arange(len(sample.photos) + 1))
        self._boxes = sample.regions.boxes.astype(np.float64)

    def pairs(self, one: int, others: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the pairs (n, 2) of rows of a photo and each of the others that shows an object of it."""
        features = self._features(one)
        found = []
        for other in others.tolist():
            pairs = self._pairs(one, features, other)
            if pairs is not None:
                found.append(pairs)
        return found

    def _pairs(self, one: int, features: LocalFeatures, other: int) -> NDArray[np.int64] | None:
        there = self._features(other)
        if min(len(features), len(there)) < _INLIERS:
            return None
        photo, size = self._sample.photos[one], self._sample.photos[other]
        whole: Box = 0.0, 0.0, float(photo.width), float(photo.height)
        agreed = geometry.agreeing(features, there, match(features, there), _FAR * float(np.hypot(*whole[2:])))
        if len(agreed) < _INLIERS:
            return None
        start, end = features.points[agreed[:, 0]], there.points[agreed[:, 1]]
        homography, near = geometry.fit(start, end, whole, there.step)
        if near.sum() < max(_INLIERS, len(agreed) / 2):
            return None
        own, rows = self._with_points(one, start[near]), np.arange(self._starts[other], self._starts[other + 1])
        found = []
        for row in own.tolist() if len(rows) else ():
            polygon = geometry.projected(homography, geometry.corners(tuple(self._boxes[row])))
            box = geometry.upright(polygon, size.width, size.height) if np.isfinite(polygon).all() else None
            if box is None:
                continue
            overlap = _overlap(np.array(box), self._boxes[rows])
            if overlap.max() >= _OVERLAP:
                found.append((row, int(rows[overlap.argmax()])))
        return np.array(found, np.int64).reshape(-1, 2)

    def _with_points(self, photo: int, points: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the rows of the regions of a photo that contain enough points (n, 2)."""
        rows = np.arange(self._starts[photo], self._starts[photo + 1])
        boxes = self._boxes[rows, None]
        inside = ((points >= boxes[..., :2]) & (points <= boxes[..., 2:])).all(axis=2).sum(axis=1)
        kept: NDArray[np.int64] = rows[inside >= _INSIDE]
        return kept

    def _features(self, number: int) -> LocalFeatures:
        photo = self._sample.photos[number]
        return Codebook.shipped().decode(photo.points, extraction.step(photo.width, photo.height))


def _overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU (R,) of a box (4,) and boxes (R, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlap: NDArray[np.float64] = common / (areas + (box[2:] - box[:2]).prod() - common)
    return overlap
