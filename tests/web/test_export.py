"""Exported boxes: no cell of the CSV is a formula, and ``udq train-rpn`` finds the same photos."""

from __future__ import annotations

import csv
import io

import pytest
from PIL import Image

from udq.datasets.detection import load_all
from udq.store import segments
from udq.web.api import export

NAMES = ["=cmd|' C'!A0.jpg", "+1.jpg", "-2+3.jpg", "@SUM(A1).jpg", "＝1.jpg", "plain.jpg", "below/=x.jpg", "it's.jpg"]


def exported(names, label):
    boxes = [
        export.Accepted(segments.Image(name, "/photos", 60, 40, number), (1.0, 2.0, 30.0, 20.0), -0.5)
        for number, name in enumerate(names)
    ]
    return export.write(boxes, "csv", label=label)[0]


@pytest.mark.parametrize("label", ["=HYPERLINK(A1)", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula_and_training_finds_the_photos(tmp_path, label):
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (60, 40)).save(tmp_path / "photos" / name)
    (tmp_path / "boxes.csv").write_bytes(exported(NAMES, label))
    with (tmp_path / "boxes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    labels = load_all([tmp_path / "boxes.csv"], images=tmp_path / "photos")

    for row in rows[1:]:
        for text in (row[0], row[-1]):
            assert not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
        assert row[-1] == f"'{label}"
        assert row[5] == "-0.5000"  # a number
    found = {path.relative_to(tmp_path / "photos").as_posix() for path in paths_of(labels)}
    assert found == set(NAMES)


def paths_of(labels):
    return [photo.path for photo in labels.photos]


def test_ordinary_names_and_labels_stay_as_they_are():
    rows = list(csv.DictReader(io.StringIO(exported(["plain.jpg", "a=b.jpg"], "my cup").decode())))

    assert [(row["image"], row["label"]) for row in rows] == [("plain.jpg", "my cup"), ("a=b.jpg", "my cup")]
