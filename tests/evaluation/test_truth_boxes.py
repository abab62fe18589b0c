"""Boxes of a ground truth that are not in their photos are named by file and row."""

from __future__ import annotations

import pytest

from udq.datasets import GroundTruth, Query, load
from udq.errors import InputError
from udq.evaluation import benchmark, truth_boxes
from udq.photos import source


@pytest.fixture(scope="module")
def paths(photos):
    return {found.name: found.path for found in source.find([photos])[0]}


def truth(tmp_path, *rows):
    (tmp_path / "truth.csv").write_text("\n".join(["query_image,x1,y1,x2,y2,positives,junk,positive_boxes", *rows, ""]))
    return load("boxes", tmp_path / "truth.csv")


def refusal(tmp_path, *rows, paths):
    with pytest.raises(InputError) as refused:
        benchmark.protocol_queries(truth(tmp_path, *rows), paths)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("; the boxes of a ground truth refer to its own photos, at full size")
    return str(refused.value)


def test_a_box_beyond_its_photo_is_named_by_file_and_row(tmp_path, paths):
    message = refusal(
        tmp_path,
        "coffee.png,81,20,478,386,coins.png,,0 0 384 303",
        "coffee.png,81,20,700,386,coins.png,,",
        "coffee.png,,,,,coins.png|rocket.png,,0 0 384 400|1 2 30 40",
        paths=paths,
    )

    where = tmp_path / "truth.csv"
    assert f"{where}, line 3: query coffee.png: box 81,20,700,386: expected x1,y1,x2,y2" in message
    assert f"{where}, line 4: query coffee.png: positive coins.png: box 0,0,384,400: expected x1,y1,x2,y2" in message
    assert "line 2" not in message
    assert "more" not in message


def test_the_first_ten_are_named(tmp_path, paths):
    message = refusal(tmp_path, *["coffee.png,1,2,3,4,coins.png,,900 0 950 9"] * 15, paths=paths)

    assert message.count("positive coins.png") == 10
    assert ", line 11: " in message
    assert ", line 12: " not in message
    assert "; and 5 more boxes; " in message


def test_sizes_that_are_known_are_not_read(tmp_path, paths):
    found = truth(tmp_path, "coffee.png,,,,,coins.png,,0 0 900 900")
    sizes = dict.fromkeys(paths, (900, 900))

    assert benchmark.protocol_queries(found, paths, sizes=sizes).boxes == (None,)
    with pytest.raises(InputError, match=r"positive coins\.png"):
        benchmark.protocol_queries(found, paths)


def test_a_rounded_box_is_clipped_and_a_photo_that_cannot_be_read_has_no_fault(tmp_path, paths):
    (tmp_path / "gone.png").write_bytes(b"")
    rows = "coffee.png,-0.5,0,600.5,400,coins.png|gone.png,,-0.9 0 384.9 303|0 0 9 9"
    known = {**paths, "gone.png": tmp_path / "gone.png"}

    assert truth_boxes.inside(truth(tmp_path, rows), paths, known) == ((0, 0, 600, 400),)


def test_official_annotations_of_positives_are_not_refused(paths):
    queries = (Query("coffee.png", None, frozenset({"coins.png"}), boxes={"coins.png": (0, 0, 999, 999)}),)
    official = GroundTruth("instre", queries, official=(1250, 27293))

    assert truth_boxes.inside(official, paths, paths) == (None,)
