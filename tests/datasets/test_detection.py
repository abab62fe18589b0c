"""Boxes to train proposals on: each layout, what is skipped and counted, and that layouts agree."""

from __future__ import annotations

import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq.datasets import detection
from udq.datasets.detection import coco, reading, table
from udq.datasets.detection.labels import REASONS
from udq.datasets.detection.photos import clip
from udq.errors import InputError

LAYOUTS = ("voc", "yolo", "coco", "csv")
WIDTH, HEIGHT = 100, 80


def save(path, size=(WIDTH, HEIGHT), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path, **options)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def voc_object(x1, y1, x2, y2, extra=""):
    box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>cup</name>{extra}<bndbox>{box}</bndbox></object>"


def voc(folder, name, objects="", filename=None):
    named = f"<filename>{filename}</filename>" if filename else ""
    return write(folder / f"Annotations/{name}.xml", f"<annotation>{named}{objects}</annotation>")


def write_labels(layout, root, boxes, *, photos=True):
    """Write photos and their boxes (name -> x1, y1, x2, y2 in pixels) in a layout; return what load takes."""
    for name in boxes if photos else ():
        save(root / {"voc": "JPEGImages", "yolo": "images", "coco": "images", "csv": "images"}[layout] / name)
    if layout == "voc":
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        for name, rows in boxes.items():
            voc(root, Path(name).stem, "".join(voc_object(a + 1, b + 1, c, d) for a, b, c, d in rows), name)
        return root
    if layout == "yolo":
        for name, rows in boxes.items():
            lines = [
                f"3 {(a + c) / 2 / WIDTH!r} {(b + d) / 2 / HEIGHT!r} {(c - a) / WIDTH!r} {(d - b) / HEIGHT!r}\n"
                for a, b, c, d in rows
            ]
            write(root / "labels" / Path(name).with_suffix(".txt"), "".join(lines))
        return root
    if layout == "coco":
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(boxes)],
            "annotations": [
                {"image_id": i, "bbox": [a, b, c - a, d - b], "iscrowd": 0}
                for i, rows in enumerate(boxes.values())
                for a, b, c, d in rows
            ],
        }
        return write(root / "labels.json", json.dumps(content))
    lines = [f"{name},{a},{b},{c},{d},cup\n" for name, rows in boxes.items() for a, b, c, d in rows]
    return write(root / "labels.csv", "image,x1,y1,x2,y2,class\n" + "".join(lines))


def read(labels, root):
    """Return path below a folder -> boxes as lists."""
    return {photo.path.relative_to(root).as_posix(): photo.boxes.tolist() for photo in labels.photos}


def refusal(path, **options):
    with pytest.raises(InputError) as refused:
        detection.load(path, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Each layout


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path):
    save(tmp_path / "JPEGImages/a.jpg")
    save(tmp_path / "JPEGImages/b.png")
    part = "<part><name>handle</name><bndbox><xmin>1</xmin></bndbox></part>"
    voc(tmp_path, "a", voc_object(11, 21, 30, 40, part) + voc_object(1, 1, WIDTH, HEIGHT))
    voc(tmp_path, "other", voc_object(7, 8, 7, 8), "b.png")
    labels = detection.load(tmp_path)

    assert labels.layout == "voc"
    assert read(labels, tmp_path / "JPEGImages") == {
        "a.jpg": [[10, 20, 30, 40], [0, 0, WIDTH, HEIGHT]],
        "b.png": [[6, 7, 7, 8]],  # a pixel
    }
    assert labels.skipped == {}


def test_difficult_objects_and_photos_with_only_these_are_left_out_of_voc(tmp_path):
    difficult = voc_object(5, 5, 9, 9, "<difficult>1</difficult>")
    for name, objects in {"a": difficult + voc_object(1, 1, 8, 8), "b": difficult, "c": ""}.items():
        save(tmp_path / f"JPEGImages/{name}.jpg")
        voc(tmp_path, name, objects)
    labels = detection.load(tmp_path)

    assert read(labels, tmp_path / "JPEGImages") == {"a.jpg": [[0, 0, 8, 8]], "c.jpg": []}
    assert labels.skipped == {"photos of difficult or crowded objects alone": 1}


