"""`python benchmarks/accuracy`: its table, its sets, and what it keeps between runs."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udq.errors import InputError, UdqError
from udq.features.device import Engine
from udq.features.extractor import Extractor

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
QUICK = (
    "[images]\nshorter = 96\nlonger = 128\n[sample]\nregions = 1500\n"
    "[quantizer]\ndimensions = 64\niterations = 1\n[training]\nenabled = false\n"
)


@pytest.fixture
def accuracy(monkeypatch):
    """The package of that name, with its modules."""
    monkeypatch.syspath_prepend(FOLDER)
    import accuracy
    import accuracy.__main__
    import accuracy.composites
    import accuracy.measure
    import accuracy.mosaic
    import accuracy.sets
    import accuracy.table

    return accuracy


@pytest.fixture
def data(photos, tmp_path):
    """A folder with one development set: two views of a motorcycle and two other photos."""
    folder = tmp_path / "data" / "covers_dev"
    (folder / "images").mkdir(parents=True)
    for name in ("motorcycle_left.png", "motorcycle_right.png"):
        shutil.copy(photos / "views" / name, folder / "images")
    for name in ("coffee.png", "rocket.png"):
        shutil.copy(photos / name, folder / "images")
    (folder / "ground_truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives,positive_boxes,object\n"
        "motorcycle_right.png,47,20,628,451,motorcycle_left.png,80 40 680 470,motorcycle\n"
    )
    (tmp_path / "quick.toml").write_text(QUICK)
    return tmp_path / "data"


@pytest.fixture
def run(accuracy, data, tmp_path, monkeypatch, capsys):
    """Run the benchmark on that set in this process -> stdout, stderr, JSON."""

    def run(*words):
        given = [data, "--sets", "covers_dev", "--config", tmp_path / "quick.toml", "--cache", tmp_path / "cache"]
        given += ["--json", tmp_path / "out.json", *words]
        monkeypatch.setattr(sys, "argv", ["accuracy", *map(str, given)])
        accuracy.__main__.run(accuracy.__main__.arguments())
        out, err = capsys.readouterr()
        return out, err, json.loads((tmp_path / "out.json").read_text())

    return run


def figures(ap, iou=None):
    return {"mAP": ap, "mP@1": 1.0, "mP@5": 0.5, "mean IoU": iou}


def test_means_and_spreads_over_seeds(accuracy):
    found = accuracy.table.over_seeds([figures(0.5, 0.25), figures(0.75, None), figures(0.625, 0.75)])

    assert found["means"] == {"mAP": 0.625, "mP@1": 1.0, "mP@5": 0.5, "mean IoU": 0.5}
    assert found["spread"] == {"mAP": 0.25, "mP@1": 0.0, "mP@5": 0.0, "mean IoU": 0.5}
    nothing = accuracy.table.over_seeds([figures(0.5)])
    assert (nothing["means"]["mean IoU"], nothing["spread"]["mean IoU"]) == (None, None)


def test_the_table_has_a_column_a_set_and_the_mean_last(accuracy):
    table = accuracy.table
    measured = {
        "covers": table.over_seeds([figures(0.5, 0.75)]),
        "places": table.over_seeds([figures(0.75)]),
        "logos": table.over_seeds([figures(0.1, 0.25)]),
    }
    baseline = {
        "covers": table.over_seeds([figures(0.25, 0.5)]),
        "places": table.over_seeds([figures(1.0, 0.5)]),  # its boxes are no longer known
        "paintings": table.over_seeds([figures(0.3, 0.3)]),
    }

    found = dict(table.rows(measured, None, seeds=1))
    assert list(found) == ["mAP", "mP@1", "mP@5", "mean IoU"]
    assert found["mAP"]["mean"] == pytest.approx(0.45)
    assert found["mean IoU"] == {"covers": 0.75, "places": None, "logos": 0.25, "mean": 0.5}

    lines = table.render(table.rows(measured, baseline, seeds=1), list(measured)).splitlines()
    assert lines[:4] == [
        "               covers   places    logos     mean",
        "mAP            0.5000   0.7500   0.1000   0.4500",
        "  baseline     0.2500   1.0000        -   0.6250",
        "  difference  +0.2500  -0.2500        -  +0.0000",
    ]
    assert lines[-3:] == [
        "mean IoU       0.7500        -   0.2500   0.5000",
        "  baseline     0.5000        -        -   0.5000",
        "  difference  +0.2500        -        -  +0.2500",
    ]


def by_size(**classes):
    """Figures of a run by size of the object: mAP, mean IoU and positives of some classes."""
    found = dict.fromkeys(("below_1", "1_to_5", "5_to_20", "above_20"), (None, None, 0)) | classes
    return {
        key: {"queries": 1, "positives": count, "mAP": ap, "localisation": {"top_20": {"mean_iou": iou}}}
        for key, (ap, iou, count) in found.items()
    }


def test_the_table_by_size_has_the_classes_of_some_set(accuracy):
    seeds = [by_size(below_1=(0.5, 0.25, 1500), above_20=(1.0, None, 3)), by_size(below_1=(0.25, 0.5, 1500))]
    measured = {"tiny": seeds, "places": [None, None], "covers": [by_size(below_1=(0.75, 0.125, 2))] * 2}
    seeds[1]["above_20"] = seeds[0]["above_20"]

    rows = accuracy.table.size_rows(measured)

    assert accuracy.table.render(rows, list(measured)).splitlines() == [
        "                    tiny   places   covers     mean",
        "mAP, below 1 %    0.3750        -   0.7500   0.5625",
        "  mean IoU        0.3750        -   0.1250   0.2500",
        "  positives        1,500        -        2        -",
        "mAP, above 20 %   1.0000        -        -   1.0000",
        "  mean IoU             -        -        -        -",
        "  positives            3        -        -        -",
    ]
    assert accuracy.table.size_rows({"places": [None]}) == []


def test_several_seeds_show_their_spread(accuracy):
    measured = {"covers": accuracy.table.over_seeds([figures(0.5, 0.75), figures(0.25, 0.75)])}

    lines = accuracy.table.render(accuracy.table.rows(measured, None, seeds=2), ["covers"]).splitlines()

    assert lines[1].split() == ["mAP", "0.3750", "0.3750"]
    assert lines[2].split() == ["spread", "0.2500", "-"]


def test_a_second_run_extracts_nothing_and_finds_the_same(run, monkeypatch, tmp_path):
    out, err, first = run()

    assert "covers_dev: 4 photos, 1 queries, 5 extracted" in err
    assert out.split()[:2] == ["covers_dev", "mean"]
    assert first["sets"]["covers_dev"]["means"]["mAP"] == 1  # the other view is first
    assert 0 < first["sets"]["covers_dev"]["means"]["mean IoU"] <= 1
    assert first["sets"]["covers_dev"]["network_precision"] == str(Engine.fastest("cpu").precision)[len("torch.") :]
    assert first["mean"] == first["sets"]["covers_dev"]["means"]
    [made] = first["sets"]["covers_dev"]["runs"]
    assert {key: each["positives"] for key, each in made["by_size"].items() if each["positives"]} == {"above_20": 1}
    assert made["by_size"]["above_20"]["mAP"] == made["mAP"]
    assert made["by_size"]["above_20"]["localisation"]["top_20"]["mean_iou"] == made["mean IoU"]
    assert [line.split()[:2] for line in out.split("\n\n")[1].splitlines()] == [
        ["covers_dev", "mean"], ["mAP,", "above"], ["mean", "IoU"], ["positives", "1"]
    ]  # fmt: skip
    assert first["config"]["images"]["longer"] == 128
    assert first["provenance"]["versions"]["numpy"] == np.__version__
    assert first["provenance"]["command"].startswith("accuracy ")

    def never(*_):
        raise AssertionError("a photo was extracted again")

    monkeypatch.setattr(Extractor, "_extract", never)
    monkeypatch.setattr(Extractor, "describe", never)
    shutil.copy(tmp_path / "out.json", tmp_path / "before.json")
    out, err, second = run("--baseline", tmp_path / "before.json")

    assert "0 extracted" in err
    assert second["sets"]["covers_dev"]["means"] == first["sets"]["covers_dev"]["means"]
    assert out.splitlines()[3].split() == ["difference", "+0.0000", "+0.0000"]

    (tmp_path / "quick.toml").write_text(QUICK.replace("iterations = 1", "iterations = 2"))
    _, err, _ = run("--seeds", 2)  # neither codes nor seeds change what is extracted
    assert "0 extracted" in err

    (tmp_path / "quick.toml").write_text(QUICK.replace("128", "160"))
    with pytest.raises(AssertionError, match="extracted again"):
        run()


def test_trained_convolutions_are_not_taken_for_the_usual_ones(accuracy, photos):
    class Network:
        def load(self, convolutions):
            self.loaded = convolutions

        def extract(self, sources, decoder):
            return iter(["extracted"])

        def describe(self, path, box):
            return box, "described"

    class Cache:
        def extract(self, sources):
            return iter(["kept"])

        def describe(self, path, box):
            return "kept"

    network = Network()
    workers = accuracy.measure.CachedWorkers(network, Cache())
    assert (list(workers.extract([])), workers.describe(photos, None)) == (["kept"], "kept")
    workers.load({})
    assert list(workers.extract([])) == ["kept"]
    workers.load({"weight": np.zeros(1)})
    assert (list(workers.extract([])), workers.describe(photos, None)) == (["extracted"], "described")
    assert list(network.loaded) == ["weight"]


def test_a_set_that_is_not_there_is_named(accuracy, data, tmp_path):
    with pytest.raises(InputError) as raised:
        accuracy.sets.load(data, ["covers_dev", "landmarks", "instre_dev-2x2"], tmp_path)
    assert str(raised.value) == (
        f"{data}: expected the development sets instre_dev, landmarks, found no such folders; put them there, or "
        "choose others with --sets"
    )
    with pytest.raises(InputError, match=r"--sets: expected some of instre_dev, landmarks, .*; found instre$"):
        accuracy.sets.load(data, ["instre"], tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory); name what --json wrote"),
        ("{", "expected JSON that --json wrote, found something else"),
        ('{"sets": {"covers_dev": {"means": {}}}}', "expected JSON that --json wrote, found something else"),
    ],
)
def test_a_baseline_that_is_none_is_refused(run, tmp_path, content, says):
    file = tmp_path / "before.json"
    if content is not None:
        file.write_text(content)

    with pytest.raises(UdqError) as raised:
        run("--baseline", file)

    assert str(raised.value) == f"--baseline {file}: {says}"


def test_a_baseline_of_other_photos_is_noted(accuracy):
    measured = {"covers_dev": {"photos": 250, "queries": 50}, "demo": {"photos": 130, "queries": 33}}
    before = {"covers_dev": {"photos": 1250, "queries": 50}, "demo": {"photos": 130, "queries": 33}}

    assert accuracy.__main__.differences(measured, before) == [
        "note: covers_dev: the baseline is of 1,250 photos and 50 queries, this run of 250 and 50"
    ]


def test_an_error_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "accuracy", tmp_path, "--preset", "best"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "accuracy: preset 'best': expected one of default, fast, fine, paper, paper-resnet101\n"


COLOURS = {"red.png": (255, 0, 0), "red2.png": (250, 5, 0), "green.png": (0, 255, 0), "blue.png": (0, 0, 255)}


@pytest.fixture
def coloured(tmp_path):
    """Five photos in the format of instre_dev, of which two show one object."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for i, (name, colour) in enumerate({**COLOURS, "white.png": (255, 255, 255)}.items()):
        Image.new("RGB", (224, 160 + i), colour).save(tmp_path / "set" / "images" / name)
    with (tmp_path / "set" / "ground_truth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes"],
                ["red.png", 1, 2, 100, 90, "red", "red2.png", "20 10 120 110"],
                ["red2.png", "", "", "", "", "red", "red.png", ""],
            ]
        )
    return tmp_path / "set"


