"""Localisation: against plain loops, and by properties that hold for any photo."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from udq.common.progress import silent
from udq.errors import InputError
from udq.evaluation import benchmark
from udq.search.database import LocalDatabase
from udq.search.localisation import localise
from udq.store import segments


def overlap(one, other):
    """IoU of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, width) * max(0, height)
    return common / (area(one) + area(other) - common)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def quantiles(boxes, weights, share):
    """Each quantile is found from the smallest coordinate upwards."""
    found = []
    for edge, each in enumerate((share, share, 1 - share, 1 - share)):
        for candidate in sorted(box[edge] for box in boxes):
            below = sum(weight for weight, box in zip(weights, boxes, strict=True) if box[edge] <= candidate)
            if below >= each * sum(weights) * (1 - 1e-12):
                found.append(candidate)
                break
    return found


def by_hand(distance, boxes, ranked):
    """The box of one query in plain Python."""
    edges = list(zip(*boxes, strict=True))
    hull = [min(edges[0]), min(edges[1]), max(edges[2]), max(edges[3])]
    ordered = sorted(distance)
    place = 0.9 * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    most = low + (high - low) * (place - math.floor(place))
    weights = []
    for row, (d, box) in enumerate(zip(distance, boxes, strict=True)):
        weight = math.exp(-(d - min(distance)) / 0.1) / (math.sqrt(1 + row) if ranked else 1)
        weights.append(7.3 * math.exp(-(d - min(distance)) / 0.05 - most) if box == hull else weight)
    heaviest = sorted(range(len(boxes)), key=lambda row: -weights[row])[:16]
    support = [sum(overlap(boxes[i], box) * w for box, w in zip(boxes, weights, strict=True)) for i in heaviest]
    best = boxes[heaviest[support.index(max(support))]]
    near = [row for row in range(len(boxes)) if overlap(best, boxes[row]) >= 0.15]
    boxes, weights = [boxes[row] for row in near], [weights[row] for row in near]
    first = quantiles(boxes, weights, 0.35)
    found = quantiles(boxes, weights, 0.5 - 0.3 * (area(first) / area(hull)) ** 0.75)
    return found if found[0] < found[2] and found[1] < found[3] else first


