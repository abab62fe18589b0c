"""Confidence: against an independent computation, and on random codes with planted matches."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from udq import Collection
from udq.errors import InputError
from udq.quantization.quantizer import Quantizer
from udq.search import confidence as confidences
from udq.search.confidence import DEPTH, THRESHOLD, Calibration
from udq.search.database import LocalDatabase
from udq.search.scan import exhaustive
from udq.store.segments import PHOTO, Image, Segment

M, K, LENGTH = 8, 64, 8
REGIONS = 12


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer():
    """Codebooks of random unit features, in a rotated space."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(M * LENGTH, M * LENGTH)))[0].astype(np.float32)
    books = unit(rng.normal(size=(K, M * LENGTH))).reshape(K, M, LENGTH).transpose(1, 0, 2).copy()
    return Quantizer(rotation, books, np.full((M, K), 0.01, np.float32))


def segment(codes, offsets, removed=None):
    """A segment of codes; boxes become smaller from region to region."""
    count = len(offsets) - 1
    boxes = np.zeros((len(codes), 4), np.uint16)
    boxes[:, 2:] = 1000 - np.arange(len(codes))[:, None] % 500
    images = tuple(Image(f"{i}.jpg", "/photos", 1000, 1000, i) for i in range(count))
    removed = np.zeros(count, np.bool_) if removed is None else removed
    return Segment("0", codes, boxes, np.asarray(offsets, np.int64), images, np.zeros(count, PHOTO), removed)


def copies_of(one, count):
    """A segment of copies of the only photo of another segment, with the same boxes."""
    offsets = np.arange(count + 1) * len(one.codes)
    return dataclasses.replace(segment(np.tile(one.codes, (count, 1)), offsets), boxes=np.tile(one.boxes, (count, 1)))


def chance(count, rng, regions=REGIONS):
    """Codes of photos that have nothing in common: uniformly random."""
    return rng.integers(0, K, (count * regions, M)).astype(np.uint8)


def learned(segments, quantizer):
    return LocalDatabase(SimpleNamespace(quantizer=quantizer), tuple(segments), ranked=True).calibration


def collection_of(count, quantizer, seed=0, plant=0):
    """Random photos, of which the first ``plant`` show the object of a query, and the tables of the query."""
    rng = np.random.default_rng(seed)
    codes = chance(count, rng)
    wanted = rng.integers(0, K, M).astype(np.uint8)
    for photo in range(plant):
        codes[photo * REGIONS + 3] = wanted
        codes[photo * REGIONS + 3, rng.integers(0, M)] = rng.integers(0, K)
    feature = np.concatenate([quantizer.codebooks[m, wanted[m]] for m in range(M)]) @ quantizer.rotation.T
    offsets = np.arange(count + 1) * REGIONS
    return segment(codes, offsets), quantizer.lookup_tables(unit(feature))


def ranked(held, lookup):
    return np.sort(exhaustive.best_regions(lookup, held.codes, held.offsets).distance)


