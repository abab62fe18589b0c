"""Verification: recovers a known homography and rejects photos of other objects."""

from __future__ import annotations

import builtins
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from udq import Collection, datasets
from udq.config import IndexConfig
from udq.errors import DependencyError, ImageError, InputError
from udq.evaluation.metrics import intersection_over_union
from udq.keypoints import geometry, sift
from udq.keypoints.matching import match
from udq.photos.sandbox import Decoder
from udq.reports import match_lines, sheet
from udq.search.ranking import merged
from udq.search.rerank import verify
from udq.search.rerank.verifier import Candidate, Verifier
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
    (found,) = cup.verify([Candidate(moved)])

    true = geometry.projected(MOVED, geometry.corners(CUP))
    assert found.inliers > 40
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
    around, beside = cup.verify(
        [Candidate(moved, (150.0, 100.0, 500.0, 450.0)), Candidate(moved, (0.0, 0.0, 60.0, 60.0))]
    )

    assert around.polygon == pytest.approx(geometry.projected(MOVED, geometry.corners(CUP)), abs=1.5)
    assert beside is None


def test_the_same_photo_stays_where_it_is(cup, photos):
    (found,) = cup.verify([Candidate(photos / "coffee.png", CUP)])

    assert found.polygon == pytest.approx(geometry.corners(CUP), abs=2)
    assert found.inliers > 100


def test_two_views_of_one_scene_are_verified_and_others_are_not(photos):
    verifier = Verifier(photos / "views" / "motorcycle_left.png", (150, 100, 600, 420))
    others = [photos / f"{name}.png" for name in ("astronaut", "brick", "chelsea", "page")]

    right, *wrong = verifier.verify([Candidate(path) for path in (photos / "views" / "motorcycle_right.png", *others)])

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

    file = tmp_path / "turned.jpg"
    whole, near = cup.verify([Candidate(file), Candidate(file, (150.0, 100.0, 500.0, 450.0))])

    true = geometry.projected(MOVED, geometry.corners(CUP))
    assert whole.polygon == pytest.approx(true, abs=1.5)
    assert near.polygon == pytest.approx(true, abs=1.5)


def test_an_object_that_is_upside_down_is_verified_and_a_mirrored_one_is_not(cup, photos, tmp_path):
    coffee = Image.open(photos / "coffee.png")
    coffee.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png")
    coffee.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")

    turned, mirrored = cup.verify([Candidate(tmp_path / "turned.png"), Candidate(tmp_path / "mirrored.png")])

    assert turned.polygon == pytest.approx(np.array([coffee.size]) - geometry.corners(CUP), abs=2)
    assert mirrored is None
    (found,) = Verifier(photos / "coffee.png", CUP, mirrored=True).verify([Candidate(tmp_path / "mirrored.png")])
    flipped = geometry.corners(CUP) * (-1, 1) + (coffee.width, 0)
    assert found.polygon == pytest.approx(flipped, abs=2)
    assert found.query_points * (-1, 1) + (coffee.width, 0) == pytest.approx(found.photo_points, abs=10)
    x1, y1, x2, y2 = CUP
    assert found.box == pytest.approx((coffee.width - x2, y1, coffee.width - x1, y2), abs=2)


def test_a_photo_that_is_gone_or_broken_is_not_verified(cup, photos, moved, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "words.png").write_text("no photo")
    whole = (photos / "coffee.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    names = ("gone.jpg", "empty.jpg", "words.png", "cut.png", "")
    outside = Candidate(photos / "coffee.png", (5000.0, 5000.0, 6000.0, 6000.0))

    *broken, fine = cup.verify([*(Candidate(tmp_path / name) for name in names), outside, Candidate(moved)])

    assert broken == [None] * 6
    assert fine.inliers > 40
    assert cup.verify([]) == []


def test_a_plain_photo_has_nothing_to_match(cup, tmp_path):
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "grey.png")
    Image.new("RGB", (1, 1), "grey").save(tmp_path / "dot.png")

    assert cup.verify([Candidate(tmp_path / "grey.png"), Candidate(tmp_path / "dot.png")]) == [None, None]
    assert Verifier(tmp_path / "grey.png").verify([Candidate(tmp_path / "grey.png")]) == [None]
    assert Verifier(tmp_path / "dot.png").verify([Candidate(tmp_path / "grey.png")]) == [None]


def test_results_are_deterministic_for_any_number_of_threads(photos, moved):
    places = [Candidate(moved), Candidate(photos / "coffee.png", CUP), Candidate(photos / "china.png")]
    before = cv2.getNumThreads()

    one, four, again = (Verifier(photos / "coffee.png", CUP).verify(places, threads=n) for n in (1, 3, 3))

    assert all(map(same, one, four))
    assert all(map(same, one, again))
    assert cv2.getNumThreads() == before


def test_a_large_photo_is_found_at_its_own_scale(cup, photos, tmp_path):
    large = Image.open(photos / "coffee.png").convert("RGB").resize((3600, 2400), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=90)
    box = tuple(6.0 * side for side in CUP)

    whole, near = cup.verify([Candidate(tmp_path / "large.jpg"), Candidate(tmp_path / "large.jpg", box)])

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

    with pytest.raises(DependencyError, match=r"^local features need OpenCV; run: pip install opencv"):
        Verifier(photos / "coffee.png")


