"""Feature refinement: averages each feature with similar ones before it becomes supervision (sec. 3.4, eq. 11-13).

The nearest neighbours of a region are mostly overlapping windows of the same photo, which add no information.
``elsewhere`` takes neighbours from other photos only, which the paper leaves open (measured in docs/training.md).
Refined features are scaled to unit length, like the network's features.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from udq.common.threads import ALONE, Pool, pool
from udq.types import Features

# Number of features up to which comparing all pairs takes no longer than building an inverted file.
_EXHAUSTIVE = 8_192
# Lists of the inverted file that a search scans: more lists find more of the true neighbours and take longer.
_PROBES = 16
# Features whose neighbours one thread searches for at a time; the same for every number of threads.
_QUERIES = 1024


@dataclass(frozen=True)
class Clusters:
    """Result of k-means over whole features, for PBR and CBR.

    Attributes:
        centres: (C, d) float32.
        assigned: (G,) int64, the nearest centre of each feature.
    """

    centres: NDArray[np.float32]
    assigned: NDArray[np.int64]


def neighbours(
    features: Features,
    images: NDArray[np.int64],
    *,
    count: int,
    elsewhere: bool,
    exhaustive: bool | None = None,
    rows: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> NDArray[np.int64]:
    """Return the nearest features of each feature, nearest first; the number of threads does not change them.

    Args:
        features: (G, d) of unit length.
        images: (G,) index of the photo that each region belongs to.
        count: S, number of neighbours.
        elsewhere: take neighbours from other photos only; otherwise any but the feature itself.
        exhaustive: compare all pairs instead of scanning the nearest lists of an inverted file; chosen by G if None.
        rows: (Q,) the features whose neighbours are returned; all G if None.
        threads: number of threads; as many as there are cores if None.

    Returns:
        (Q, S) int64 rows of ``features``; -1 if a feature has fewer neighbours.
    """
    with pool(threads) as workers:
        return _neighbours(features, images, count, elsewhere, exhaustive, rows, workers)


def _neighbours(
    features: Features,
    images: NDArray[np.int64],
    count: int,
    elsewhere: bool,
    exhaustive: bool | None,
    rows: NDArray[np.int64] | None,
    workers: Pool,
) -> NDArray[np.int64]:
    vectors = np.ascontiguousarray(features.vectors)
    queries = np.arange(len(vectors)) if rows is None else rows
    most = int(np.bincount(images).max()) if elsewhere else 1
    wanted = min(count + most, len(vectors))
    if exhaustive is None:
        exhaustive = len(vectors) <= _EXHAUSTIVE
    index = _index(vectors, exhaustive)
    parts = [vectors[queries[start : start + _QUERIES]] for start in range(0, len(queries), _QUERIES)]
    found = np.concatenate(list(workers.map(lambda part: index.search(part, wanted)[1], parts)))
    own = images[found] == images[queries][:, None] if elsewhere else found == queries[:, None]
    # A stable sort moves the allowed neighbours to the front and keeps their order.
    allowed = (found >= 0) & ~own
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :count]
    nearest = np.where(np.take_along_axis(allowed, order, axis=1), np.take_along_axis(found, order, axis=1), -1)
    missing = count - nearest.shape[1]
    return np.pad(nearest, ((0, 0), (0, max(0, missing))), constant_values=-1)


def brute_force(features: Features, nearest: NDArray[np.int64]) -> Features:
    """Return eq. 11 (BFR): the mean of each feature and its S nearest neighbours.

    Args:
        features: (G, d).
        nearest: (G, S) rows of ``features``, or -1.
    """
    total = features.vectors.copy()
    for column in nearest.T:  # one neighbour at a time: an array (G, S, d) would not fit into memory
        total += np.where(column[:, None] >= 0, features.vectors[column], np.float32(0))
    return Features(total).unit()


def cluster(features: Features, *, clusters: int, seed: int) -> Clusters:
    """Run k-means over features (G, d), on one thread."""
    vectors = np.ascontiguousarray(features.vectors)
    with pool(1):
        kmeans = faiss.Kmeans(vectors.shape[1], min(clusters, len(vectors)), niter=10, seed=seed)
        kmeans.cp.min_points_per_centroid = 1
        kmeans.train(vectors)
        assert kmeans.centroids is not None  # set by train
        assert kmeans.index is not None
        return Clusters(kmeans.centroids.copy(), kmeans.index.search(vectors, 1)[1][:, 0])


def proposal_based(
    features: Features,
    images: NDArray[np.int64],
    clusters: Clusters,
    *,
    count: int,
    elsewhere: bool,
    threads: int | None = None,
) -> Features:
    """Return eq. 12 (PBR): the mean of each feature and its S nearest neighbours of the same cluster."""

    def refine(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        members = Features(features.vectors[rows])
        nearest = _neighbours(members, _from_zero(images[rows]), count, elsewhere, True, None, ALONE)
        return brute_force(members, nearest).vectors

    refined = features.vectors.copy()
    order = np.argsort(clusters.assigned, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(clusters.assigned[order])) + 1)
    with pool(threads) as workers:
        for rows, vectors in zip(members, workers.map(refine, members), strict=True):
            refined[rows] = vectors
    return Features(refined)


def center_based(features: Features, images: NDArray[np.int64], clusters: Clusters, *, elsewhere: bool) -> Features:
    """Return eq. 13 (CBR): the mean of each feature and the centre of its cluster.

    With ``elsewhere``, the centre is the mean of the cluster's members from other photos; a feature stays as it is if
    there are none.
    """
    vectors, assigned = features.vectors, clusters.assigned
    if not elsewhere:
        return Features(vectors + clusters.centres[assigned]).unit()
    total = np.zeros_like(clusters.centres)
    np.add.at(total, assigned, vectors)
    size = np.bincount(assigned, minlength=len(total))
    _, group = np.unique(np.stack([assigned, images]), axis=1, return_inverse=True)
    own = np.zeros((int(group.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(own, group, vectors)
    others = size[assigned] - np.bincount(group)[group]
    centre = (total[assigned] - own[group]) / np.maximum(others, 1)[:, None].astype(np.float32)
    return Features(vectors + centre * (others > 0)[:, None]).unit()


def _index(vectors: NDArray[np.float32], exhaustive: bool) -> faiss.Index:
    """Return an index of unit vectors by inner product, which ranks them as distance does."""
    dimensions = vectors.shape[1]
    flat = faiss.IndexFlatIP(dimensions)
    if exhaustive:
        flat.add(vectors)
        return flat
    index = faiss.IndexIVFFlat(flat, dimensions, int(np.sqrt(len(vectors))), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = _PROBES
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    return index


def _from_zero(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber photos as 0, 1, 2, ..."""
    numbered: NDArray[np.int64] = np.unique(images, return_inverse=True)[1]
    return numbered
