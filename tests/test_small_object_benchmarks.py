"""The benchmarks behind the defaults for small objects: their rules, their rows, and the collections that they keep."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from udq.common.progress import silent
from udq.config import PRESETS, IndexConfig

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
QUICK = {
    "images": {"shorter": 96, "longer": 128},
    "sample": {"regions": 1500},
    "quantizer": {"dimensions": 64, "iterations": 1},
    "training": {"enabled": False},
}


@pytest.fixture
def scripts(monkeypatch):
    """The folders of the benchmarks as places to import from."""
    for folder in (FOLDER, FOLDER / "speed", FOLDER / "decisions"):
        monkeypatch.syspath_prepend(folder)


@pytest.fixture
def localisation(scripts):
    import localisation

    return localisation


@pytest.fixture
def views(scripts):
    import views

    return views


@pytest.fixture
def visible(scripts):
    import visible

    return visible


@pytest.fixture
def detail(scripts):
    import detail

    return detail


@pytest.fixture
def covers(scripts, photos, tmp_path):
    """A development set: two views of a motorcycle and two other photos."""
    from accuracy import sets

    folder = tmp_path / "data" / "covers_dev"
    (folder / "images").mkdir(parents=True)
    for name in ("views/motorcycle_left.png", "views/motorcycle_right.png", "coffee.png", "rocket.png"):
        shutil.copy(photos / name, folder / "images")
    (folder / "ground_truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives,positive_boxes,object\n"
        "motorcycle_right.png,47,20,628,451,motorcycle_left.png,80 40 680 470,motorcycle\n"
    )
    return sets.load(tmp_path / "data", ["covers_dev"], tmp_path / "sets")[0]


@pytest.fixture
def setup(scripts, tmp_path):
    from accuracy.measure import Setup

    return Setup(IndexConfig().replace(QUICK), (), None, None, "cpu", tmp_path / "features")


def test_a_kept_collection_has_the_figures_of_the_accuracy_benchmark(scripts, covers, setup, tmp_path):
    from accuracy import measure

    expected = measure.measure(covers, setup, seed=0, progress=silent)
    for _ in range(2):
        collection, workers = measure.kept(covers, setup, tmp_path / "kept", seed=0, progress=silent)
        queries = measure.protocol_queries(covers, collection)
        summary = measure.summary_of(collection, queries, measure.describe(workers, queries, silent))
        assert summary["mAP"] == expected.figures["mAP"]
        assert summary["localisation"]["top_20"]["mean_iou"] == expected.figures["mean IoU"]
        assert [path.name for path in (tmp_path / "kept").iterdir()] == [collection.path.name]
    other, _ = measure.kept(covers, setup, tmp_path / "kept", seed=1, progress=silent)
    assert other.path != collection.path


def test_the_rule_of_the_localisation_benchmark_is_that_of_a_search(localisation, scripts, covers, setup, tmp_path):
    from accuracy.measure import measure

    cases = list(localisation.cases(covers, setup, tmp_path / "kept"))

    expected = measure(covers, setup, seed=0, progress=silent).figures["mean IoU"]
    assert localisation.mean_iou(localisation.rule, cases) == pytest.approx(expected, abs=1e-6)
    assert [case.truth for case in cases] == [(80, 40, 680, 470)]


def test_simpler_rules(localisation):
    boxes = np.array([[0, 0, 60, 60], [10, 20, 80, 70], [30, 30, 100, 200]])
    equal, second = np.zeros(3, np.float32), np.array([0.5, 0.25, 9.0], np.float32)

    assert localisation.best(second, boxes, True).tolist() == [10, 20, 80, 70]
    # Equal weights: two thirds reach 0.35 from the left and 0.65 from the right at the second edge.
    assert localisation.quantiles(equal, boxes, False).tolist() == [10, 20, 80, 70]
    # By rank the weights are 1, 0.71 and 0.58: of 2.28, the first has 0.44, and the first two 0.75.
    assert localisation.quantiles(equal, boxes, True).tolist() == [0, 0, 80, 70]


def test_constants_are_changed_for_a_while(localisation):
    from udq.search import localisation as own

    names = [name for name, _, _ in localisation.CHANGES]
    before = [getattr(own, name) for name in names]
    for name, _, values in localisation.CHANGES:
        for value in values:
            assert value != getattr(own, name)
            with localisation.changed(name, value):
                assert getattr(own, name) == value
    assert [getattr(own, name) for name in names] == before


def test_a_box_is_enlarged_within_its_photo(views):
    assert views.enlarged((20.0, 30.0, 120.0, 80.0), 0.1, (200, 200)) == (10, 25, 130, 85)
    assert views.enlarged((5.0, 0.0, 105.0, 95.0), 0.1, (110, 100)) == (0, 0, 110, 100)


def test_one_choice_is_the_default(views):
    from udq.features import extractor

    default = IndexConfig().images.query_views, extractor.QUERY_SIDE, 0.0
    assert [choice.name for choice in views.CHOICES if choice[1:] == default] == ["192 and 384: default"]
    with views.query_side(128):
        assert extractor.QUERY_SIDE == 128
    assert default[1] == extractor.QUERY_SIDE


def test_rows_of_the_curve_differ_in_views(detail):
    rows = detail.settings()

    assert len({detail.key(row, "12 MP") for row in rows}) == len(rows)
    assert {PRESETS[name].images.smallest for name in ("default", "fine")} < {row.smallest for row in rows}
    assert [row.views(detail.SIZES["12 MP"])[-1] for row in rows] == [1, 2, 3.08, 4, 6.15, 8]
    for size in detail.SIZES:
        assert detail.key(detail.Setting(40), size) == detail.key(detail.Setting(28), size) == detail.key(rows[0], size)
        assert detail.key(detail.Setting(8), size) == detail.key(detail.Setting(10), size)
    fine = next(row for row in rows if row.smallest == 5)
    assert detail.key(fine, "1 MP") == detail.key(rows[1], "1 MP") != detail.key(rows[0], "1 MP")


def test_photos_of_the_curve_have_their_size(detail, photos, tmp_path):
    from PIL import Image

    made = detail.enlarged(photos, (330, 240), 3, tmp_path / "large")

    assert len(made) == 3
    sizes = [Image.open(source.path).size for source in made]
    assert set(sizes) <= {(330, 240), (240, 330)}


@pytest.mark.parametrize("side", [67, 134, 190])
def test_a_cut_out_has_the_stated_side_in_each_way(visible, photos, side):
    import itertools

    from PIL import Image

    photo = Image.new("RGB", (400, 300), (0, 0, 255))
    photo.paste((255, 0, 0), (50, 60, 250, 220))
    cut = visible.CutOut("red.png", (50, 60, 250, 220))
    frames = itertools.repeat(Image.new("RGB", visible.FRAME, (0, 255, 0)))

    for name, way in visible.WAYS.items():
        seen, box = way(photo, cut, side, (frame.copy() for frame in frames))
        assert ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5 == pytest.approx(side, abs=3), name
        pixels = np.asarray(seen).astype(int)
        assert 0 <= box[0] < box[2] <= seen.width
        assert 0 <= box[1] < box[3] <= seen.height
        x1, y1, x2, y2 = (round(edge) for edge in box)
        assert (np.abs(pixels[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4] - [255, 0, 0]) <= 2).all(), name
        outside = [0, 0, 255] if name == "in its own photo" else [0, 255, 0]
        pixels[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = outside
        assert (np.abs(pixels - outside) <= 2).all(), name