def test_without_sift_it_says_what_to_install(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", builtins)

    with pytest.raises(DependencyError, match="OpenCV"):
        sift.require()


def test_matches_are_mutual_and_no_feature_occurs_twice(cup, photos):
    pairs = match(cup.features, cup.features)

    assert len(pairs) > 100
    assert np.array_equal(pairs[:, 0], pairs[:, 1])
    assert len(np.unique(pairs[:, 0])) == len(pairs)
    assert np.linalg.norm(cup.features.descriptors, axis=1) == pytest.approx(1, abs=1e-5)


def test_coverage_raises_a_score_and_boxes_are_merged(cup, moved):
    (found,) = cup.verify([Candidate(moved)])

    scores = [verify.raised(2.0, cells / 36) for cells in range(1, 37)]
    assert scores == sorted(scores)
    assert scores[0] > 2.0
    assert 0.5 < found.coverage <= 1
    assert merged(found.box, found) == pytest.approx(found.box)
    assert merged((0.0, 0.0, 1.0, 1.0), found, share=0.5)[2] == pytest.approx((1 + found.box[2]) / 2)


def test_a_picture_shows_lines_and_the_polygon(cup, photos, moved, tmp_path):
    (found,) = cup.verify([Candidate(moved)])

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


@pytest.fixture(scope="module")
def indexed(photos, moved, tmp_path_factory):
    """A collection of the test photos and the moved cup, with local features, and one without."""
    folder = tmp_path_factory.mktemp("indexed")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(moved, folder / "photos" / "moved.png")
    with Image.open(photos / "coffee.png") as coffee:
        coffee.transpose(Image.Transpose.ROTATE_90).save(folder / "photos" / "rotated.png")
        coffee.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "photos" / "mirrored.png")
    quick = {"quantizer": {"dimensions": 64, "iterations": 1}, "training": {"enabled": False}}
    return tuple(
        Collection.build(
            folder / "photos",
            folder / f"{most}.udq",
            config=IndexConfig().replace({**quick, "keypoints": {"most": most}}),
            device="cpu",
        )
        for most in (400, 0)
    )


def test_stored_local_features_verify_without_the_photos(indexed, photos, monkeypatch):
    stored, _ = indexed
    monkeypatch.setattr(Decoder, "load_window", None)  # a photo that was decoded would be an error
    found = stored.search(photos / "coffee.png", CUP, k=20)
    matches = {match.image: match for match in found.matches}

    assert found.rerank == ("verify", "verified-qe", "diffusion")
    true = geometry.projected(MOVED, geometry.corners(CUP))
    assert matches["moved.png"].verified.polygon == pytest.approx(true, abs=4)
    assert matches["moved.png"].confidence > 0.95
    assert {match.image for match in found.matches[:3]} == {"coffee.png", "moved.png", "rotated.png"}
    assert matches["rocket.png"].verified is None


def test_the_ranking_by_codes_is_asked_for_by_no_stages(indexed, photos):
    stored, without = indexed
    plain = stored.search(photos / "coffee.png", CUP, k=20, rerank=[])

    assert plain.rerank == ()
    assert [match.distance for match in plain.matches] == sorted(match.distance for match in plain.matches)
    assert all(match.verified is None for match in plain.matches)
    default = without.search(photos / "coffee.png", CUP, k=20)
    assert default.rerank == ()
    assert [match.image for match in default.matches] == [match.image for match in plain.matches]


def test_a_collection_without_local_features_is_verified_by_its_photos(indexed, photos):
    _, without = indexed
    found = without.search(photos / "coffee.png", CUP, k=20, rerank=["verify"])

    verified = {match.image: match.verified for match in found.matches if match.verified}
    assert verified["moved.png"].inliers > 30
    assert "rotated.png" in verified


def test_mirror_images_are_found_where_they_are_asked_for(indexed, photos, udq):
    stored, _ = indexed
    command = "search", stored.path, photos / "coffee.png", "--box", ",".join(map(str, CUP)), "-k", 20, "--json"
    points = []
    for options in ((), ("--turned",)):
        code, out, _ = udq(*command, *options)
        assert code == 0
        points.append({match["image"]: match["inliers"] for match in json.loads(out)["matches"]})

    assert points[0]["mirrored.png"] is None or points[0]["mirrored.png"] < 10
    assert points[1]["mirrored.png"] > 30
    code, _, err = udq(*command, "--turned", "--rerank", "diffusion")
    assert (code, err.count("\n")) == (2, 1)


def test_votes_bring_photos_that_the_codes_rank_far_behind(indexed, photos, monkeypatch):
    stored, _ = indexed
    monkeypatch.setattr(verify, "DEPTH", 1)
    found = stored.search(photos / "coffee.png", CUP, k=20, rerank=["verify"])

    verified = {match.image for match in found.matches if match.verified}
    assert {"moved.png", "rotated.png"} <= verified


def test_evaluation_verifies_as_a_search_does(indexed, tmp_path):
    stored, _ = indexed
    (tmp_path / "truth.csv").write_text(
        f"query_image,x1,y1,x2,y2,positives\ncoffee.png,{','.join(map(str, CUP))},moved.png|rotated.png\n"
    )
    truth = datasets.load("boxes", tmp_path / "truth.csv")

    report = stored.evaluate(truth).report

    assert report["rerank"] == ["verify", "verified-qe", "diffusion"]
    assert report["mAP"] == 1
