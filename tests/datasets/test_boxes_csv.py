"""The CSV format for custom benchmarks: what is read, and errors with file and line."""

from __future__ import annotations

import pytest

from udq.datasets import REGISTRY, Query
from udq.errors import InputError

HEADER = "query_image,x1,y1,x2,y2,positives,junk,positive_boxes,object\n"


def load(tmp_path, text):
    file = tmp_path / "truth.csv"
    file.write_text(text, encoding="utf-8")
    return REGISTRY["boxes"](file)


def test_every_column_is_read(tmp_path):
    truth = load(
        tmp_path,
        "\ufeff"
        + HEADER
        + "a/q.jpg,1,2,30.5,40,p1.jpg|p 2.jpg|p3.jpg,j.jpg,0 0 5 5||1 1 9 9,red cup\nq2.jpg,,,,,p1.jpg,,,\n",
    )

    assert truth.dataset == "boxes"
    assert truth.queries == (
        Query(
            "a/q.jpg",
            (1, 2, 30.5, 40),
            frozenset({"p1.jpg", "p 2.jpg", "p3.jpg"}),
            frozenset({"j.jpg"}),
            {"p1.jpg": (0, 0, 5, 5), "p3.jpg": (1, 1, 9, 9)},
            "red cup",
        ),
        Query("q2.jpg", None, frozenset({"p1.jpg"})),
    )


def test_the_optional_columns_are_optional(tmp_path):
    truth = load(tmp_path, "query_image,x1,y1,x2,y2,positives\nq.jpg,1,2,3,4,p.jpg\n")

    assert truth.queries == (Query("q.jpg", (1, 2, 3, 4), frozenset({"p.jpg"})),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing: query_image, x1"),
        ("query_image,x1,y1,x2\nq.jpg,1,2,3\n", "missing: y2, positives"),
        (HEADER, "at least one query"),
        (HEADER + ",1,2,3,4,p.jpg,,,\n", "line 2: expected a photo in the column query_image"),
        (HEADER + "q.jpg,1,2,3,4,,,,\n", "line 2: expected at least one positive"),
        (HEADER + "q.jpg,1,2,3,,p.jpg,,,\n", "line 2: expected a box of four numbers"),
        (HEADER + "q.jpg,1,2,three,4,p.jpg,,,\n", "line 2: expected a box of four numbers"),
        (HEADER + "ok.jpg,1,2,3,4,p.jpg,,,\nq.jpg,3,2,1,4,p.jpg,,,\n", "line 3: expected a box with x1 < x2"),
        (HEADER + "q.jpg,nan,2,3,4,p.jpg,,,\n", "line 2: expected a box with x1 < x2"),
        (HEADER + "q.jpg,1,2,3,4,p.jpg|r.jpg,,0 0 1 1,\n", "as many positive_boxes as positives (2), found 1"),
        (
            HEADER + "q.jpg,1,2,3,4,a.jpg|p.jpg,p.jpg,,\n",
            "expected a photo to be positive or junk, found 'p.jpg'",
        ),
        (
            HEADER + "q.jpg,1,2,3,4,p.jpg,,,cup,x,y\n",
            "2: expected as many values as the header has columns, found 2",
        ),
        (HEADER + "q.jpg,1,2,3,4,p.jpg,,5 5 1 1,\n", "line 2: expected a box with x1 < x2"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, says):
    with pytest.raises(InputError) as refused:
        load(tmp_path, text)

    assert says in str(refused.value)
    assert "truth.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "truth.csv").write_bytes(b"\xff\xfe\x00\x80")

    with pytest.raises(InputError, match="expected a CSV file in UTF-8"):
        REGISTRY["boxes"](tmp_path / "truth.csv")