def by_loops(held, lookup, quantizer, distance):
    """The rate and the confidences, by loops in float64, decoded codes and quantiles of scipy."""

    def nearest(query):
        decoded = np.concatenate([quantizer.codebooks[m][held.codes[:, m]] for m in range(M)], axis=1).astype(float)
        residual = sum(quantizer.residuals[m][held.codes[:, m]].astype(float) for m in range(M))
        squared = ((decoded - query) ** 2).sum(axis=1) + residual
        return np.sqrt([squared[a:b].min() for a, b in zip(held.offsets[:-1], held.offsets[1:], strict=True)])

    count = len(held.offsets) - 1
    low, high = [], []
    for photo in range(0, count):
        rows = range(held.offsets[photo], held.offsets[photo + 1])
        area = [int(b[2] - b[0]) * int(b[3] - b[1]) for b in held.boxes[rows].astype(int)]
        row = rows[sorted(range(len(area)), key=lambda i: -area[i])[len(area) // 10]]
        query = np.concatenate([quantizer.codebooks[m][held.codes[row, m]] for m in range(M)]).astype(float)
        others = np.delete(nearest(query / np.linalg.norm(query)), photo)
        tenth, half, most = stats.mstats.mquantiles(others, [0.1, 0.5, 0.9], alphap=1, betap=1)
        low.append(half - tenth)
        high.append(most - half)
    rate = max(
        0.55 * np.log(5) / stats.scoreatpercentile(low, 25), 0.485 * np.log(5) / stats.scoreatpercentile(high, 50)
    )
    rate = min(rate, 30) * count / (count + 10)
    median = np.median(np.sqrt(exhaustive.best_regions(lookup, held.codes, held.offsets).distance.astype(float)))
    q = [count / 2 * np.exp(-rate * (median - np.sqrt(float(d)))) / j for j, d in enumerate(distance, start=1)]
    return rate, [max(0.0, 1 - min(q[i:DEPTH])) for i in range(min(DEPTH, len(q)))]


@pytest.mark.parametrize(("count", "plant"), [(30, 0), (60, 4), (150, 20)])
def test_confidence_equals_its_formula(quantizer, count, plant):
    held, lookup = collection_of(count, quantizer, plant=plant)
    distance = ranked(held, lookup)
    calibration = learned([held], quantizer)
    rate, confidence = by_loops(held, lookup, quantizer, distance)

    assert calibration.rate == pytest.approx(rate, rel=1e-4)
    np.testing.assert_allclose(calibration.confidence(lookup, distance)[:DEPTH], confidence, atol=2e-4)


def test_planted_photos_are_found_and_random_ones_are_not(quantizer):
    found, alarms, shares = [], 0, []
    for seed in range(25):
        held, lookup = collection_of(200, quantizer, seed=seed, plant=8)
        confidence = learned([held], quantizer).confidence(lookup, ranked(held, lookup))
        found.append((confidence >= THRESHOLD).sum())
        shares.append((confidence[:8].mean(), confidence[30:].mean()))
        held, lookup = collection_of(200, quantizer, seed=100 + seed)
        alarms += learned([held], quantizer).confidence(lookup, ranked(held, lookup))[0] >= THRESHOLD

    assert 7 <= np.mean(found) <= 9
    assert np.mean(shares, axis=0)[0] > 0.98
    assert np.mean(shares, axis=0)[1] < 0.4
    assert alarms == 0


def test_the_nearest_photos_are_enough(quantizer):
    held, lookup = collection_of(400, quantizer, plant=6)
    distance = ranked(held, lookup)
    calibration = learned([held], quantizer)
    every = calibration.confidence(lookup, distance)

    for k in (DEPTH, DEPTH + 1, 250):
        np.testing.assert_array_equal(calibration.confidence(lookup, distance[:k]), every[:k])
    for k in (0, 1, 5, 20):
        assert (calibration.confidence(lookup, distance[:k]) <= every[:k]).all()


def test_the_order_of_photos_does_not_matter_and_removed_photos_do_not_count(quantizer):
    held, lookup = collection_of(90, quantizer, plant=5)
    order = np.random.default_rng(1).permutation(90)
    rows = (order[:, None] * REGIONS + np.arange(REGIONS)).ravel()
    turned = dataclasses.replace(held, codes=held.codes[rows], boxes=held.boxes[rows])
    cut = 40 * REGIONS
    halves = [
        dataclasses.replace(segment(held.codes[:cut], held.offsets[:41]), boxes=held.boxes[:cut]),
        dataclasses.replace(segment(held.codes[cut:], held.offsets[40:] - cut), boxes=held.boxes[cut:]),
    ]
    more = segment(np.concatenate([held.codes, held.codes[:cut]]), np.arange(131) * REGIONS, np.arange(130) >= 90)
    more = dataclasses.replace(more, boxes=np.concatenate([held.boxes, held.boxes[:cut]]))
    expected = learned([held], quantizer)

    for segments in ([turned], halves, [more]):
        found = learned(segments, quantizer)
        assert (found.photos, found.rate) == (expected.photos, pytest.approx(expected.rate))
        distance = ranked(held, lookup)
        np.testing.assert_allclose(found.confidence(lookup, distance), expected.confidence(lookup, distance), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_photos_give_low_confidence(quantizer, count):
    held, lookup = collection_of(count, quantizer)
    calibration = learned([held] if count else [], quantizer)
    confidence = calibration.confidence(lookup, ranked(held, lookup) if count else np.empty(0, np.float32))

    assert confidence.dtype == np.float32
    assert len(confidence) == count
    assert (confidence < THRESHOLD).all()


def test_identical_photos_are_not_found(quantizer):
    one, lookup = collection_of(1, quantizer)
    held = copies_of(one, 50)
    calibration = learned([held], quantizer)
    confidence = calibration.confidence(lookup, ranked(held, lookup)[:1])  # of copies, only the nearest counts

    assert calibration.photos == len(calibration.sample) == 1
    assert np.isfinite(confidence).all()
    assert confidence.max() <= 0.5


@pytest.mark.parametrize("copied", [0, 7, 29])
def test_copies_do_not_change_the_calibration(quantizer, copied):
    held, lookup = collection_of(30, quantizer, plant=4)
    one = dataclasses.replace(
        segment(held.codes[copied * REGIONS :][:REGIONS], [0, REGIONS]), boxes=held.boxes[copied * REGIONS :][:REGIONS]
    )
    expected, found = learned([held], quantizer), learned([held, copies_of(one, 50)], quantizer)

    assert (found.photos, found.rate) == (expected.photos, expected.rate)
    np.testing.assert_array_equal(found.sample.codes, expected.sample.codes)
    distance = ranked(held, lookup)
    np.testing.assert_array_equal(found.confidence(lookup, distance), expected.confidence(lookup, distance))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 4, width=32) | st.just(float("inf")), max_size=250),
    st.integers(1, 10**7),
    st.floats(0.5, 30),
)
def test_confidence_is_a_share_and_never_increases(distances, photos, rate):
    sample = exhaustive.Part(np.zeros((1, 1), np.uint8), np.array([0, 1]))
    distance = np.sort(np.array(distances, np.float32))
    confidence = Calibration(photos, rate, sample).confidence(np.full((1, 2), 1.5, np.float32), distance)

    assert len(confidence) == len(distance)
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert (np.diff(confidence) <= 0).all()


def test_distances_out_of_order_are_an_error(quantizer):
    held, lookup = collection_of(5, quantizer)
    calibration = learned([held], quantizer)
    for wrong in ([2.0, 1.0], [1.0, np.nan], [[1.0]]):
        with pytest.raises(InputError, match="nearest first"):
            calibration.confidence(lookup, np.array(wrong, np.float32))


def test_calibration_is_deterministic(collection):
    opened = Collection.open(collection.path)
    one, other = (learned(opened.segments, opened.model.quantizer) for _ in range(2))

    assert one.photos == len(opened)
    assert 0 < one.rate == other.rate
    np.testing.assert_array_equal(one.sample.codes, other.sample.codes)


def test_large_collections_are_sampled_evenly(quantizer, monkeypatch):
    monkeypatch.setattr(confidences, "PHOTOS", 50)
    monkeypatch.setattr(confidences, "QUERIES", 20)
    held, _ = collection_of(200, quantizer)
    calibration = learned([held], quantizer)

    assert calibration.photos == 200
    assert len(calibration.sample) == 50
    np.testing.assert_array_equal(
        calibration.sample.codes[REGIONS : 2 * REGIONS], held.codes[4 * REGIONS : 5 * REGIONS]
    )
