"""Official protocols end to end: photos in an official layout -> udq index -> udq evaluate --dataset."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import scipy.io
from html_page import Page

from udq.datasets import GroundTruth
from udq.datasets.protocol import notes
from udq.experiments.demo.cutouts import photo

# Official names -> photos: one object in two views, and other objects.
NAMES = {
    "all_souls_000013": "motorcycle_left",
    "all_souls_000026": "motorcycle_right",
    "oxford_000001": "coffee",
    "oxford_000002": "rocket",
    "oxford_000003": "china",
    "oxford_000004": "flower",
    "oxford_000005": "astronaut",
    "oxford_000006": "chelsea",
}
BOX = "47.5 20 628.0 451.2"


@pytest.fixture(scope="module")
def oxford(tmp_path_factory):
    """A folder with the layout of Oxford5K: ``jpg`` with photos of official names, ``gt`` with ground-truth files."""
    folder = tmp_path_factory.mktemp("oxford")
    (folder / "jpg").mkdir()
    (folder / "gt").mkdir()
    for name, shipped in NAMES.items():
        photo(shipped).convert("RGB").save(folder / "jpg" / f"{name}.jpg", quality=95)
    files = {
        "query": f"oxc1_all_souls_000013 {BOX}\n",
        "good": "all_souls_000013\nall_souls_000026\n",
        "ok": "",
        "junk": "oxford_000001\n",
    }
    for kind, text in files.items():
        (folder / "gt" / f"all_souls_1_{kind}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def indexed(oxford, tmp_path_factory):
    """A collection of all photos, one of all but the query photo, and the folder of the query photo."""
    from udq import Collection
    from udq.config import IndexConfig

    settings = IndexConfig().replace({"training": {"enabled": False}})
    folder = tmp_path_factory.mktemp("indexed")
    whole = Collection.build(oxford / "jpg", folder / "whole.udq", config=settings, device="cpu")
    shutil.copytree(oxford / "jpg", folder / "database" / "jpg")
    (folder / "queries").mkdir()
    shutil.move(folder / "database" / "jpg" / "all_souls_000013.jpg", folder / "queries")
    without = Collection.build(folder / "database", folder / "without.udq", config=settings, device="cpu")
    return whole, without, folder / "queries"


def revisited(file, **changes):
    """Write a ground truth of the photos above in the format of gnd_roxford5k.mat: the second view is hard."""
    database = [name for name in NAMES if name != "all_souls_000013"]
    record = {"easy": [], "hard": [1], "junk": [2], "bbx": [float(side) for side in BOX.split()]} | changes
    gnd = np.empty((1, 1), [(name, object) for name in record])
    for name, values in record.items():
        gnd[0, 0][name] = np.array(values, ndmin=2)
    images, queries = (np.array([names], object) for names in (database, ["all_souls_000013"]))
    scipy.io.savemat(file, {"imlist": images, "qimlist": queries, "gnd": gnd}, do_compression=True)
    return file


def evaluate(udq, collection, dataset, truth, *more):
    return udq("evaluate", collection.path, "--dataset", dataset, "--ground-truth", truth, *more)


def test_oxford_follows_the_official_protocol(udq, oxford, indexed, tmp_path):
    sheet = tmp_path / "sheet.jpg"
    code, out, _ = evaluate(udq, indexed[0], "oxford5k", oxford / "gt", "--json", "--picture", sheet)
    report = json.loads(out)

    assert code == 0
    assert sheet.exists()
    assert (report["dataset"], report["queries"], report["images"], report["keep_query"]) == ("oxford5k", 1, 8, True)
    # The query photo is first and the other view of the object second: coffee is junk, so it takes no rank.
    assert (report["mAP"], report["mP@1"], report["mP@10"]) == (1, 1, 1)
    assert report["per_query"] == [
        {"query": "all_souls_000013.jpg", "box": [47.5, 20, 628, 451.2], "object": "all_souls_1", "ap": 1,
         "positives": 2}
    ]  # fmt: skip
    assert "difficulties" not in report
    assert report["notes"] == [
        "1 query; oxford5k has 55: not the published protocol",
        "missing: 5,060 of the 5,063 photos of oxford5k, 'all_souls_000000' first; published figures are of all",
        # Names made up for this test.
        "not of oxford5k: 5 photos, 'oxford_000001.jpg' first; published figures are of its own, or of these and known "
        "distractors",
    ]

    code, out, _ = evaluate(udq, indexed[0], "oxford5k", oxford / "gt")
    assert code == 0
    assert "note: missing: 5,060 of the 5,063 photos of oxford5k" in out
    assert "mAP 1.0000 of 1 query, no known boxes\n               mP@1 1.000  mP@5 1.000  mP@10 1.000\n" in out


def test_revisited_has_three_difficulties_and_queries_from_outside(udq, indexed, tmp_path):
    _, without, queries = indexed
    truth = revisited(tmp_path / "gnd_roxford5k.mat")
    code, out, _ = evaluate(udq, without, "roxford5k", truth, "--queries", queries, "--json", "--real-valued")
    report = json.loads(out)

    assert code == 0
    assert report["real_valued"]["difficulties"]["hard"]["mAP"] == 1
    figures = {"queries": 1, "mAP": 1, "mP@1": 1, "mP@5": 1, "mP@10": 1}
    empty = dict.fromkeys(figures) | {"queries": 0}
    assert report["difficulties"] == {"easy": empty, "medium": figures, "hard": figures}
    assert (report["mAP"], report["queries"], report["images"], report["keep_query"]) == (1, 1, 7, False)
    (row,) = report["per_query"]
    assert row["query"] == "all_souls_000013"
    assert row["difficulties"]["easy"] == {"ap": None, "positives": 0}

    page = tmp_path / "errors.html"
    code, out, _ = evaluate(udq, without, "roxford5k", truth, "--queries", queries, "--report", page)
    assert code == 0
    shown = Page(page.read_text(encoding="utf-8"))
    assert "codes, hard1.0001.0001.0001.0001\ncodes" not in shown.text  # hard comes last
    assert "codes, easy––––0" in shown.text
    assert "all_souls_000013" in shown.text  # whose photo is not in the collection
    assert "Note: 1 query; roxford5k has 70" in shown.text
    assert "  hard         mAP 1.000  mP@1 1.000  mP@5 1.000  mP@10 1.000  of 1 query\n" in out
    assert "  easy         mAP -" in out


def test_photos_that_a_data_set_lists_are_compared_with_the_collection(udq, indexed, tmp_path):
    _, without, queries = indexed
    held = [name for name in NAMES if name != "all_souls_000013"]
    truth = revisited(tmp_path / "gnd_roxford5k.mat")
    content = scipy.io.loadmat(truth)
    listed = np.array([[held[0], held[1], "oxford_000009", *held[3:]]], object)  # as many, but not the same
    scipy.io.savemat(truth, {"imlist": listed, "qimlist": content["qimlist"], "gnd": content["gnd"]})
    code, out, err = evaluate(udq, without, "roxford5k", truth, "--queries", queries, "--json")
    notes = json.loads(out)["notes"]

    assert code == 0
    assert notes == [
        "1 query; roxford5k has 70: not the published protocol",
        "the ground truth lists 7 photos; roxford5k has 4,993: not the published protocol",
        "missing: 1 of the 7 photos of roxford5k, 'oxford_000009' first; published figures are of all",
        "not of roxford5k: 1 photo, 'jpg/oxford_000002.jpg' first; published figures are of its own, or of these and "
        "known distractors",
    ]
    assert err.splitlines()[-4:] == [
        f"note: {note}" for note in notes
    ]  # also on stderr, in case the JSON goes to a file


def test_an_unreadable_photo_is_not_counted_as_missing():
    truth = GroundTruth("instre", (), "outside", official=(0, 3), database=("a", "b", "c"))

    assert notes(truth, {"a", "c"}, {"b"}) == [
        "unreadable: 1 of the 3 photos of instre, 'b' first; published figures are of all"
    ]
    assert notes(truth, {"a", "b", "c", "noise"}, (), distractors=True) == []


def test_query_photos_are_found_beside_the_ground_truth(udq, indexed, tmp_path):
    _, without, queries = indexed
    (tmp_path / "jpg").mkdir()
    shutil.copy(queries / "all_souls_000013.jpg", tmp_path / "jpg")
    code, out, _ = evaluate(udq, without, "roxford5k", revisited(tmp_path / "gnd_roxford5k.mat"), "--json")

    assert (code, json.loads(out)["mAP"]) == (0, 1)


def test_query_photos_of_a_csv_benchmark_may_be_outside_the_collection(udq, indexed, tmp_path):
    _, without, queries = indexed
    (tmp_path / "truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives\nall_souls_000013.jpg,47,20,628,451,jpg/all_souls_000026.jpg\n"
    )
    code, out, _ = evaluate(udq, without, "boxes", tmp_path / "truth.csv", "--queries", queries, "--json")
    assert (code, json.loads(out)["mAP"]) == (0, 1)

    code, _, err = evaluate(udq, without, "boxes", tmp_path / "truth.csv")
    assert code == 2
    assert "'all_souls_000013.jpg' first; index the folder" in err


def refused(udq, says, *arguments):
    """Assert that an evaluation is refused in one line."""
    code, _, err = evaluate(udq, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert says in err


def test_a_query_photo_in_the_database_is_an_error(udq, indexed, tmp_path):
    truth = revisited(tmp_path / "gnd_roxford5k.mat")
    refused(udq, "expected a database without query photos, found 1 of them", indexed[0], "roxford5k", truth)


def test_a_missing_query_photo_is_an_error(udq, indexed, tmp_path):
    _, without, queries = indexed
    truth = revisited(tmp_path / "gnd_roxford5k.mat")
    refused(udq, "give their folder with --queries", without, "roxford5k", truth)
    (tmp_path / "empty").mkdir()
    refused(udq, "check --queries", without, "roxford5k", truth, "--queries", tmp_path / "empty")
    refused(udq, "found no folder", without, "roxford5k", truth, "--queries", tmp_path / "no")
    refused(udq, "leave it out", without, "roxford5k", truth, "--queries", queries, "--keep-query")


def test_a_missing_folder_of_queries_is_an_error_even_if_it_is_not_needed(udq, indexed, oxford, tmp_path):
    says = f"--queries {tmp_path / 'no'}: expected the folder of query photos, found no folder"
    refused(udq, says, indexed[0], "oxford5k", oxford / "gt", "--queries", tmp_path / "no")


def test_ambiguous_query_photos_are_an_error(udq, indexed, tmp_path):
    _, without, queries = indexed
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(queries / "all_souls_000013.jpg", tmp_path / name)
    truth = revisited(tmp_path / "gnd_roxford5k.mat")
    refused(udq, "keep one of them, or give --queries FOLDER", without, "roxford5k", truth)
    refused(udq, "or give --queries another folder", without, "roxford5k", truth, "--queries", tmp_path)


def test_names_of_other_photos_are_an_error(udq, collection, oxford, indexed):
    refused(udq, "names 2 photos that the collection does not hold", collection, "oxford5k", oxford / "gt")
    refused(udq, "names 1 photo that the collection does not hold, 'all_souls_000013'", indexed[1], "oxford5k",
            oxford / "gt")  # fmt: skip
    refused(udq, "this is the ground truth of oxford5k; check --dataset", indexed[0], "paris6k", oxford / "gt")


def test_a_box_for_a_photo_of_another_size_is_an_error(udq, indexed, tmp_path):
    _, without, queries = indexed
    truth = revisited(tmp_path / "gnd_roxford5k.mat", bbx=[136.5, 34.1, 648.5, 2955.7])
    says = "query all_souls_000013: box 136.5,34.1,648.5,2955.7: expected x1,y1,x2,y2"
    refused(udq, says, without, "roxford5k", truth, "--queries", queries)


def test_a_box_half_a_pixel_too_large_is_clipped(udq, indexed, tmp_path):
    _, without, queries = indexed
    width, height = photo(NAMES["all_souls_000013"]).size
    truth = revisited(tmp_path / "gnd_roxford5k.mat", bbx=[-0.5, 0, width + 0.5, height + 0.5])
    code, _, _ = evaluate(udq, without, "roxford5k", truth, "--queries", queries)

    assert code == 0
