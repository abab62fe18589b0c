"""The photos of the demonstration: their ground truth, placements, determinism and errors."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from udq.errors import DependencyError, InputError, UdqError
from udq.types import Box

if not all(importlib.util.find_spec(name) for name in ("skimage", "sklearn")):
    pytest.skip('needs pip install "udq[demo]"', allow_module_level=True)

from udq.experiments.demo import compose as composing
from udq.experiments.demo import cutouts
from udq.experiments.demo.compose import PHOTO_COUNT, compose
from udq.experiments.demo.cutouts import BACKDROPS, DISTRACTORS, GROUNDS, OBJECTS, PHOTOS, STEREO
from udq.experiments.demo.studio import ScenePlan, Studio

Row = dict[str, str]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    calls = []
    assert compose(folder, on_photo=lambda: calls.append(1)) == folder / "ground_truth.csv"
    assert len(calls) == PHOTO_COUNT
    return folder


@pytest.fixture(scope="module")
def rows(demo: Path) -> list[Row]:
    with (demo / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "_SINGLES", 1)
    monkeypatch.setattr(composing, "_EMPTY", 2)


def _positives(row: Row) -> dict[str, Box]:
    boxes = [tuple(map(float, box.split())) for box in row["positive_boxes"].split("|")]
    return dict(zip(row["positives"].split("|"), boxes, strict=True))  # type: ignore[arg-type]


def _query_box(row: Row) -> Box:
    return (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))


def test_writes_the_promised_photos_and_queries(demo: Path, rows: list[Row]) -> None:
    assert len(list((demo / "photos").iterdir())) == PHOTO_COUNT
    assert 120 <= PHOTO_COUNT <= 160
    assert sorted(path.name for path in demo.iterdir()) == ["ground_truth.csv", "photos"]
    assert list(rows[0]) == ["query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes"]
    for name in OBJECTS:
        of_object = [row for row in rows if row["object"] == name]
        assert 2 <= len(of_object) <= 3
        assert {len(_positives(row)) for row in of_object} <= {8, 9}


def test_boxes_are_inside_photos_that_exist(demo: Path, rows: list[Row]) -> None:
    sizes = {}
    for path in (demo / "photos").iterdir():
        with Image.open(path) as opened:
            sizes[path.name] = opened.size
    for row in rows:
        positives = _positives(row)
        assert row["query_image"] not in positives
        for name, (x1, y1, x2, y2) in [(row["query_image"], _query_box(row)), *positives.items()]:
            width, height = sizes[name]
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            if name.startswith("scene"):
                assert 0.035 <= (x2 - x1) * (y2 - y1) / (width * height) <= 0.45


def test_two_queries_of_an_object_agree(rows: list[Row]) -> None:
    for name in OBJECTS:
        shown = [{row["query_image"]: _query_box(row), **_positives(row)} for row in rows if row["object"] == name]
        assert all(other == shown[0] for other in shown)


def test_contains_the_second_view_of_the_stereo_pair(rows: list[Row]) -> None:
    thing, other_view, box = STEREO
    query = next(row for row in rows if row["query_image"] == "motorcycle_left.jpg")
    assert query["object"] == thing
    assert _positives(query)[f"{other_view}.jpg"] == box
    # The camera moved sideways: the bike is further left, by its disparity (30 to 60 px in the shipped data), and at
    # the same height.
    left = np.array(_query_box(query))
    assert np.all((left - box)[[0, 2]] > 30)
    assert np.all((left - box)[[0, 2]] < 60)
    assert np.allclose(left[[1, 3]], np.array(box)[[1, 3]], atol=3)


def test_originals_are_positives_with_their_own_box(rows: list[Row]) -> None:
    for name, cutout in OBJECTS.items():
        row = next(row for row in rows if row["object"] == name)
        assert row["query_image"] == f"{cutout.photo}.jpg"
        assert _query_box(row) == tuple(map(float, cutouts.cut(cutout).getchannel("A").point(
            lambda value: 255 if value > 127 else 0).getbbox() or ()))  # fmt: skip


def test_same_seed_same_bytes(tmp_path: Path, small: None) -> None:
    first, again = (compose(tmp_path / name, seed=3) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    assert b"\r" not in first.read_bytes()
    for path in (tmp_path / "a" / "photos").iterdir():
        one, two = (np.asarray(Image.open(file)) for file in (path, tmp_path / "b" / "photos" / path.name))
        assert np.array_equal(one, two)


def test_another_seed_plans_other_photos() -> None:
    assert composing._plan(np.random.default_rng(3)) == composing._plan(np.random.default_rng(3))
    assert composing._plan(np.random.default_rng(3)) != composing._plan(np.random.default_rng(4))


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_box_is_what_is_visible(studio: Studio, seed: int, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box of a magenta object on a background without magenta must enclose the magenta pixels."""
    thing = Image.new("RGBA", (300, 220))
    ImageDraw.Draw(thing).ellipse((0, 0, 299, 219), fill=(255, 0, 255, 255))
    monkeypatch.setitem(studio._things, "cat", thing)
    grey = BACKDROPS.index(("moon", 0, 0, 512, 512))
    plan = ScenePlan(("cat",), hidden, False, grey, None)
    photo, placements = studio.compose(plan, "p.jpg", np.random.default_rng(seed))
    [(name, placement)] = placements
    assert (name, placement.photo, placement.whole) == ("cat", "p.jpg", not hidden)
    red, green, blue = np.moveaxis(np.asarray(photo, np.int16), 2, 0)
    magenta = (red - green > 60) & (blue - green > 60)
    rows, columns = (np.flatnonzero(magenta.any(axis=axis)) for axis in (1, 0))
    visible = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.allclose(visible, placement.box, atol=3)
    area = (visible[2] - visible[0]) * (visible[3] - visible[1])
    if not hidden:  # an ellipse fills most of its box, a rotated one somewhat less
        assert magenta.sum() > 0.55 * area


