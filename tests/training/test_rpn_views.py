"""Views of labelled photos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq.config import ImageConfig
from udq.training.rpn import views as rpn_views


@given(seed=st.integers(0, 10_000), view=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_boxes_of_a_view_follow_its_pixels(seed, view):
    rng = np.random.default_rng(seed)
    pixels = np.zeros((160, 240, 3), np.uint8)
    left, top = rng.integers(0, 120), rng.integers(0, 80)
    right, bottom = left + rng.integers(30, 240 - left), top + rng.integers(30, 160 - top)
    pixels[top:bottom, left:right] = 255
    box = np.array([[left, top, right, bottom]], np.float32)
    seen, objects = rpn_views.draw_view(Image.fromarray(pixels), box, view, ImageConfig(), rng)

    assert len(objects) == 1
    ys, xs = np.nonzero(seen[..., 0] > 127)
    scale = max(seen.shape[0] / 160, seen.shape[1] / 240, 1)
    assert objects[0] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=3 * scale)
    if view == 0:
        assert seen.shape[:2] == (299, 448)
