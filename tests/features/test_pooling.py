"""The grid of regions, and the pooling of regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.features.pooling import generalised_mean, roi_max
from udq.features.proposals.grid import grid as propose


def grid(width, height):
    return propose(width, height)


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
@settings(deadline=None)
def test_windows_are_inside_the_photo_and_distinct(width, height):
    if max(width, height) > 30 * min(width, height):
        return  # the number of windows grows with the length of a narrow photo
    boxes = grid(width, height)

    assert (boxes[0] == [0, 0, width, height]).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width * (1 + 1e-6)).all()
    assert (boxes[:, 3] <= height * (1 + 1e-6)).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (448, 448), (600, 400), (1920, 1080)])
def test_photos_have_about_a_hundred_to_two_hundred_regions(width, height):
    assert 70 <= len(grid(width, height)) <= 200


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535), (65_535, 2000), (1, 1)])
def test_a_photo_one_pixel_wide_or_high_has_few_regions(size):
    boxes = grid(*size)

    assert 1 <= len(boxes) < 3000
    assert (boxes >= 0).all()
    assert (boxes <= [*size, *size]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_windows_of_one_scale_cover_the_photo():
    boxes = grid(640, 480)[1:]
    for side in np.unique((boxes[:, 2] - boxes[:, 0]).round(2)):
        of_side = boxes[np.isclose(boxes[:, 2] - boxes[:, 0], side, atol=0.01)]
        for low, high, extent in ((0, 2, 640), (1, 3, 480)):
            starts, ends = np.unique(of_side[:, low]), np.unique(of_side[:, high])
            assert starts[0] == 0
            assert ends[-1] == pytest.approx(extent)
            # Neighbours share at least 40 % of their side.
            assert (np.diff(starts) <= 0.6 * side + 1e-3).all()


def test_windows_scale_with_the_photo():
    assert grid(1280, 960) == pytest.approx(2 * grid(640, 480), rel=1e-5)


def brute_force(feature_map, box, width, height, p):
    """Integrate x**p over the box, cell by cell, in float64."""
    channels, rows, columns = feature_map.shape
    total, area = np.zeros(channels), 0.0
    for i in range(rows):
        for j in range(columns):
            across = min(box[2], (j + 1) * width / columns) - max(box[0], j * width / columns)
            down = min(box[3], (i + 1) * height / rows) - max(box[1], i * height / rows)
            covered = max(across, 0) * max(down, 0)
            total += covered * np.maximum(feature_map[:, i, j], 1e-6) ** p
            area += covered
    return (total / area) ** (1 / p)


@given(seed=st.integers(0, 10_000), p=st.sampled_from([1.0, 2.0, 3.0, 5.5]))
@settings(deadline=None, max_examples=60)
def test_pooling_is_the_integral_over_the_box(seed, p):
    rng = np.random.default_rng(seed)
    channels, rows, columns = rng.integers(1, 7, 3)
    width, height = rng.uniform(20, 900, 2)
    feature_map = np.maximum(rng.standard_normal((channels, rows, columns)), 0)
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1) * [width, height]
    boxes = corners.reshape(5, 4)
    pooled = generalised_mean(
        torch.tensor(feature_map), torch.tensor(boxes), width=float(width), height=float(height), p=p
    )
    expected = [brute_force(feature_map, box, width, height, p) for box in boxes]

    assert pooled.numpy() == pytest.approx(np.array(expected), rel=1e-6, abs=1e-9)


def test_a_larger_exponent_takes_the_mean_to_the_maximum():
    feature_map = torch.rand(4, 6, 8, dtype=torch.float64)
    whole = torch.tensor([[0.0, 0.0, 80.0, 60.0]], dtype=torch.float64)
    mean = generalised_mean(feature_map, whole, width=80, height=60, p=1)
    largest = generalised_mean(feature_map, whole, width=80, height=60, p=500)

    assert mean[0].numpy() == pytest.approx(feature_map.mean(dim=(1, 2)).numpy())
    assert largest[0].numpy() == pytest.approx(feature_map.amax(dim=(1, 2)).numpy(), rel=0.02)


def test_pooling_has_a_finite_gradient_at_zero():
    feature_map = torch.zeros(2, 3, 3, requires_grad=True)
    generalised_mean(feature_map, torch.tensor([[0.0, 0.0, 5.0, 5.0]]), width=9, height=9, p=3).sum().backward()

    assert torch.isfinite(feature_map.grad).all()


def seven_by_seven(feature_map, box, width, height):
    """Fast R-CNN's RoI pooling of one box, cell by cell; edges rounded, the last cell the one before the far edge."""
    channels, rows, columns = feature_map.shape
    pooled = np.zeros((channels, 7, 7))
    spans = []
    for low, high, cells, extent in ((box[1], box[3], rows, height), (box[0], box[2], columns, width)):
        first = min(int(low * cells / extent + 0.5), cells - 1)
        count = max(int(high * cells / extent + 0.5) - first, 1)
        # Sevenths in floating point, as in the original: rarely, the last part has a cell of the next box.
        part = count / 7
        spans.append([(first + int(k * part), first + int(np.ceil((k + 1) * part))) for k in range(7)])
    for i, (top, bottom) in enumerate(spans[0]):
        for j, (left, right) in enumerate(spans[1]):
            pooled[:, i, j] = feature_map[:, top:bottom, left:right].max(axis=(1, 2))
    return pooled


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_roi_pooling_takes_the_maximum_of_each_of_49_parts(seed):
    rng = np.random.default_rng(seed)
    channels, rows, columns = rng.integers(1, [4, 40, 70])
    width, height = rng.uniform(20, 900, 2)
    feature_map = rng.standard_normal((channels, rows, columns))
    corners = np.sort(rng.uniform(0, 1, (4, 2, 2)), axis=1) * [width, height]
    slivers = [[0, 0, width, height], [0.9999 * width, 0, width, 1e-3], [0, 0.9999 * height, 1e-3, height]]
    boxes = np.concatenate([corners.reshape(4, 4), slivers])
    pooled = roi_max(torch.tensor(feature_map), torch.tensor(boxes), width=float(width), height=float(height))

    assert pooled.numpy() == pytest.approx(np.stack([seven_by_seven(feature_map, box, width, height) for box in boxes]))


def test_roi_pooling_of_cells_by_hand():
    feature_map = torch.arange(14.0 * 7).reshape(1, 14, 7)
    whole, corner = roi_max(feature_map, torch.tensor([[0.0, 0, 100, 300], [90, 290, 100, 300]]), width=100, height=300)

    assert (whole == feature_map[:, 1::2]).all()  # the larger of each two rows, and no cell beyond
    assert (corner == feature_map[0, -1, -1]).all()


def test_roi_pooling_of_no_boxes():
    assert roi_max(torch.rand(5, 4, 4), torch.empty(0, 4), width=9, height=9).shape == (0, 5, 7, 7)