def test_an_occluder_hides_a_part_but_not_most_of_the_object(studio: Studio) -> None:
    for seed in range(4):
        bare, covered = (
            studio.compose(ScenePlan(("dahlia",), hidden, False, 8, None), "p.jpg", np.random.default_rng(seed))
            for hidden in (False, True)
        )
        whole, left = bare[1][0][1].box, covered[1][0][1].box
        area = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (whole, left)]
        assert all(a <= b for a, b in zip(whole[:2], left[:2], strict=True))
        assert all(a >= b for a, b in zip(whole[2:], left[2:], strict=True))
        assert 0.4 < area[1] / area[0] <= 1


def test_backdrops_show_no_object() -> None:
    """No piece of a scene overlaps an object in its own photo."""
    for name, *box in (*BACKDROPS, *GROUNDS):
        for cutout in OBJECTS.values():
            if cutout.photo == name:
                alpha = cutouts.cut(cutout).getchannel("A").crop(tuple(box))
                # A few pixels of a soft rim do not show an object.
                assert np.mean(np.asarray(alpha) > 127) < 0.002, (name, box)


def test_every_photo_is_shipped_and_used() -> None:
    for name in PHOTOS:
        assert cutouts.find(name).is_file()
    for thing, cutout in {**OBJECTS, **DISTRACTORS}.items():
        alpha = np.asarray(cutouts.cut(cutout).getchannel("A"))
        assert (alpha > 127).any(), thing
        assert (alpha == 0).any(), thing


def test_missing_packages_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r'pip install "udq\[demo\]"'):
        compose(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_files_in_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holiday\.jpg"):
        compose(tmp_path)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"mine"


def test_an_unwritable_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UdqError, match="cannot be written") as caught:
        compose(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_an_interrupted_run_leaves_no_ground_truth(tmp_path: Path) -> None:
    truth = tmp_path / "ground_truth.csv"
    truth.write_text("of an older run")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose(tmp_path, on_photo=stop)
    assert not truth.exists()