def test_voc_reads_only_trainval_if_it_exists(tmp_path):
    for name in "abc":
        save(tmp_path / f"JPEGImages/{name}.jpg")
        voc(tmp_path, name, voc_object(1, 1, 8, 8))
    write(tmp_path / "ImageSets/Main/trainval.txt", "c\na\n\nlost\n../Annotations/b\na\n")
    labels = detection.load(tmp_path)

    assert list(read(labels, tmp_path / "JPEGImages")) == ["a.jpg", "c.jpg"]
    assert labels.skipped == {"missing XML files": 1, "photos outside the folder": 1}


def test_the_folder_above_a_voc_folder_is_accepted(tmp_path):
    write_labels("voc", tmp_path / "VOC2007", {"a.jpg": [(1, 2, 30, 40)]})
    assert detection.load(tmp_path).photos[0].path == tmp_path / "VOC2007/JPEGImages/a.jpg"

    write_labels("voc", tmp_path / "VOC2012", {"a.jpg": [(1, 2, 30, 40)]})
    assert "found VOC2007, VOC2012; give one of them" in refusal(tmp_path)


def test_yolo_boxes_are_relative_centres_and_sides(tmp_path):
    for name in ("train/a.jpg", "train/deep/b.png", "val/c.jpg", "val/d.jpg"):
        save(tmp_path / "images" / name)
    write(tmp_path / "labels/train/a.txt", "\ufeff0 0.5 0.5 0.5 0.25\n\n17 .05 0.1 0.1 0.2\n")
    write(tmp_path / "labels/train/deep/b.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "labels/val/c.txt", "")
    write(tmp_path / "labels/classes.txt", "cup\n")
    write(tmp_path / "labels/val/lost.txt", "0 0.5 0.5 1 1")
    labels = detection.load(tmp_path)

    assert labels.layout == "yolo"
    assert list(read(labels, tmp_path / "images")) == ["train/a.jpg", "train/deep/b.png", "val/c.jpg", "val/d.jpg"]
    assert np.allclose(labels.photos[0].boxes, [[25, 30, 75, 50], [0, 0, 10, 16]], atol=1e-4)
    assert labels.photos[1].boxes.tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert [photo.boxes.shape for photo in labels.photos[2:]] == [(0, 4), (0, 4)]
    assert labels.skipped == {"missing photos": 1}


def test_coco_boxes_are_corner_and_sides(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        save(tmp_path / "train" / name)
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("abcd", start=7)],
        "annotations": [
            {"image_id": 8, "bbox": [10, 20, 30.5, 40], "iscrowd": 0},
            {"image_id": 7, "bbox": [0, 0, 5, 6], "category_id": 3},
            {"image_id": 8, "bbox": [1, 2, 3, 4]},
            {"image_id": 8, "bbox": [0, 0, 99, 79], "iscrowd": 1},
            {"image_id": 9, "bbox": [0, 0, 99, 79], "iscrowd": 1},
        ],
    }
    labels = detection.load(write(tmp_path / "labels.json", json.dumps(content)), images=tmp_path / "train")

    assert labels.layout == "coco"
    assert read(labels, tmp_path / "train") == {
        "a.jpg": [[0, 0, 5, 6]],
        "b.jpg": [[10, 20, 40.5, 60], [1, 2, 4, 6]],
        "d.jpg": [],
    }
    assert labels.skipped == {"photos of difficult or crowded objects alone": 1}


def test_csv_has_one_box_per_line_and_may_have_other_columns(tmp_path):
    save(tmp_path / "sub/a.jpg")
    save(tmp_path / "images/b, c.jpg")
    table = 'y2,image, class,x1,y1,x2\n40,sub/a.jpg,cup,10,20,30\n9,"b, c.jpg",,1,2,3.5\n79.5,./sub/a.jpg,,0,0,99\n'
    labels = detection.load(write(tmp_path / "labels.CSV", "\ufeff" + table))

    assert labels.layout == "csv"
    assert read(labels, tmp_path) == {
        "images/b, c.jpg": [[1, 2, 3.5, 9]],
        "sub/a.jpg": [[10, 20, 30, 40], [0, 0, 99, 79.5]],
    }