def test_a_mosaic_holds_the_photos_and_knows_where_they_are(accuracy, coloured, tmp_path):
    accuracy.mosaic.compose(coloured, tmp_path / "mosaic", 2)

    with (tmp_path / "mosaic" / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert sorted(path.name for path in (tmp_path / "mosaic" / "images").iterdir()) == ["m0000.jpg", "m0001.jpg"]
    assert {first["positives"], second["positives"]} == {"m0000.jpg", "m0001.jpg"}  # one object, two collages
    assert (first["junk"], second["junk"]) == (second["positives"], first["positives"])
    assert [first[key] for key in ("query_image", "x1", "y1", "x2", "y2")] == ["qred.png", "1", "2", "100", "90"]
    assert second["positive_boxes"] == ""
    with Image.open(tmp_path / "mosaic" / "images" / first["positives"]) as collage:
        assert collage.size == (896, 672)
        x1, y1, x2, y2 = map(float, first["positive_boxes"].split())
        pixels = np.asarray(collage).astype(int)
    # 224 x 161 fits a cell of 448 x 336 twice as large.
    assert (x2 - x1, y2 - y1) == (200, 200)
    inside = pixels[round(y1) : round(y2), round(x1) : round(x2)]
    assert np.abs(inside - COLOURS["red2.png"]).max() < 12
    with Image.open(tmp_path / "mosaic" / "queries" / "qred.png") as query:
        assert query.size == (224, 160)


def test_photos_are_composed_once_and_again_when_their_source_changes(accuracy, coloured, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    shutil.copytree(coloured, folder / "instre_dev")
    [found] = accuracy.sets.load(folder, ["instre_dev-2x2"], tmp_path / "cache")

    assert [source.name for source in found.sources] == ["m0000.jpg", "m0001.jpg"]
    assert sorted(path.name for path in found.queries.iterdir()) == ["qred.png", "qred2.png"]
    assert [query.junk for query in found.truth.queries] == [query.positives for query in found.truth.queries][::-1]

    def never(*_, **__):
        raise AssertionError("photos were composed again")

    compose = accuracy.mosaic.compose
    monkeypatch.setattr(accuracy.mosaic, "compose", never)
    [again] = accuracy.sets.load(folder, ["instre_dev-2x2"], tmp_path / "cache")
    assert again == found
    monkeypatch.setattr(accuracy.mosaic, "compose", compose)
    Image.new("RGB", (300, 300)).save(folder / "instre_dev" / "images" / "white.png")
    [other] = accuracy.sets.load(folder, ["instre_dev-2x2"], tmp_path / "cache")
    assert other.sources != found.sources


def test_objects_that_leave_no_room_are_refused(accuracy, coloured, tmp_path):
    for name in ("green.png", "blue.png", "white.png"):
        (coloured / "images" / name).unlink()

    with pytest.raises(InputError, match=r"mosaic: expected room for 'red2?.png' in one of 1 collages of 4 photos"):
        accuracy.mosaic.compose(coloured, tmp_path / "mosaic", 2)


def test_in_landmarks_a_photo_asks_for_the_others_of_its_place(accuracy, photos, tmp_path):
    for place, names in (("castle-P19", ["coffee.png"]), ("castle-P30", ["rocket.png"]), ("entry", ["page.png"])):
        (tmp_path / "landmarks" / place).mkdir(parents=True)
        for name in names:
            shutil.copy(photos / name, tmp_path / "landmarks" / place)

    [found] = accuracy.sets.load(tmp_path, ["landmarks"], tmp_path / "cache")

    assert {query.image: query.positives for query in found.truth.queries} == {
        "castle-P19/coffee.png": {"castle-P30/rocket.png"},
        "castle-P30/rocket.png": {"castle-P19/coffee.png"},
    }


GREY = (60, 60, 60)


@pytest.fixture
def objects(tmp_path):
    """Two objects, a red one with three queries and a blue one with one, in the format of instre_dev; grey places."""
    (tmp_path / "data" / "instre_dev" / "images").mkdir(parents=True)
    (tmp_path / "data" / "landmarks" / "lund").mkdir(parents=True)
    for i in range(20):
        Image.new("RGB", (120, 90), GREY).save(tmp_path / "data" / "instre_dev" / "images" / f"free{i:02d}.png")
        Image.new("RGB", (160, 120), GREY).save(tmp_path / "data" / "landmarks" / "lund" / f"l{i:02d}.png")
    # The box of the first red photo is darker than that of the second.
    shown = {"r0.png": (255, 0, 0), "r1.png": (200, 0, 0), "r2.png": (240, 0, 0), "b0.png": (0, 0, 255)}
    for name, colour in {**shown, "r3.png": (220, 0, 0), "b1.png": (0, 0, 200)}.items():
        Image.new("RGB", (120, 90), colour).save(tmp_path / "data" / "instre_dev" / "images" / name)
    with (tmp_path / "data" / "instre_dev" / "ground_truth.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["query_image", "x1", "y1", "x2", "y2", "object", "positives", "positive_boxes"],
                ["r0.png", 1, 2, 100, 80, "red", "r1.png|r2.png", "10 10 30 20|0 0 80 40"],
                ["r1.png", 10, 10, 30, 20, "red", "r0.png|r2.png", "1 2 100 80|0 0 80 40"],
                ["r3.png", 2, 3, 60, 70, "red", "r0.png|r2.png", "1 2 100 80|0 0 80 40"],
                ["b0.png", 5, 5, 50, 50, "blue", "b1.png", "4 6 44 86"],
            ]
        )
    return tmp_path / "data"


def composed(accuracy, objects, output):
    """Compose small ones and read them: the folder, and the rows of the ground truth."""
    compose, sizes = accuracy.composites.compose, ((400, 300), (600, 400))
    compose(objects / "instre_dev", objects / "landmarks", output, sizes=sizes, photos=16)
    with (output / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        return output, list(csv.DictReader(file))


def test_composites_hold_the_cut_outs_where_the_ground_truth_says(accuracy, objects, tmp_path):
    folder, rows = composed(accuracy, objects, tmp_path / "made")

    assert [(row["query_image"], row["object"], row["junk"]) for row in rows] == [
        ("qb0.png", "blue", ""), ("qr0.png", "red", ""), ("qr3.png", "red", "")
    ]  # fmt: skip  # composites hold cut-outs of r1.png, which is no query therefore
    assert [rows[1][key] for key in ("x1", "y1", "x2", "y2")] == ["1", "2", "100", "80"]
    assert sorted(path.name for path in (folder / "queries").iterdir()) == ["qb0.png", "qr0.png", "qr3.png"]
    assert [rows[1][key] for key in ("positives", "positive_boxes")] == [
        rows[2][key] for key in ("positives", "positive_boxes")
    ]
    names = sorted(path.name for path in (folder / "images").iterdir())
    composites = [name for name in names if name[0] == "c"]
    assert (len(names), composites) == (16, [f"c{i:04d}.jpg" for i in range(8)])
    assert {name[:4] for name in names if name[0] != "c"} == {"free"}
    # The largest box is first, then the other, then the largest again; blue has one.
    colours = [[(0, 0, 200)] * 4, [(240, 0, 0), (200, 0, 0)] * 2]
    places = set()
    for row, cuts in zip(rows[:2], colours, strict=True):
        boxes = [tuple(map(int, box.split())) for box in row["positive_boxes"].split("|")]
        kinds = [(0.01, (400, 300)), (0.01, (600, 400)), (0.003, (400, 300)), (0.003, (600, 400))]
        for name, box, colour, (share, size) in zip(row["positives"].split("|"), boxes, cuts, kinds, strict=True):
            with Image.open(folder / "images" / name) as photo:
                assert photo.size == size
                pixels = np.asarray(photo).astype(int)
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= size[0]
            assert 0 <= y1 < y2 <= size[1]
            assert share <= (x2 - x1) * (y2 - y1) / (size[0] * size[1]) < 1.2 * share
            middle = pixels[(y1 + y2) // 2, (x1 + x2) // 2]
            assert np.abs(middle - colour).max() < 25
            # Nothing of the object is outside its box, up to the blocks of JPEG; the grey is not blank.
            far = np.ones(pixels.shape[:2], bool)
            far[max(y1 - 16, 0) : y2 + 16, max(x1 - 16, 0) : x2 + 16] = False
            assert np.abs(pixels[far] - GREY).max() < 20
            assert pixels[far].std() > 1
            places.add(box[:2])
    assert len(places) == 8


def test_the_same_data_gives_the_same_composites(accuracy, objects, tmp_path):
    first, _ = composed(accuracy, objects, tmp_path / "first")
    second, _ = composed(accuracy, objects, tmp_path / "second")

    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 16 + 3 + 1
    assert [(first / file).read_bytes() for file in files] == [(second / file).read_bytes() for file in files]


def test_composites_are_a_development_set(accuracy, objects, tmp_path, monkeypatch):
    small = partial(accuracy.composites.compose, sizes=((40, 30),), shares=(0.05,), photos=10)
    monkeypatch.setattr(accuracy.composites, "compose", small)
    [found] = accuracy.sets.load(objects, ["composites"], tmp_path / "cache")

    assert len(found.sources) == 10
    assert sorted(path.name for path in found.queries.iterdir()) == ["qb0.png", "qr0.png", "qr1.png", "qr3.png"]
    assert [(query.label, *query.positives) for query in found.truth.queries] == [
        ("blue", "c0000.jpg"), *[("red", "c0001.jpg")] * 3
    ]  # fmt: skip
    Image.new("RGB", (300, 300)).save(objects / "landmarks" / "lund" / "l00.png")
    [other] = accuracy.sets.load(objects, ["composites"], tmp_path / "cache")
    assert other.sources != found.sources  # composed again
    shutil.rmtree(objects / "landmarks")
    with pytest.raises(InputError, match="expected the development sets landmarks, found no such folders"):
        accuracy.sets.load(objects, ["composites"], tmp_path / "cache")


def test_too_few_photos_or_boxes_for_composites_are_refused(accuracy, objects, tmp_path):
    for path in sorted((objects / "instre_dev" / "images").glob("free*"))[9:]:
        path.unlink()
    with pytest.raises(InputError, match=r"expected 11 photos without an object, found 9; add photos$"):
        composed(accuracy, objects, tmp_path / "made")
    truth = objects / "instre_dev" / "ground_truth.csv"
    truth.write_text(truth.read_text().replace("4 6 44 86", ""))
    with pytest.raises(InputError, match=r"expected a box of 'blue' in a positive of b0\.png, found none"):
        accuracy.composites.compose(
            objects / "instre_dev", objects / "landmarks", tmp_path / "none", sizes=((40, 30),), photos=8
        )
    for path in sorted((objects / "landmarks" / "lund").iterdir())[4:]:
        path.unlink()
    with pytest.raises(InputError, match=r"^composites: expected 5 photos of places, found 4; add photos$"):
        composed(accuracy, objects, tmp_path / "no")
