"""Verification: recovers a known homography and rejects photos of other objects."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq.errors import DependencyError, ImageError, InputError
from udq.evaluation.metrics import intersection_over_union
from udq.reports import match_lines, sheet
from udq.search.rerank import geometry, local_features, verify
from udq.search.rerank.verifier import LEAST, Verifier
from udq.types import Verification

cv2 = pytest.importorskip("cv2")

# The cup with its saucer in coffee.png.
CUP = (140.0, 20.0, 480.0, 380.0)
# Scaled down, rotated by 25 degrees, with some perspective.
_C, _S = 0.8 * np.cos(np.deg2rad(25)), 0.8 * np.sin(np.deg2rad(25))
MOVED = np.array([[_C, -_S, 180.0], [_S, _C, -20.0], [1e-4, 2e-4, 1.0]])


@pytest.fixture(scope="module")
def moved(photos, tmp_path_factory):
    """coffee.png, transformed by a known homography."""
    file = tmp_path_factory.mktemp("moved") / "moved.png"
    pixels = np.asarray(Image.open(photos / "coffee.png").convert("RGB"))
    # Coordinate 0 is the centre of the first pixel for OpenCV, and its edge for us.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    warped = cv2.warpPerspective(pixels, np.linalg.inv(half) @ MOVED @ half, (640, 480), borderValue=(90, 90, 90))
    Image.fromarray(warped).save(file)
    return file


@pytest.fixture(scope="module")
def cup(photos):
    return Verifier(photos / "coffee.png", CUP)


def same(one: Verification | None, other: Verification | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = ("homography", "polygon", "query_points", "photo_points")
    return one.box == other.box and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


def test_a_known_homography_is_recovered(cup, moved):
    (found,) = cup.verify([(moved, None)])

    true = geometry.projected(MOVED, geometry.corners(CUP))
    assert found.inliers > 50
    assert found.polygon == pytest.approx(true, abs=1.5)
    assert geometry.projected(MOVED, found.query_points) == pytest.approx(found.photo_points, abs=10)
    assert np.median(np.abs(geometry.projected(MOVED, found.query_points) - found.photo_points)) < 0.5
    round_ = np.linspace(0, 2 * np.pi, 100)
    ellipse = np.column_stack([310 + 170 * np.cos(round_), 200 + 180 * np.sin(round_)])
    there = geometry.projected(MOVED, ellipse)
    upright = (*there.min(axis=0).clip(0).tolist(), *np.minimum(there.max(axis=0), (640, 480)).tolist())
    assert intersection_over_union(found.box, upright) > 0.95
    assert (found.homography.shape, found.homography.dtype) == ((3, 3), np.float64)
    assert found.polygon.dtype == found.query_points.dtype == found.photo_points.dtype == np.float32
    assert found.query_points.shape == found.photo_points.shape == (found.inliers, 2)
    assert not found.polygon.flags.writeable


def test_the_object_is_searched_for_around_the_box(cup, moved):
    around, beside = cup.verify([(moved, (150.0, 100.0, 500.0, 450.0)), (moved, (0.0, 0.0, 60.0, 60.0))])

    assert around.polygon == pytest.approx(geometry.projected(MOVED, geometry.corners(CUP)), abs=1.5)
    assert beside is None


def test_the_same_photo_stays_where_it_is(cup, photos):
    (found,) = cup.verify([(photos / "coffee.png", CUP)])

    assert found.polygon == pytest.approx(geometry.corners(CUP), abs=2)
    assert found.inliers > 100


def test_two_views_of_one_scene_are_verified_and_others_are_not(photos):
    verifier = Verifier(photos / "views" / "motorcycle_left.png", (150, 100, 600, 420))
    others = [photos / f"{name}.png" for name in ("astronaut", "brick", "chelsea", "page")]

    right, *wrong = verifier.verify([(path, None) for path in (photos / "views" / "motorcycle_right.png", *others)])

    assert right.inliers > 30
    assert wrong == [None] * len(others)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_pixels_are_those_a_viewer_shows(cup, photos, moved, tmp_path, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    # As a camera in that orientation stores the photo.
    Image.open(moved).transpose(turns[orientation]).save(tmp_path / "turned.jpg", quality=95, exif=exif)

    whole, near = cup.verify([(tmp_path / "turned.jpg", None), (tmp_path / "turned.jpg", (150.0, 100.0, 500.0, 450.0))])

    true = geometry.projected(MOVED, geometry.corners(CUP))
    assert whole.polygon == pytest.approx(true, abs=1.5)
    assert near.polygon == pytest.approx(true, abs=1.5)


def test_an_object_that_is_upside_down_is_verified_and_a_mirrored_one_is_not(cup, photos, tmp_path):
    coffee = Image.open(photos / "coffee.png")
    coffee.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png")
    coffee.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")

    turned, mirrored = cup.verify([(tmp_path / "turned.png", None), (tmp_path / "mirrored.png", None)])

    assert turned.polygon == pytest.approx(np.array([coffee.size]) - geometry.corners(CUP), abs=2)
    assert mirrored is None


def test_a_photo_that_is_gone_or_broken_is_not_verified(cup, photos, moved, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "words.png").write_text("no photo")
    whole = (photos / "coffee.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    names = ("gone.jpg", "empty.jpg", "words.png", "cut.png", "")
    outside = (photos / "coffee.png", (5000.0, 5000.0, 6000.0, 6000.0))

    *broken, fine = cup.verify([*((tmp_path / name, None) for name in names), outside, (moved, None)])

    assert broken == [None] * 6
    assert fine.inliers > 50
    assert cup.verify([]) == []


def test_a_plain_photo_has_nothing_to_match(cup, tmp_path):
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "grey.png")
    Image.new("RGB", (1, 1), "grey").save(tmp_path / "dot.png")

    assert cup.verify([(tmp_path / "grey.png", None), (tmp_path / "dot.png", None)]) == [None, None]
    assert Verifier(tmp_path / "grey.png").verify([(tmp_path / "grey.png", None)]) == [None]
    assert Verifier(tmp_path / "dot.png").verify([(tmp_path / "grey.png", None)]) == [None]


def test_results_are_deterministic_for_any_number_of_threads(photos, moved):
    places = [(moved, None), (photos / "coffee.png", CUP), (photos / "china.png", None)]
    before = cv2.getNumThreads()

    one, four, again = (Verifier(photos / "coffee.png", CUP).verify(places, threads=n) for n in (1, 3, 3))

    assert all(map(same, one, four))
    assert all(map(same, one, again))
    assert cv2.getNumThreads() == before


def test_a_large_photo_is_found_at_its_own_scale(cup, photos, tmp_path):
    large = Image.open(photos / "coffee.png").convert("RGB").resize((3600, 2400), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    box = tuple(6.0 * side for side in CUP)

    whole, near = cup.verify([(tmp_path / "large.jpg", None), (tmp_path / "large.jpg", box)])

    assert whole.polygon == pytest.approx(6 * geometry.corners(CUP), abs=6)
    assert near.polygon == pytest.approx(6 * geometry.corners(CUP), abs=6)


def test_an_invalid_query_is_an_error(photos, tmp_path):
    with pytest.raises(InputError, match="no such photo"):
        Verifier(tmp_path / "gone.png")
    with pytest.raises(InputError, match="inside the photo"):
        Verifier(photos / "coffee.png", (0, 0, 5000, 10))
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="empty file"):
        Verifier(tmp_path / "empty.jpg")
    with pytest.raises(ValueError, match="3 or more"):
        Verifier(photos / "coffee.png", least=2)


def test_without_opencv_it_says_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)

    with pytest.raises(DependencyError, match=r"^verifying matches needs OpenCV; run: pip install 'udq\[verify\]'$"):
        Verifier(photos / "coffee.png")


def test_without_sift_it_says_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", builtins)

    with pytest.raises(DependencyError, match="udq"):
        local_features.require()


def test_matches_are_mutual_and_no_feature_occurs_twice(cup, photos):
    pairs = local_features.match(cup.features, cup.features)

    assert len(pairs) > 100
    assert np.array_equal(pairs[:, 0], pairs[:, 1])
    assert len(np.unique(pairs[:, 0])) == len(pairs)
    assert np.linalg.norm(cup.features.descriptors, axis=1) == pytest.approx(1, abs=1e-5)


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
    query = local_features.LocalFeatures(start, sizes.astype(np.float32), angles.astype(np.float32), descriptors, 1.0)
    photo = local_features.LocalFeatures(
        end, (scale * sizes).astype(np.float32), moved.astype(np.float32), descriptors, 1.0
    )
    pairs = np.stack([np.arange(count)] * 2, axis=1)

    found = geometry.agreeing(query, photo, pairs, 566.0)

    assert set(range(right)) <= set(found[:, 0].tolist())
    box = (0.0, 0.0, 400.0, 400.0)
    homography, near = geometry.fit(start[:right], end[:right], box, 1.0)
    assert near.all()
    assert geometry.projected(homography, start[:right]) == pytest.approx(end[:right], abs=0.5)
    assert geometry.possible(homography, box)


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


def test_inliers_raise_a_score_and_boxes_are_merged(cup, moved):
    (found,) = cup.verify([(moved, None)])

    assert verify.raised(2.0, 0) == verify.raised(2.0, LEAST - 1) == 2.0
    scores = [verify.raised(2.0, inliers) for inliers in range(LEAST, LEAST + 50)]
    assert scores == sorted(scores)
    assert scores[0] > 2.0
    assert verify.merged(found.box, found) == pytest.approx(found.box)
    assert verify.merged((0.0, 0.0, 1.0, 1.0), found, share=0.5)[2] == pytest.approx((1 + found.box[2]) / 2)


def test_the_box_of_a_rotated_polygon_excludes_its_corners():
    diamond = np.array([[50.0, 0.0], [100.0, 50.0], [50.0, 100.0], [0.0, 50.0]])
    upright = np.array([[10.0, 20.0], [60.0, 20.0], [60.0, 90.0], [10.0, 90.0]])
    half = 50 / np.sqrt(2)

    assert geometry.upright(diamond, 200, 200) == pytest.approx((50 - half, 50 - half, 50 + half, 50 + half))
    assert geometry.upright(upright, 200, 200) == pytest.approx((10, 20, 60, 90))
    assert geometry.upright(upright, 40, 50) == pytest.approx((10, 20, 40, 50))
    assert geometry.upright(upright + 300, 200, 200) is None


def test_a_picture_shows_lines_and_the_polygon(cup, photos, moved, tmp_path):
    (found,) = cup.verify([(moved, None)])

    drawn = match_lines.draw(photos / "coffee.png", CUP, moved, found, height=240)
    sheet.save(drawn, tmp_path / "lines.png")

    assert drawn.size == (360 + 16 + 320, 240)
    assert Image.open(tmp_path / "lines.png").size == drawn.size
    gap = np.asarray(drawn)[:, 360:376].reshape(-1, 3)
    assert (gap != 255).any()  # a line crosses it
    colours = {colour for _, colour in drawn.getcolors(1 << 24)}
    assert {(0x3D, 0x9C, 0xFF), (0xFF, 0xE1, 0x4D)} <= colours
    with pytest.raises(ImageError):
        match_lines.draw(photos / "coffee.png", CUP, tmp_path / "gone.png", found)