@pytest.mark.parametrize("layout", ["coco", "csv"])
def test_photos_are_beside_the_file_or_in_images_or_in_the_given_folder(tmp_path, layout):
    path = write_labels(layout, tmp_path, {"a.jpg": [(1, 2, 30, 40)]}, photos=False)

    assert "1 missing photo; photos were searched in" in refusal(path)
    save(tmp_path / "elsewhere/a.jpg")
    assert detection.load(path, images=tmp_path / "elsewhere").photos[0].path == tmp_path / "elsewhere/a.jpg"
    save(tmp_path / "images/a.jpg")
    assert detection.load(path).photos[0].path == tmp_path / "images/a.jpg"
    save(tmp_path / "a.jpg")
    assert detection.load(path).photos[0].path == tmp_path / "a.jpg"
    assert "expected the folder of the photos" in refusal(path, images=tmp_path / "nowhere")


# All layouts


def test_all_layouts_of_the_same_labels_agree(tmp_path):
    boxes = {"a.jpg": [(10, 20, 30, 40), (0, 0, WIDTH, HEIGHT)], "b.png": [(1.5, 2.25, 50, 60.75)], "c.jpg": []}
    found = [detection.load(write_labels(layout, tmp_path / layout, boxes)) for layout in LAYOUTS]

    assert tuple(labels.layout for labels in found) == LAYOUTS
    for labels in found:
        # A photo without a box has no line in a table.
        wanted = {name: rows for name, rows in boxes.items() if rows or labels.layout != "csv"}
        assert [photo.path.name for photo in labels.photos] == list(wanted)
        assert labels.skipped == {}
        for photo, rows in zip(labels.photos, wanted.values(), strict=True):
            assert photo.boxes.dtype == np.float32
            assert not photo.boxes.flags.writeable
            assert np.allclose(photo.boxes, np.reshape(rows, (-1, 4)), atol=1e-4)
        assert pickle.loads(pickle.dumps(labels)).summary() == labels.summary()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One folder per layout with the photo a.jpg, shared by the examples below."""
    folder = tmp_path_factory.mktemp("prepared")
    for layout in LAYOUTS:
        write_labels(layout, folder / layout, {"a.jpg": []})
    return folder


def sides(length):
    return st.tuples(
        st.floats(0, length - 2, allow_subnormal=False), st.floats(2, length, allow_subnormal=False)
    ).filter(lambda pair: pair[1] - pair[0] >= 1.5)


@settings(max_examples=25, deadline=None)
@given(across=sides(WIDTH), down=sides(HEIGHT))
def test_a_box_inside_the_photo_survives_each_layout(prepared, across, down):
    box = (across[0], down[0], across[1], down[1])
    for layout in LAYOUTS:
        labels = detection.load(write_labels(layout, prepared / layout, {"a.jpg": [box]}, photos=False))

        assert labels.skipped == {}
        assert np.allclose(labels.photos[0].boxes, [box], atol=1e-2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e12, 1e12) | st.floats(-20, 120)] * 4), max_size=8))
def test_every_box_is_kept_or_counted_and_what_is_kept_is_inside(boxes):
    clipped = clip(np.array(boxes, np.float64).reshape(-1, 4), WIDTH, HEIGHT)
    kept = clipped.boxes
    outside, empty, beyond = (int(marked.sum()) for marked in clipped.faults.values())

    assert len(kept) + outside + empty == len(boxes)
    assert beyond <= len(kept)
    assert (kept >= 0).all()
    assert (kept[:, 2:] <= (WIDTH, HEIGHT)).all()
    assert (kept[:, 2:] - kept[:, :2] > 0.999).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_are_clipped_to_the_photo_or_skipped_and_counted(tmp_path, layout):
    rows = [
        (-5, -6, 30, 40),
        (90, 70, 120, 95),
        (10, 20, 30, 40),
        (WIDTH, 0, 120, 50),  # outside: it touches the border
        (-30, 0, -1, 50),
        (5, 85, 9, 99),
        (40, 10, 30, 20),  # inverted
        (40, 10, 40, 20),
        (40, 10, 60, 10.5),
        (-50, 10, 0.5, 20),  # half a pixel of it is inside
    ]
    labels = detection.load(write_labels(layout, tmp_path, {"a.jpg": rows}))

    assert np.allclose(labels.photos[0].boxes, [(0, 0, 30, 40), (90, 70, 100, 80), (10, 20, 30, 40)], atol=1e-4)
    assert labels.skipped == {"boxes outside the photo": 3, "empty boxes": 4}
    assert labels.clipped == 2
    assert labels.summary().endswith(
        "; skipped: 3 boxes outside the photo, 4 empty boxes; 2 boxes clipped to the photo"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_fault_names_its_file_and_row(tmp_path, layout):
    rows = {
        "a.jpg": [(10, 20, 30, 40), (-5, -6, 30, 40), (200, 2, 230, 40), (-0.75, 0, 9, 9)],
        "b.jpg": [(9, 9, 5, 5)],
        "lost.jpg": [(1, 2, 3, 4)],
    }
    path = write_labels(layout, tmp_path, rows)
    next(tmp_path.rglob("lost.jpg")).unlink()
    labels = detection.load(path)

    files = {
        "voc": [f"{tmp_path}/Annotations/{name}.xml" for name in ("a", "b", "lost")],
        "yolo": [f"{tmp_path}/labels/{name}.txt" for name in ("a", "b", "lost")],
        "coco": [str(path)] * 3,
        "csv": [str(path)] * 3,
    }[layout]
    places = {
        "voc": [f"{files[0]}, object 3", f"{files[0]}, object 2", f"{files[1]}, object 1", files[1], files[2]],
        "yolo": [f"{files[0]}, line 3", f"{files[0]}, line 2", f"{files[1]}, line 1", files[1], files[2]],
        "coco": [f"{path}, {place}" for place in ("annotations[2]", "annotations[1]", "annotations[4]", "images[1]",
                                                  "images[2]")],
        "csv": [f"{path}, line {line}" for line in (4, 3, 6, 6, 7)],
    }[layout]  # fmt: skip
    faults = [
        "box outside the photo: 200,2,230,40 in a.jpg of 100 x 80 pixels",
        "box clipped to the photo: -5,-6,30,40 in a.jpg of 100 x 80 pixels",
        "empty box: 9,9,5,5 in b.jpg of 100 x 80 pixels",
        "photo without a usable label: b.jpg",
        "missing photo" + (": lost.jpg" if layout != "yolo" else ""),
    ]
    expected = [f"{place}: {fault}" for place, fault in zip(places, faults, strict=True)]

    assert sorted(labels.faults) == sorted(expected)
    assert labels.fault_lines() == list(labels.faults)
    assert labels.to_json() == {
        "layout": layout,
        "photos": 1,
        "boxes": 3,
        "skipped": dict.fromkeys(("boxes outside the photo", "empty boxes", "photos without a usable label",
                                  "missing photos"), 1),
        "clipped": 1,
        "faults": list(labels.faults),
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_ten_faults_are_named(tmp_path, layout):
    rows = [(float("nan"), 1, 2, 3 + i) for i in range(25)]
    path = write_labels(layout, tmp_path, {"a.jpg": [(1, 2, 30, 40), *rows]})
    labels = detection.load(path)

    row = {"voc": "object {}", "yolo": "line {}", "coco": "annotations[{}]", "csv": "line {}"}[layout]
    start = {"voc": 2, "yolo": 2, "coco": 1, "csv": 3}[layout]
    assert len(labels.faults) == 10
    for number, fault in enumerate(labels.faults, start):
        assert f", {row.format(number)}: malformed " in fault
        assert "expected a box of four numbers, found '" in fault
    assert labels.fault_lines() == [*labels.faults, "and 15 more"]
    assert detection.load_all([path]).faults == labels.faults


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_photo_whose_labels_are_all_unusable_is_left_out(tmp_path, layout):
    rows = {
        "a.jpg": [(1, 2, 30, 40)],
        "b.jpg": [(200, 2, 230, 40)],
        "c.jpg": [(9, 9, 5, 5)],
        "d.jpg": [(float("nan"), 1, 2, 3)],
    }
    labels = detection.load(write_labels(layout, tmp_path, rows))

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    malformed = "malformed entries" if layout in ("voc", "coco") else "malformed lines"
    assert labels.skipped == {
        "boxes outside the photo": 1,
        "empty boxes": 1,
        malformed: 1,
        "photos without a usable label": 3,
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_belong_to_the_photo_as_a_viewer_shows_it(tmp_path, layout, orientation):
    path = write_labels(layout, tmp_path, {"a.jpg": [(1, 2, 95, 75)]})
    exif = Image.Exif()
    exif[0x0112] = orientation
    (folder,) = (file.parent for file in tmp_path.rglob("a.jpg"))
    save(folder / "a.jpg", (HEIGHT, WIDTH) if orientation == 6 else (WIDTH, HEIGHT), exif=exif)

    assert np.allclose(detection.load(path).photos[0].boxes, [(1, 2, 95, 75)], atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photos_that_are_missing_or_broken_are_counted(tmp_path, layout):
    rows = {name: [(1, 2, 30, 40)] for name in ("a.jpg", "empty.jpg", "lost.jpg", "text.jpg")}
    path = write_labels(layout, tmp_path, rows)
    (folder,) = (file.parent for file in tmp_path.rglob("lost.jpg"))
    (folder / "lost.jpg").unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    labels = detection.load(path)

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    assert labels.skipped == {"missing photos": 1, "unreadable photos": 2}
    assert labels.summary() == f"1 photo with 1 box ({layout}); skipped: 1 missing photo, 2 unreadable photos"


@pytest.mark.parametrize("layout", ["voc", "coco", "csv"])
def test_names_that_leave_the_folder_are_not_followed(tmp_path, layout):
    save(tmp_path / "outside.jpg")
    path = write_labels(layout, tmp_path / "inside", {"a.jpg": [(1, 2, 30, 40)]})
    for name in ("../../outside.jpg", str(tmp_path / "outside.jpg"), "sub/../../../outside.jpg"):
        if layout == "voc":
            voc(path, f"b{len(name)}", voc_object(1, 1, 9, 9), name)
        elif layout == "csv":
            path.write_text(path.read_text() + f"{name},1,1,9,9,\n" * 2)
        else:
            content = json.loads(path.read_text())
            content["images"].append({"id": name, "file_name": name})
            path.write_text(json.dumps(content))
    labels = detection.load(path)

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    assert labels.skipped == {"photos outside the folder": 3}


@pytest.mark.parametrize("name", ["n" * 5000 + ".jpg", "a\0b.jpg", "a.jpg/b.jpg", "\ud800.jpg"])
def test_names_no_file_can_have_are_skipped(tmp_path, name):
    content = json.loads(write_labels("coco", tmp_path, {"a.jpg": [(1, 2, 30, 40)]}).read_text())
    content["images"].append({"id": 2, "file_name": name})
    labels = detection.load(write(tmp_path / "labels.json", json.dumps(content)))

    assert len(labels.photos) == 1
    assert sum(labels.skipped.values()) == 1


# What is malformed


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">{}]><annotation><filename>&k;</filename></annotation>'.format(
    "".join(f'<!ENTITY {name} "{f"&{below};" * 10}">' for below, name in zip("abcdefghij", "bcdefghijk", strict=True))
)

# No bomb at all, so that no limit of the parser's own comes first.
ENTITY = '<!DOCTYPE annotation [<!ENTITY a "b.jpg">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<annotation><object>",
        b"<html/>",
        b"\xff\xfe\x00",
        BOMB.encode(),
        ENTITY.encode(),
        ENTITY.encode("utf-16"),
        b'<!DOCTYPE annotation SYSTEM "http://example.org/x.dtd"><annotation/>',
        b'<?xml version="1.0" encoding="nonsense"?><annotation/>',
        b'<?xml version="1.0" encoding="hex"?><annotation/>',
        b'<?xml version="1.0" encoding="gb2312"?><annotation/>',
        b"<annotation>" + b" " * 10_000_000 + b"</annotation>",
    ],
    ids=lambda content: repr(content[:50]),
)
def test_malformed_xml_is_counted_and_entities_are_not_expanded(tmp_path, content):
    write_labels("voc", tmp_path, {"a.jpg": [(1, 2, 30, 40)]})
    save(tmp_path / "JPEGImages/b.jpg")
    (tmp_path / "Annotations/b.xml").write_bytes(content)
    labels = detection.load(tmp_path)

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    assert labels.summary() == "1 photo with 1 box (voc); skipped: 1 malformed XML file"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take both forms for one name")
def test_a_label_names_its_photo_in_either_unicode_form(tmp_path):
    save(tmp_path / "cafe\u0301.png")
    labels = detection.load(write(tmp_path / "boxes.csv", "image,x1,y1,x2,y2\ncaf\u00e9.png,1,2,30,20\n"))

    assert read(labels, tmp_path) == {"cafe\u0301.png": [[1, 2, 30, 20]]}


def test_malformed_lines_of_yolo_are_counted(tmp_path):
    lines = ["0 0.5 0.5 0.5", "0 0.5 0.5 0.5 x", "0 nan 0.5 0.5 0.5", "0 .1 .1 .2 .1 .2 .2", "0 0.5 1e999 1 1"]
    write_labels("yolo", tmp_path, {"a.jpg": [(1, 2, 30, 40)]})
    label = tmp_path / "labels/a.txt"
    label.write_bytes(label.read_bytes() + "\n".join(lines).encode() + b"\n\xff\xfe\0\n")
    save(tmp_path / "images/b.jpg")
    (tmp_path / "labels/b.txt").mkdir()
    save(tmp_path / "images/c.jpg")
    (tmp_path / "labels/c.txt").symlink_to(tmp_path / "nowhere.txt")
    labels = detection.load(tmp_path)

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    assert labels.skipped == {"malformed lines": 6, "unreadable label files": 2}


def test_a_label_file_above_the_limit_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    write_labels("yolo", tmp_path, {"a.jpg": [(1, 2, 30, 40)], "b.jpg": [(1, 2, 30, 40)] * 50})
    labels = detection.load(tmp_path)

    assert [photo.path.name for photo in labels.photos] == ["a.jpg"]
    assert labels.skipped == {"unreadable label files": 1}


def test_malformed_entries_of_coco_are_counted(tmp_path):
    content = json.loads(write_labels("coco", tmp_path, {"a.jpg": [(1, 2, 30, 40)]}).read_text())
    content["images"] += [7, {"id": [1], "file_name": "a.jpg"}, {"id": 5}, {"id": 6, "file_name": " "}]
    content["images"] += [{"id": 9, "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}]  # ambiguous
    content["annotations"] += [7, {"image_id": [1]}, {"image_id": 0}, {"image_id": 0, "bbox": "1234"}]
    content["annotations"] += [{"image_id": 0, "bbox": box} for box in ([1, 2, 3], [1, 2, None, 4], [1, 2, 10**400, 4])]
    content["annotations"] += [{"image_id": 9, "bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4]}]
    labels = detection.load(write(tmp_path / "labels.json", json.dumps(content)))

    assert read(labels, tmp_path / "images") == {"a.jpg": [[1, 2, 30, 40]]}
    assert labels.skipped == {"malformed entries": 13, "labels of unlisted photos": 2}


def test_malformed_lines_of_csv_are_counted(tmp_path):
    path = write_labels("csv", tmp_path, {"a.jpg": [(1, 2, 30, 40)]})
    lines = ["", ",1,2,3,4", "a.jpg,1,2,3", "a.jpg,,,,", "a.jpg,1,2,inf,4", "x" * 200_000 + ",1,2,3,4"]
    path.write_text(path.read_text() + "\n".join(lines) + "\na.jpg,5,6,7,8,cup,more\n")
    labels = detection.load(path)

    assert read(labels, tmp_path / "images") == {"a.jpg": [[1, 2, 30, 40], [5, 6, 7, 8]]}
    assert labels.skipped == {"malformed lines": 5}


def test_a_table_need_not_be_utf_8(tmp_path):
    path = write_labels("csv", tmp_path, {"a.jpg": [(1, 2, 30, 40)]})
    path.write_bytes(path.read_bytes() + "caf\xe9.jpg,1,2,3,4,\n".encode("latin-1"))

    assert detection.load(path).skipped == {"missing photos": 1}


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", "{", "expected a COCO file in JSON, found: Expecting property name"),
        ("x.json", "[" * 100_000, "expected a COCO file in JSON"),
        ("x.json", "[]", "expected a COCO file with the lists images and annotations, found: 'list'"),
        ("x.json", '{"images": [], "info": 1}', "found: 'images, info'"),
        ("x.json", '{"images": [], "annotations": []}', "at least one photo with a box, found 0 photos with 0 boxes"),
        ("x.csv", "", "missing: image, x1, y1, x2, y2"),
        ("x.csv", "image,x1,y1\n", "missing: x2, y2"),
        ("x.csv", "image,x1,y1,x2,y2\n", "at least one photo with a box, found 0 photos with 0 boxes (csv)"),
        ("x.csv", "image,x1,y1,x2,y2\nb.jpg,1,2,3,4\nb.jpg,1,2,3,x\n", "skipped: 1 missing photo, 1 malformed line;"),
        ("x.yaml", "train: images", "found another file"),
    ],
)
def test_a_file_without_usable_labels_is_refused(tmp_path, name, content, says):
    path = write(tmp_path / name, content)

    assert says in refusal(path)
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_without_any_box_are_refused(tmp_path, layout):
    message = refusal(write_labels(layout, tmp_path, {"a.jpg": [], "b.jpg": [(3, 3, 2, 2)]}))

    left = 0 if layout == "csv" else 1
    assert f"expected at least one photo with a box, found {left} photo" in message
    assert "skipped: 1 photo without a usable label, 1 empty box; photos were searched in" in message


def test_an_unknown_layout_is_refused_and_all_four_are_named(tmp_path):
    (tmp_path / "images").mkdir()

    for path, found in ((tmp_path, "found a folder of none of them"), (tmp_path / "no", "found no such path")):
        message = refusal(path)
        assert found in message
        assert all(name in message for name in ("VOC", "YOLO", "COCO", "CSV"))
    (tmp_path / "labels").mkdir()
    assert "no photo found" in refusal(tmp_path)


@pytest.mark.parametrize("layout", ["voc", "yolo"])
def test_a_folder_of_photos_is_only_for_coco_and_csv(tmp_path, layout):
    message = refusal(write_labels(layout, tmp_path, {"a.jpg": [(1, 2, 30, 40)]}), images=tmp_path)

    assert f"for a {layout.upper()} folder, which holds its photos; leave it out" in message


# What is printed


def test_the_summary_is_one_line_of_what_was_read_and_what_was_skipped():
    photo = detection.Labelled(Path("a.jpg"), np.array([[0, 0, 5, 5]] * 3, np.float32))

    labels = detection.Labels("coco", (photo,) * 500, {"malformed XML files": 1, "missing photos": 1200})
    assert labels.summary() == (
        "500 photos with 1,500 boxes (coco); skipped: 1,200 missing photos, 1 malformed XML file"
    )
    assert detection.Labels("csv", (photo,), {}).summary() == "1 photo with 3 boxes (csv)"


def test_every_reason_of_a_reader_is_known_to_the_summary():
    # A reason that is misspelt in a reader would be counted but never shown.
    source = "".join(file.read_text() for file in Path(detection.__file__).parent.glob("*.py"))
    for many in REASONS:
        assert source.count(f'"{many}"') >= 2
    with pytest.raises(ValueError, match="unknown reason"):
        detection.Labels("csv", (), {"bad karma": 1})


@pytest.mark.shared_data
def test_real_labels_are_read(shared_data):
    yolo = detection.load(shared_data / "coco128")
    table = detection.load(shared_data / "instre_dev" / "object_boxes.csv")

    # Two photos show nothing, and two of the 128 label files have no photo.
    assert yolo.summary() == "128 photos with 929 boxes (yolo); skipped: 2 missing photos"
    assert sum(not len(photo.boxes) for photo in yolo.photos) == 2
    assert table.layout == "csv"
    assert table.skipped == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("name", ["table.csv", "coco.json"])
def test_a_fifo_among_the_labels_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with ThreadPoolExecutor() as pool:
        found = pool.submit({"table.csv": table.read, "coco.json": coco.read}[name], tmp_path / name, (tmp_path,))
        small = pool.submit(reading.small_file, tmp_path / name)
        try:
            with pytest.raises(InputError, match="the labels cannot be read \\(not a regular file\\)"):
                found.result(timeout=20)
            assert small.result(timeout=20) is None
        finally:  # whatever waits for a writer gets one, which ends at once
            os.close(os.open(tmp_path / name, os.O_RDWR | os.O_NONBLOCK))
