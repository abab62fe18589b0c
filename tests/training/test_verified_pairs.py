"""Verified pairs: regions of different photos that show the same part of an object, found by geometry alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from udq.evaluation.metrics import intersection_over_union
from udq.keypoints import sift
from udq.keypoints.codebook import NONE, Codebook
from udq.training import verified_pairs
from udq.training.sampling import Sample, SampledPhoto
from udq.types import Features, Regions

pytest.importorskip("cv2")

BOXES = np.array([[40, 30, 240, 230], [140, 20, 480, 380], [300, 100, 560, 380]], np.float32)
SHIFT, SCALE = 25.0, 0.8


def pixels_of(photos, name):
    return np.asarray(Image.open(photos / name).convert("RGB").resize((600, 400)))


def sampled(pixels):
    height, width = pixels.shape[:2]
    points = Codebook.shipped().encode(sift.extract(pixels, (0.0, 0.0, float(width), float(height)), 400))
    return SampledPhoto(width, height, points)


def sample_of(views, boxes, photos=None):
    """A sample of photos with these boxes each; features are alike, so that every photo is a candidate."""
    counts = [len(each) for each in boxes]
    rng = np.random.default_rng(0)
    features = Features(1 + 0.01 * rng.random((sum(counts), 8), dtype=np.float32)).unit()
    images = np.repeat(np.arange(len(counts)), counts)
    return Sample(features, Regions(np.concatenate(boxes)), images, np.zeros(len(images), np.int64), tuple(views))


@pytest.fixture(scope="module")
def coffee(photos):
    return pixels_of(photos, "coffee.png")


@pytest.fixture(scope="module")
def moved(coffee):
    """The same photo at a smaller scale, shifted."""
    canvas = np.full((400, 600, 3), 90, np.uint8)
    small = np.asarray(Image.fromarray(coffee).resize((480, 320), Image.Resampling.LANCZOS))
    canvas[25:345, 25:505] = small
    return canvas


def test_regions_that_show_the_same_are_paired(photos, coffee, moved):
    views = [sampled(pixels) for pixels in (coffee, moved, pixels_of(photos, "rocket.png"))]
    there = BOXES[::-1] * SCALE + SHIFT
    sample = sample_of(views, [BOXES, there.astype(np.float32), BOXES])

    found = verified_pairs.find(sample, sample.features, threads=1)

    assert found.photos == 1
    pairs = {tuple(row) for row in found.rows.tolist()}
    assert {(0, 5), (1, 4), (2, 3)} <= pairs  # in reverse order in the second photo
    for one, other in pairs:
        mapped = sample.regions.boxes[one] * SCALE + SHIFT
        assert intersection_over_union(tuple(mapped), tuple(sample.regions.boxes[other])) > 0.45


def test_the_number_of_threads_changes_nothing(photos, coffee, moved):
    views = [sampled(pixels) for pixels in (coffee, moved, coffee, pixels_of(photos, "rocket.png"))]
    sample = sample_of(views, [BOXES] * 4)
    steps = []

    one, three = (verified_pairs.find(sample, sample.features, threads=n, step=lambda: steps.append(1)) for n in (1, 3))

    assert np.array_equal(one.rows, three.rows)
    assert one.photos == three.photos == 3
    assert len(steps) == 8


def test_nothing_is_paired_without_evidence(photos):
    grey = SampledPhoto(600, 400, NONE)
    plain = [sampled(np.full((400, 600, 3), 128, np.uint8))] * 2
    different = [sampled(pixels_of(photos, name)) for name in ("coffee.png", "rocket.png", "chelsea.png")]
    for views in ([grey] * 3, plain, different, different[:1], [different[0], grey]):
        sample = sample_of(views, [BOXES] * len(views))
        found = verified_pairs.find(sample, sample.features, threads=1)
        assert (found.rows.shape, found.photos) == ((0, 2), 0)
    nothing = sample_of([grey], [np.empty((0, 4), np.float32)])
    assert len(verified_pairs.find(nothing, nothing.features, threads=1).rows) == 0


def test_a_photo_that_could_not_be_read_is_passed_over(coffee, moved):
    views = [sampled(coffee), SampledPhoto(0, 0, NONE), sampled(moved)]
    none = np.empty((0, 4), np.float32)
    sample = sample_of(views, [BOXES, none, (BOXES * SCALE + SHIFT).astype(np.float32)])

    found = verified_pairs.find(sample, sample.features, threads=1)

    assert found.photos == 1
    assert {(0, 3), (1, 4), (2, 5)} <= {tuple(row) for row in found.rows.tolist()}


def test_halves_share_no_photo():
    images = np.repeat(np.arange(8), 2)
    rows = np.array([[0, 2], [1, 3], [2, 4], [8, 10], [9, 11], [12, 14]])  # photos 0-1-2, 4-5, 6-7
    one, other = verified_pairs.VerifiedPairs(rows, 4).halves(images)

    assert sorted(map(tuple, [*one.tolist(), *other.tolist()])) == sorted(map(tuple, rows.tolist()))
    assert len(one)
    assert len(other)
    assert not set(images[one].ravel()) & set(images[other].ravel())


def test_one_object_is_divided_by_photo():
    images = np.repeat(np.arange(4), 2)
    rows = np.array([[0, 2], [0, 4], [2, 4], [4, 6]])
    one, other = verified_pairs.VerifiedPairs(rows, 4).halves(images)

    assert len(one)
    assert len(other)
    assert not set(one[:, 0]) & set(other[:, 0])


def test_the_gain_is_the_share_of_regions_that_no_longer_come_first():
    angles = np.deg2rad([0, 60, 30, 170])
    before = Features(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    angles = np.deg2rad([0, 10, 30, 170])
    after = Features(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    images, pairs = np.arange(4), np.array([[0, 1]])

    assert verified_pairs.gain(before, after, pairs, images) == pytest.approx(0.5)
    assert verified_pairs.gain(after, before, pairs, images) == pytest.approx(-0.5)
    assert verified_pairs.gain(before, before, pairs, images) == 0


def plane(*angles):
    """Features (G, 2) of unit length in these directions, in degrees."""
    radians = np.deg2rad(angles)
    return Features(np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))


def test_the_estimate_is_the_average_precision_of_photos_in_pairs():
    # Regions 0 of photo 0 and 1 of photo 1 are a pair. Before training, photos 2 and 3 are nearer to 0, 2 nearer to 1.
    images, pairs = np.arange(4), np.array([[0, 1]])
    before, after = plane(0, 40, 10, -20), plane(0, 5, 90, 180)

    found = verified_pairs.estimate(before, after, pairs, images)

    assert found.queries == 2
    assert found.before == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found.after == 1.0
    assert found.error == pytest.approx(np.std([2 / 3, 1 / 2], ddof=1) / np.sqrt(2))


def test_photos_that_are_tied_to_another_region_count_neither_way():
    # Photo 0 has two regions. Its first is tied to photo 1 and its second to photo 2, which may show both objects.
    images, pairs = np.array([0, 0, 1, 2, 3]), np.array([[0, 2], [1, 3]])
    features = plane(0, 90, -30, 20, 170)  # photo 2 is nearer to the first region of photo 0 than photo 1

    found = verified_pairs.estimate(features, features, pairs, images)

    assert (found.before, found.after, found.error, found.queries) == (1.0, 1.0, 0.0, 3)


def test_one_region_of_each_photo_is_searched_for_and_its_own_photo_is_not_an_answer():
    images = np.repeat(np.arange(6), 3)
    rng = np.random.default_rng(0)
    features = plane(*(60 * (images // 2) + rng.uniform(-5, 5, len(images))))
    pairs = np.array([[row, row + 3] for row in range(len(images)) if images[row] % 2 == 0])

    found = verified_pairs.estimate(features, features, pairs, images)

    assert found.queries == 6
    assert found.before == 1.0
    assert verified_pairs.estimate(features, features, pairs[:0], images) is None
