"""Codes of local features: what is stored is near what was extracted, and distances are those of the codes."""

from __future__ import annotations

import numpy as np
import pytest

from udq.errors import CollectionError
from udq.keypoints import codebook, extraction, sift
from udq.keypoints.codebook import Codebook
from udq.keypoints.matching import match
from udq.photos import sandbox

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def coffee(photos):
    return extraction.extract(photos / "coffee.png", sandbox.shared(), 300)


@pytest.fixture(scope="module")
def stored(coffee):
    return Codebook.shipped().encode(coffee)


def test_what_is_stored_is_near_what_was_extracted(coffee, stored):
    found = Codebook.shipped().decode(stored, coffee.step)

    assert (stored.dtype, stored.shape) == (np.uint8, (len(coffee), 24))
    assert len(coffee) == 300
    assert np.abs(found.points - coffee.points).max() <= 0.5
    assert np.abs(np.log2(found.sizes / coffee.sizes)).max() <= 1 / 32 + 1e-6
    turned = np.angle(np.exp(1j * (found.angles - coffee.angles)))
    assert np.abs(turned).max() <= np.pi / 256 + 1e-4
    rotated = Codebook.shipped().rotated(coffee)
    assert np.median((rotated.descriptors * found.descriptors).sum(axis=1)) > 0.9
    pairs = match(rotated, found)
    assert len(pairs) > 250
    assert np.mean(pairs[:, 0] == pairs[:, 1]) > 0.99


def test_rotation_changes_no_product(coffee):
    rotated = Codebook.shipped().rotated(coffee).descriptors

    assert rotated @ rotated.T == pytest.approx(coffee.descriptors @ coffee.descriptors.T, abs=1e-5)


def test_tables_sum_to_the_distances_of_codes(coffee, stored):
    shipped = Codebook.shipped()
    decoded = shipped.decode(stored, 1.0).descriptors
    rotated = shipped.rotated(coffee).descriptors
    tables = shipped.tables(coffee.descriptors[:5])
    codes = codebook.points(stored)["code"]

    sums = tables[:, np.arange(16), codes].sum(axis=2)

    expected = np.square(rotated[:5, None] - decoded[None]).sum(axis=2)
    assert sums == pytest.approx(expected, abs=1e-4)


def test_the_nearest_cell_of_a_feature_is_its_own(coffee, stored):
    cells = Codebook.shipped().nearest_cells(coffee.descriptors, 64)

    assert (cells[:, 0] == codebook.points(stored)["cell"]).all()
    assert all(len(set(row)) == 64 for row in cells.tolist())


def test_cells_come_nearest_first(coffee):
    shipped = Codebook.shipped()
    cells = shipped.nearest_cells(coffee.descriptors[:20], 100)
    parts = (coffee.descriptors[:20] @ shipped.cells.rotation).reshape(20, 2, 64)
    high, low = (np.square(parts[:, half, None] - shipped.cells.codebooks[half]).sum(axis=2) for half in range(2))

    first, second = (cells // 256).astype(int), (cells % 256).astype(int)
    sums = np.take_along_axis(high, first, 1) + np.take_along_axis(low, second, 1)

    assert (np.diff(sums, axis=1) >= -1e-5).all()


def test_no_features_are_stored_as_none():
    nothing = sift.extract(np.full((80, 90, 3), 127, np.uint8), (0.0, 0.0, 90.0, 80.0), 100)
    dot = sift.extract(np.zeros((1, 1, 3), np.uint8), (0.0, 0.0, 1.0, 1.0), 100)

    for each in (nothing, dot):
        assert len(each) == 0
        assert Codebook.shipped().encode(each).shape == (0, 24)
    assert len(Codebook.shipped().decode(codebook.NONE, 1.0)) == 0


def test_features_at_the_edge_of_a_huge_photo_stay_inside_16_bits(coffee):
    huge = sift.LocalFeatures(coffee.points * 1e4, coffee.sizes * 1e6, coffee.angles, coffee.descriptors, 1.0)

    read = codebook.points(Codebook.shipped().encode(huge))

    assert read["x"].max() == read["y"].max() == 65_535
    assert read["size"].max() == 255


def test_a_codebook_is_read_as_it_was_written():
    shipped = Codebook.shipped()
    again = Codebook.from_bytes(shipped.to_bytes())

    for name in ("codes", "cells"):
        assert np.array_equal(getattr(again, name).codebooks, getattr(shipped, name).codebooks)
        assert np.array_equal(getattr(again, name).rotation, getattr(shipped, name).rotation)
    with pytest.raises(CollectionError, match="codebook of local features: damaged"):
        Codebook.from_bytes(shipped.to_bytes()[:-100])
    with pytest.raises(ValueError, match="cells: expected codebooks"):
        Codebook(shipped.codes, shipped.codes)
