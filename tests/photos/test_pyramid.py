"""The views of a photo: scales, tiles, and what is left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq.photos import pyramid
from udq.photos.decoding import load

COARSE = {"shorter": 336, "longer": 448}


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        ((448, 336), 20, [1]),
        ((640, 480), 20, [1]),  # 1.43 times the coarse view: not worth another
        ((800, 600), 20, [1, 1.79]),  # its own pixels
        ((896, 672), 20, [1, 2]),
        ((4000, 3000), 0, [1]),
        ((4000, 3000), 40, [1]),
        ((4000, 3000), 20, [1, 2]),
        ((4000, 3000), 10, [1, 2, 4]),
        ((4000, 3000), 5, [1, 2, 4, 8]),
        ((4000, 3000), 14, [1, 2]),  # 2.86 times: within 1.5 of 2
        ((4000, 3000), 12, [1, 2, 3.33]),
        ((12000, 3000), 20, [1, 2, 4, 6]),  # a panorama: its shorter side counts
        ((200, 150), 10, [1]),  # enlarged to the coarse view
        ((1, 1), 1, [1]),
    ],
)
def test_the_scales_are_those_that_the_smallest_objects_need(size, smallest, expected):
    found = pyramid.levels(*size, **COARSE, smallest=smallest)

    assert found == pytest.approx(expected, abs=0.01)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.floats(0.5, 100))
def test_the_smallest_objects_have_their_pixels_or_the_photos_own(width, height, smallest):
    found = pyramid.levels(width, height, **COARSE, smallest=smallest)
    scale = pyramid.scale_for(width, height, **COARSE) * found[-1]
    side = smallest / 100 * min(width, height) * scale

    assert found[0] == 1
    assert all(1.49 < later / earlier <= 2.01 for earlier, later in itertools.pairwise(found))
    assert side > pyramid.VISIBLE / 1.55 or scale > 1 / 1.55
    assert len(found) == 1 or scale < 1.05


@given(st.integers(1, 9000))
def test_tiles_cover_a_side_are_short_and_overlap(extent):
    spans = pyramid._spans(extent)

    assert spans[0][0] == 0
    assert spans[-1][1] == extent
    assert all(end - start <= 1024 for start, end in spans)
    assert all(end - start >= 192 for (_, end), (start, _) in itertools.pairwise(spans))


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_views_of_a_photo_show_it_coarse_to_fine():
    pixels = noise(1600, 1200)
    found = list(pyramid.views(pixels, (3200, 2400), [1.0, 2.0, 4.0]))

    assert [view.factor for view in found] == [1, 2, 4, 4, 4, 4]
    assert [view.pixels.shape[:2] for view in found[:2]] == [(300, 400), (600, 800)]
    assert all(view.photo == (3200, 2400) for view in found)
    assert found[0].window == found[1].window == (0, 0, 3200, 2400)
    assert [view.area for view in found[:2]] == [1, 4]
    for view in found[2:]:  # at the scale of the pixels: exactly a part of them
        x1, y1, x2, y2 = (int(edge) // 2 for edge in view.window)
        assert (view.pixels == pixels[y1:y2, x1:x2]).all()
        assert view.area == pytest.approx(view.pixels.shape[0] * view.pixels.shape[1] / 120_000)
    assert max(view.window[2] for view in found) == 3200
    assert max(view.window[3] for view in found) == 2400


def test_the_coarse_view_is_the_photo_as_it_is_loaded_without_finer_ones(photos):
    photo = load(photos / "coffee.png", **COARSE)
    (view,) = pyramid.views(photo.pixels, (photo.width, photo.height), [1.0])

    assert (view.pixels == photo.pixels).all()


def test_a_photo_without_contrast_has_one_view():
    grain = np.full((672, 896, 3), 120, np.uint8) + np.random.default_rng(0).integers(0, 6, (672, 896, 1), np.uint8)

    assert len(list(pyramid.views(grain, (896, 672), [1.0, 2.0]))) == 1


def test_blank_parts_are_left_out_of_the_finer_views_and_the_rest_is_not():
    pixels = np.full((672, 896, 3), 200, np.uint8)
    pixels[400:500, 600:750] = noise(150, 100)
    _, fine = pyramid.views(pixels, (896, 672), [1.0, 2.0])

    x1, y1, x2, y2 = fine.window
    assert x1 <= 600 and y1 <= 400 and x2 >= 750 and y2 >= 500  # noqa: PT018
    assert (x2 - x1) * (y2 - y1) < 0.15 * 896 * 672
    assert (fine.pixels == pixels[int(y1) : int(y2), int(x1) : int(x2)]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9), st.floats(0, 1))
def test_views_of_photos_of_any_shape_lie_inside_them(width, height, seed, blank):
    size = 20 * width, 20 * height
    scales = pyramid.levels(*size, **COARSE, smallest=40)
    scale = pyramid.scale_for(*size, **COARSE) * scales[-1]
    shape = max(32, round(size[0] * scale)), max(32, round(size[1] * scale))
    pixels = np.asarray(Image.fromarray(noise(40, 40, seed)).resize(shape)).copy()
    pixels[:, : int(blank * shape[0])] = 90
    pixels[: int(blank * shape[1] / 2)] = 90

    for view in pyramid.views(pixels, size, scales):
        x1, y1, x2, y2 = view.window
        assert 0 <= x1 < x2 <= size[0] + 0.01
        assert 0 <= y1 < y2 <= size[1] + 0.01
        assert min(view.pixels.shape[:2]) >= 32
        assert max(view.pixels.shape[:2]) <= 1024


@pytest.mark.parametrize(("smallest", "expected"), [(0, 40), (10, 10), (5, 5), (60, 40)])
def test_the_smallest_object_that_is_seen(smallest, expected):
    assert pyramid.smallest_seen(shorter=336, smallest=smallest) == pytest.approx(expected)