def random_photo(seed, *, queries, regions):
    """Distances as unit features have them, and boxes of whole pixels with some edges in common."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (regions, 2))
    boxes = np.hstack([corner, corner + rng.integers(1, 40, (regions, 2))])
    return (0.3 + 1.5 * rng.random((queries, regions))).astype(np.float32), boxes.astype(np.float32)


photo = st.builds(random_photo, st.integers(0, 2**32 - 1), queries=st.integers(1, 3), regions=st.integers(1, 30))


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("regions", [1, 2, 7, 110])
@pytest.mark.parametrize("seed", range(5))
def test_equals_plain_loops(seed, regions, ranked):
    distance, boxes = random_photo(seed, queries=4, regions=regions)
    found = localise(distance, boxes, ranked=ranked)

    assert found.dtype == np.float32
    assert found.tolist() == [by_hand(row, boxes.tolist(), ranked) for row in distance.tolist()]


def test_by_hand():
    """Four regions round a small object, one far away, and the whole photo, in a photo of 100 x 100."""
    boxes = np.array(
        [[40, 40, 50, 50], [41, 41, 51, 51], [42, 42, 52, 52], [43, 43, 53, 53], [80, 80, 99, 99], [0, 0, 100, 100]]
    )
    near = np.array([[0.5, 0.5, 0.5, 0.5, 2.5, 2.5]], np.float32)  # four of weight 1, the others of e^-20 and less
    # The first estimate has a tenth of the side of the photo: 0.49 of 4 is reached by the second left edge, 0.51 of 4
    # by the third right one.
    assert localise(near, boxes, ranked=False).tolist() == [[41, 41, 52, 52]]
    # Weights 1, 0.71, 0.58, 0.5, together 2.78: 1.37 and 1.41 are reached by the second.
    assert localise(near, boxes, ranked=True).tolist() == [[41, 41, 51, 51]]


def test_a_photo_that_is_the_object_gets_the_whole_photo():
    parts = [[x, y, x + 40, y + 40] for x in (0, 30, 60) for y in (0, 30, 60)]
    boxes = np.array([*parts, [0, 0, 100, 100]], np.float32)
    same = np.full((1, 10), 0.6, np.float32)

    assert localise(same, boxes, ranked=True).tolist() == [[0, 0, 100, 100]]
    worse = np.array([[0.6] * 4 + [0.3] + [0.6] * 4 + [0.7]], np.float32)  # the window in the middle is better by far
    assert localise(worse, boxes, ranked=True).tolist() == [[30, 30, 70, 70]]


def test_one_region_is_the_box():
    box = np.array([[3, 4, 50, 60]], np.uint16)
    for ranked in (False, True):
        assert localise(np.array([[1.3], [0.0]], np.float32), box, ranked=ranked).tolist() == 2 * [[3, 4, 50, 60]]


@given(photo, st.booleans())
def test_boxes_are_not_empty_and_inside_the_hull_of_the_regions(photo, ranked):
    distance, boxes = photo
    found = localise(distance, boxes, ranked=ranked)

    assert found.shape == (len(distance), 4)
    assert (found[:, :2] < found[:, 2:]).all()
    assert (found[:, :2] >= boxes[:, :2].min(axis=0)).all()
    assert (found[:, 2:] <= boxes[:, 2:].max(axis=0)).all()


@given(photo, st.integers(0, 2**32 - 1))
def test_the_order_of_regions_does_not_matter_without_ranks(photo, seed):
    distance, boxes = photo
    assume(all(len(set(edge)) == len(edge) for edge in boxes.T.tolist()))  # equal edges may round otherwise
    shuffled = np.random.default_rng(seed).permutation(len(boxes))
    moved = localise(distance[:, shuffled], boxes[shuffled], ranked=False)

    assert (moved == localise(distance, boxes, ranked=False)).all()


@given(photo, st.booleans(), st.sampled_from([0.5, 2.0, 16.0]), st.integers(-50, 500), st.integers(-50, 500))
def test_a_photo_scaled_and_moved_scales_and_moves_its_box(photo, ranked, scale, right, down):
    distance, boxes = photo
    by = np.array([right, down, right, down], np.float32)
    moved = localise(distance, scale * boxes + by, ranked=ranked)

    assert (moved == scale * localise(distance, boxes, ranked=ranked) + by).all()


@given(photo, st.booleans())
def test_far_regions_do_not_matter(photo, ranked):
    distance, boxes = photo
    whole = np.array([[-500, -500, 900, 900]], np.float32)
    boxes, distance = np.vstack([boxes, whole]), np.hstack([distance, np.full((len(distance), 1), 3, np.float32)])
    far = np.full((len(distance), len(boxes) - 1), 500, np.float32)
    everywhere = boxes[:-1] + np.array([-300, 300, -200, 400], np.float32)
    found = localise(np.hstack([distance, far]), np.vstack([boxes, everywhere]), ranked=ranked)

    assert (found == localise(distance, boxes, ranked=ranked)).all()


@given(photo)
def test_one_query_is_as_many_at_once(photo):
    distance, boxes = photo
    together = localise(distance, boxes, ranked=True)

    for row, found in zip(distance, together, strict=True):
        assert (localise(row[None], boxes, ranked=True)[0] == found).all()


def test_inputs_are_not_changed():
    distance, boxes = random_photo(0, queries=2, regions=9)
    before = distance.copy(), boxes.copy()
    localise(distance, boxes, ranked=True)

    assert (distance == before[0]).all()
    assert (boxes == before[1]).all()


@pytest.mark.parametrize(("distance", "boxes"), [((3,), (3, 4)), ((2, 3), (2, 4)), ((2, 0), (0, 4)), ((1, 3), (3, 5))])
def test_shapes_that_do_not_fit_are_an_error(distance, boxes):
    with pytest.raises(InputError, match=r"expected distance \(Q, R\) and boxes \(R, 4\), found"):
        localise(np.zeros(distance, np.float32), np.ones(boxes), ranked=False)


def in_segments(segment, photos):
    """Cut a segment into several of at most ``photos`` photos each."""
    for first in range(0, len(segment.images), photos):
        offsets = segment.offsets[first : first + photos + 1]
        rows = slice(offsets[0], offsets[-1])
        images = segment.images[first : first + photos]
        photos_ = segment.photos[first : first + photos]
        removed = segment.removed[first : first + photos]
        yield segments.Segment(
            "", segment.codes[rows], segment.boxes[rows], offsets - offsets[0], images, photos_, removed
        )


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("photos_a_segment", [12, 5])
def test_the_box_of_a_match_comes_from_all_regions_of_its_photo(
    collection, photos, monkeypatch, ranked, photos_a_segment
):
    [whole] = collection.segments
    database = LocalDatabase(collection.model, tuple(in_segments(whole, photos_a_segment)), ranked)
    monkeypatch.setattr(collection, "_read", dataclasses.replace(collection._state, database=database))
    query, box = photos / "astronaut.png", (100, 10, 300, 250)
    found = collection.search(query, box, k=12)

    tables = collection.model.lookup_tables(collection.extractor.describe(query, box)[1])
    for match in found.matches:
        image = collection.names.index(match.image)
        rows = slice(whole.offsets[image], whole.offsets[image + 1])
        distance = sum(tables[m][whole.codes[rows, m]] for m in range(len(tables)))
        assert match.distance == pytest.approx(math.sqrt(distance.min()))
        assert match.box == tuple(localise(distance[None], whole.boxes[rows], ranked=ranked)[0])
    assert len(found.matches) == len(collection)


def test_real_valued_features_are_located_the_same_way(collection, monkeypatch):
    seen = []

    def recorded(distance, boxes, *, ranked, position):
        seen.append((distance, localise(distance, boxes, ranked=ranked, position=position), ranked))
        return seen[-1][1]

    monkeypatch.setattr(benchmark, "localise", recorded)
    features = np.random.default_rng(0).random((2, 1280)).astype(np.float32)
    rankings = list(benchmark._rank_real_valued(collection, features, silent))

    assert len(seen) == len(collection)
    for image, (distance, boxes, ranked) in enumerate(seen):
        assert ranked
        for query, ranking in enumerate(rankings):
            assert ranking.distance[image] == distance[query].min()
            assert ranking.box(image) == tuple(boxes[query])


def test_boxes_are_computed_for_reported_photos_only(collection, photos, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "udq.search.ranking.localise",
        lambda *given, ranked, position: calls.append(ranked) or localise(*given, ranked=ranked, position=position),
    )
    collection.search(photos / "coffee.png", k=3, rerank=[])

    assert calls == [True] * 3
