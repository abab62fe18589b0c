"""Geometry: the transformation that matches agree on, and which ones are plausible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.keypoints import geometry
from udq.keypoints.sift import LocalFeatures

pytest.importorskip("cv2")


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        (np.eye(3), True),
        (np.diag([9.0, 9.0, 1.0]), True),
        (np.diag([0.11, 0.11, 1.0]), True),
        (np.diag([11.0, 11.0, 1.0]), False),
        (np.diag([0.09, 0.09, 1.0]), False),
        (np.diag([3.0, 1.0, 1.0]), True),
        (np.diag([5.0, 1.0, 1.0]), False),
        (np.diag([-1.0, 1.0, 1.0]), False),
        (np.diag([-1.0, -1.0, 1.0]), True),
        (np.zeros((3, 3)), False),
        (np.full((3, 3), np.nan), False),
        (np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]]), False),  # the horizon crosses the box
        (np.array([[1.0, 3, 0], [0, 1, 0], [0, 0, 1]]), False),  # sheared
    ],
)
def test_plausible_homographies(change, fine):
    assert geometry.possible(change, (10.0, 10.0, 150.0, 110.0)) is fine


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.2, 5.0),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    wrong=st.integers(0, 60),
    right=st.integers(15, 40),
    seed=st.integers(0, 1000),
)
def test_matches_that_agree_are_found_among_wrong_ones(angle, scale, shift, wrong, right, seed):
    rng = np.random.default_rng(seed)
    count = right + wrong
    start = rng.uniform(0, 400, (count, 2)).astype(np.float32)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    end = (start @ turn.T + shift).astype(np.float32)
    end[right:] = rng.uniform(-500, 2000, (wrong, 2))
    sizes = rng.uniform(3, 30, count)
    angles = rng.uniform(-np.pi, np.pi, count)
    moved = np.where(np.arange(count) < right, angles + angle, rng.uniform(-np.pi, np.pi, count))
    descriptors = np.zeros((count, 128), np.float32)
    query = LocalFeatures(start, sizes.astype(np.float32), angles.astype(np.float32), descriptors, 1.0)
    photo = LocalFeatures(end, (scale * sizes).astype(np.float32), moved.astype(np.float32), descriptors, 1.0)
    pairs = np.stack([np.arange(count)] * 2, axis=1)

    found = geometry.agreeing(query, photo, pairs, 566.0)

    assert set(range(right)) <= set(found[:, 0].tolist())
    box = (0.0, 0.0, 400.0, 400.0)
    homography, near = geometry.fit(start[:right], end[:right], box, 1.0)
    assert near.all()
    assert geometry.projected(homography, start[:right]) == pytest.approx(end[:right], abs=0.5)
    assert geometry.possible(homography, box)


def agreeing_by_loops(query, photo, pairs, diagonal):
    """What ``agreeing`` returns, one comparison after the other; a match turns by a rotation matrix."""
    best = []
    for one, other in pairs[:256]:
        scale, turn = photo.sizes[other] / query.sizes[one], photo.angles[other] - query.angles[one]
        movement = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        agreed = []
        for start, end in pairs:
            moved = photo.points[other] + movement @ (query.points[start] - query.points[one])
            scales = photo.sizes[end] / query.sizes[start] / scale
            turned = photo.angles[end] - query.angles[start] - turn
            near = np.linalg.norm(photo.points[end] - moved) < 0.1 * diagonal * scale
            if near and np.cos(turned) > np.cos(np.deg2rad(30)) and 0.5 < scales < 2:
                agreed.append([int(start), int(end)])
        best = max(best, agreed, key=len)
    for points, column in ((query.points, 0), (photo.points, 1)):
        first = {tuple(points[pair[column]].round(1).tolist()): pair for pair in reversed(best)}
        best = [pair for pair in best if pair in first.values()]
    return best


def test_several_photos_at_once_agree_as_each_alone():
    rng = np.random.default_rng(4)
    counts = [0, 300, 5, 6, 7, 0, 60, 20]  # more than the hypotheses that are tried, and fewer pairs than are examined

    def features(count):
        points = rng.uniform(0, 300, (count, 2)).astype(np.float32)
        points[: count // 3] = points[count // 3 : 2 * (count // 3)]  # the same points with other directions
        sizes = rng.uniform(3, 6, count).astype(np.float32)
        return LocalFeatures(points, sizes, rng.uniform(-1, 1, count).astype(np.float32), np.zeros((count, 128)), 1.0)

    query, photos = features(300), features(sum(counts))
    starts = np.cumsum([0, *counts])
    every = [
        np.stack([rng.integers(0, 300, n), start + rng.permutation(n)], axis=1)
        for n, start in zip(counts, starts[:-1], strict=True)
    ]

    found = geometry.agreeing_each(query, photos, every, 400.0, least=6)

    for count, pairs, agreed in zip(counts, every, found, strict=True):
        alone = geometry.agreeing(query, photos, pairs, 400.0, least=6)
        assert agreed.tolist() == alone.tolist()
        assert count < 6 or agreed.tolist() == agreeing_by_loops(query, photos, pairs, 400.0)
        assert count < 6 or 0 < len(agreed) < count
    assert [len(found[row]) for row in (0, 2, 5)] == [0, 5, 0]


def test_few_matches_determine_a_similarity():
    start = np.array([[0, 0], [100, 0], [100, 80], [20, 60], [50, 50]], np.float32)
    end = start[:, ::-1] * np.float32([-2, 2]) + np.float32([300, 10])

    homography, near = geometry.fit(start, end, (0.0, 0.0, 100.0, 80.0), 1.0)

    assert homography == pytest.approx(np.array([[0, -2, 300], [2, 0, 10], [0, 0, 1]]), abs=1e-6)
    assert near.all()


def test_points_on_one_line_determine_a_similarity():
    line = np.arange(40, dtype=np.float32)[:, None] * np.float32([3, 2])

    homography, near = geometry.fit(line, 2 * line, (0.0, 0.0, 120.0, 80.0), 1.0)

    assert near.all()
    assert geometry.possible(homography, (0.0, 0.0, 120.0, 80.0))
    assert geometry.projected(homography, line) == pytest.approx(2 * line, abs=1)


def test_the_box_of_a_rotated_polygon_excludes_its_corners():
    diamond = np.array([[50.0, 0.0], [100.0, 50.0], [50.0, 100.0], [0.0, 50.0]])
    upright = np.array([[10.0, 20.0], [60.0, 20.0], [60.0, 90.0], [10.0, 90.0]])
    half = 50 / np.sqrt(2)

    assert geometry.upright(diamond, 200, 200) == pytest.approx((50 - half, 50 - half, 50 + half, 50 + half))
    assert geometry.upright(upright, 200, 200) == pytest.approx((10, 20, 60, 90))
    assert geometry.upright(upright, 40, 50) == pytest.approx((10, 20, 40, 50))
    assert geometry.upright(upright + 300, 200, 200) is None
