"""The dry run of the paper's experiments: its folders are those that udq reads, and its sums are right."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from udq import datasets
from udq.datasets import detection

PLACES = {"all_souls": "one", "balliol": "other"}


@pytest.fixture
def dry_run(monkeypatch):
    """The script of that name."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks" / "decisions")
    import dry_run

    return dry_run


@pytest.fixture
def data(photos, tmp_path):
    """A folder of photos as the script expects them."""
    for folder in ("instre_dev/images", "landmarks/one", "landmarks/other"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "instre_dev" / "object_boxes.csv").write_text(
        "image,x1,y1,x2,y2\n0001.jpg,20,10,100,90\n0001.jpg,0,0,448,336\n0005.jpg,5,5,50,60\n0009.jpg,1,2,30,40\n"
    )
    with Image.open(photos / "coffee.png") as opened:
        photo = opened.convert("RGB")
    for number in ("0001", "0005", "0009"):
        photo.resize((448, 336)).save(tmp_path / "data" / "instre_dev" / "images" / f"{number}.jpg")
    for place in PLACES.values():
        for number in range(5):
            photo.resize((640, 427)).save(tmp_path / "data" / "landmarks" / place / f"{number}.jpg")
    return tmp_path / "data"


def test_the_labels_are_read_as_those_of_voc2007(dry_run, data, tmp_path):
    dry_run.voc_folder(data, tmp_path / "voc", 2)
    labels = detection.load(tmp_path / "voc")

    assert [photo.path.name for photo in labels.photos] == ["000001.jpg", "000002.jpg"]
    assert labels.photos[0].boxes.tolist() == [[22, 11, 112, 100], [0, 0, 500, 375]]
    assert labels.fault_lines() == []
    with Image.open(labels.photos[0].path) as opened:
        assert opened.size == (500, 375)


def test_the_landmarks_are_read_as_those_of_oxford5k(dry_run, data, tmp_path):
    dry_run.oxford_folder(data, tmp_path / "oxford5k", PLACES)
    truth = datasets.load("oxford5k", tmp_path / "oxford5k" / "groundtruth")
    names = {path.stem for path in (tmp_path / "oxford5k" / "photos").iterdir()}

    assert [query.label for query in truth.queries] == ["all_souls_1", "all_souls_2", "balliol_1", "balliol_2"]
    assert names <= set(truth.database)
    for query in truth.queries:
        assert (len(query.positives), len(query.junk)) == (3, 1)
        assert {query.image, *query.positives, *query.junk} <= names


def test_seconds_and_steps_are_those_of_the_progress_bars(dry_run):
    lines = [
        "table3: M = 2, 12 bits, VGG16, Oxford5K: paper / measured: 0.514 / 0.767",
        "fine-tuning on the queries 1:02:03 \u2501\u2501\u2501\u2501 8/8 17.6 s each left 0:00:00",
        "photos 0:00:20 \u2501\u2501\u2501\u2501 6/12 3.7 s each left 0:00:22",
        "photos 0:00:44 \u2501\u2501\u2501\u2501 12/12 3.7 s each left 0:00:00",
    ]

    assert dry_run.stages(lines) == [
        {"name": "fine-tuning on the queries", "seconds": 3723, "steps": 8},
        {"name": "photos", "seconds": 44, "steps": 12},
    ]


def test_the_work_of_the_paper_is_that_of_its_tables(dry_run):
    counts = dry_run.counts()

    assert {place: work["trainings"] for place, work in counts.items()} == {
        **{("vgg16", name): 15 for name in ("oxford5k", "paris6k")},
        **{("vgg16", name): 12 for name in ("oxford105k", "paris106k")},
        **{("resnet101-v1", name): 15 for name in ("oxford5k", "oxford105k", "paris6k", "paris106k")},
    }
    # Figure 3 runs module 2 up to five times in one of them, which is six rounds and not three.
    assert counts["vgg16", "oxford5k"]["rounds"] == 14 * 3 + 6
    assert counts["vgg16", "oxford105k"]["rounds"] == 12 * 3


def test_views_that_the_disk_has_no_room_for_are_computed_in_each_epoch(dry_run):
    stages = [{"name": "extracting photos", "seconds": 43, "steps": 43}, {"name": "training", "seconds": 0, "steps": 9}]
    measured = {"stages": stages, "views_bytes": 43 * 2**20, "memory_bytes": 0, "seconds": 50, "cpu_seconds": 50}
    found = dry_run.proposals(measured, threads=2)

    assert found["views"] == 4510 * 6 + 501
    assert found["views_computed"] == 10240 + 3 * (4510 * 6 + 501 - 10240)
    assert found["hours"] == found["views_computed"] / 3600
    assert found["hours_alone"] == found["hours"] / 2  # it used a half of two threads
