"""The command line: what a person types, what they see, and the exit code."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udq.features.extractor import Extractor
from udq.search.scan import kernels


@pytest.fixture
def truth(tmp_path):
    """A ground truth of one query with two boxes known."""
    file = tmp_path / "truth.csv"
    file.write_text(
        "query_image,x1,y1,x2,y2,positives,positive_boxes,object\n"
        "views/motorcycle_right.png,47,20,628,451,views/motorcycle_left.png,80 40 680 470,motorcycle\n"
        "coffee.png,,,,,coffee.png|rocket.png,,cup\n"
    )
    return file


def one_line(err):
    """Assert that an error is one line for a person, and return it."""
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("udq: ")
    assert "Traceback" not in err
    return lines[0]


def test_garbage_is_collected_after_a_search_as_before(udq, collection, photos):
    assert udq("search", collection.path, photos / "coffee.png")[0] == 0
    assert gc.isenabled()
    assert udq("search", collection.path, photos / "no.png")[0] == 2
    assert gc.isenabled()


def test_help_has_an_example_for_every_command(udq):
    code, overview, _ = udq("--help")
    assert code == 0
    for command in ("index", "search", "evaluate", "info", "verify", "reproduce", "demo"):
        assert command in overview
        code, out, _ = udq(command, "--help")
        assert code == 0
        assert f"Example: udq {command}" in out


def test_no_command_prints_the_help(udq):
    assert udq()[1] == udq("--help")[1]


def test_index_builds_and_info_tells(udq, photos, tmp_path):
    (tmp_path / "quick.toml").write_text(
        "[quantizer]\ndimensions = 64\niterations = 1\n[training]\nstop_early = false\n"
    )
    code, out, err = udq(
        "index", photos, "-o", tmp_path / "x.udq", "--config", tmp_path / "quick.toml",
        "--subspaces", 4, "--codewords", 64, "--iterations", 0, "--refine", "cbr", "--lambda", 0.1, "--seed", 3,
        "--device", "cpu", "--json",
    )  # fmt: skip
    built = json.loads(out)
    assert code == 0
    assert "encoding photos" in err  # progress goes to stderr, JSON alone to stdout
    assert (built["images"], built["subspaces"], built["codewords"], built["bytes_per_region"]) == (12, 4, 64, 3)
    assert built["config"]["quantizer"]["dimensions"] == 64
    training = built["config"]["training"]
    assert (training["iterations"], training["refine"], training["weight"]) == (0, "cbr", 0.1)
    assert (training["enabled"], built["config"]["sample"]["seed"]) == (True, 3)
    assert built["model"].startswith("trained on")
    (only,) = built["training"]["rounds"]
    assert only["separability"][-1] < only["separability"][0]
    assert built["training"]["stopped"] is None

    code, out, _ = udq("info", tmp_path / "x.udq", "--json")
    del built["elapsed_s"]
    assert (code, json.loads(out)) == (0, built)
    code, out, _ = udq("info", tmp_path / "x.udq")
    assert code == 0
    assert "3 bytes per code (M = 4, K = 64)" in out
    assert f"\nscan          {built['scan']}\n" in out
    assert built["scan"] == kernels.kernel()


def test_no_train_keeps_the_pretrained_features(udq, photos, tmp_path):
    code, out, err = udq("index", photos / "coffee.png", "-o", tmp_path / "x.udq", "--no-train", "--json")

    assert code == 0
    assert json.loads(out)["model"].startswith("fitted to")
    assert json.loads(out)["training"] is None
    assert "training" not in err

    code, out, err = udq("info", tmp_path / "x.udq", "--picture", tmp_path / "curves.png")
    assert (code, out) == (2, "")
    assert "x.udq: built without training, so it has no curves; build it again without --no-train" in one_line(err)
    assert [path.name for path in tmp_path.iterdir()] == ["x.udq"]


def test_info_draws_how_training_went(udq, collection, tmp_path):
    code, out, _ = udq("info", collection.path, "--picture", tmp_path / "curves.png")

    assert code == 0
    assert out.splitlines()[-1] == f"picture: {tmp_path / 'curves.png'}"
    with Image.open(tmp_path / "curves.png") as drawn:
        assert drawn.width == 1800

    code, out, _ = udq("info", collection.path, "--picture", tmp_path / "curves.svg", "--json")
    assert (code, json.loads(out)) == (0, collection.info())
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_training_that_diverges_is_said_and_the_collection_still_searches(udq, photos, tmp_path):
    wild = "[training]\nlearning_rate = 1e30\n[quantizer]\ndimensions = 64\niterations = 1\n"
    (tmp_path / "wild.toml").write_text(wild)
    code, out, _ = udq("index", photos, "-o", tmp_path / "x.udq", "--config", tmp_path / "wild.toml", "--device", "cpu")

    assert code == 0
    assert "0 rounds; the loss of iteration 0 was no longer a number; kept the state before it" in out
    assert "fitted to" in out  # and not: trained on
    code, out, _ = udq("search", tmp_path / "x.udq", photos / "coffee.png", "-k", 1)
    assert (code, "coffee.png" in out) == (0, True)


def test_search_json_is_the_contract(udq, collection, photos):
    query = photos / "views" / "motorcycle_right.png"
    code, out, _ = udq("search", collection.path, query, "--box", "47,20,628,451", "-k", 2, "--json")
    found = json.loads(out)

    assert code == 0
    assert list(found) == ["query", "k", "found", "missing", "rerank", "elapsed_ms", "matches"]
    shown = {"image": str(query), "box": [47, 20, 628, 451]}
    assert found["query"] == {**shown, "examples": [{**shown, "wrong": False}]}
    assert found["k"] == 2
    assert list(found["elapsed_ms"]) == ["encode", "scan", "rerank", "total"]
    assert [list(match) for match in found["matches"]] == [
        [
            "rank",
            "id",
            "image",
            "width",
            "height",
            "distance",
            "score",
            "box",
            "confidence",
            "inliers",
            "polygon",
            "copies",
        ]
    ] * 2
    assert {match["image"] for match in found["matches"]} == {
        "views/motorcycle_left.png",
        "views/motorcycle_right.png",
    }


def test_search_without_a_box_asks_with_the_whole_photo(udq, collection, photos):
    code, out, _ = udq("search", collection.path, photos / "coffee.png", "-k", 1, "--json")
    width, height = Image.open(photos / "coffee.png").size

    assert code == 0
    assert json.loads(out)["query"]["box"] == [0, 0, width, height]
    assert json.loads(out)["matches"][0]["image"] == "coffee.png"


def test_search_draws_what_it_found(udq, collection, photos, tmp_path):
    code, out, _ = udq("search", collection.path, photos / "coffee.png", "-k", 3, "--picture", tmp_path / "found.png")

    assert code == 0
    assert f"picture: {tmp_path / 'found.png'}" in out
    assert "12 photos ranked" in out
    drawn = np.asarray(Image.open(tmp_path / "found.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(drawn, axis=0)) > 1000  # photos, not a blank sheet


def test_evaluate_measures_codes_and_features(udq, collection, truth, tmp_path):
    sheet = tmp_path / "sheet.jpg"
    words = ["--dataset", "boxes", "--ground-truth", truth, "--picture", sheet, "--real-valued", "--json"]
    code, out, _ = udq("evaluate", collection.path, *words)
    report = json.loads(out)

    assert code == 0
    assert (report["dataset"], report["queries"], report["bytes_per_region"]) == ("boxes", 2, 8)
    by_query = {row["query"]: row for row in report["per_query"]}
    assert by_query["views/motorcycle_right.png"]["ap"] == 1  # its other view is first, once it is left out itself
    assert by_query["coffee.png"]["positives"] == 1  # itself left out
    assert report["mAP"] == pytest.approx(np.mean([row["ap"] for row in report["per_query"]]), abs=1e-5)
    assert report["localisation"]["all_positives"]["boxes"] == 1
    assert 0 < report["localisation"]["all_positives"]["mean_iou"] <= 1
    # The one known box is of a motorcycle, which fills its photo.
    large = report["by_size"]["above_20"]
    assert (large["queries"], large["positives"], large["mAP"]) == (1, 1, 1)
    assert large["localisation"] == report["localisation"]
    assert report["real_valued"]["by_size"]["above_20"]["mAP"] == 1
    assert sum(each["positives"] for each in report["by_size"].values()) == 1
    assert report["real_valued"]["mAP"] > 0.5
    assert report["real_valued"]["mAP"] == pytest.approx(
        np.mean([row["ap_real_valued"] for row in report["per_query"]]), abs=1e-5
    )
    assert report["provenance"]["versions"]["numpy"] == np.__version__
    assert Image.open(sheet).size[0] > 500

    code, out, _ = udq("evaluate", collection.path, "--ground-truth", truth)
    assert code == 0
    assert "motorcycle" in out
    assert "8-byte codes, verify, verified-qe, diffusion: mAP" in out
    assert "real-valued" not in out
    fit = large["localisation"]["top_20"]
    assert [line.split() for line in out.split("\n\n")[2].splitlines()] == [
        ["share", "of", "the", "photo", "mAP", "queries", "positives", "mean", "IoU", "IoU", ">=", "0.5"],
        f"above 20 % 1.0000 1 1 {fit['mean_iou']:.3f} {fit['share_iou_50']:.0%}".split(),
    ]
    _, out, _ = udq("evaluate", collection.path, "--ground-truth", truth, "--json")
    assert "real_valued" not in json.loads(out)


def test_without_boxes_of_positives_nothing_is_printed_by_size(udq, collection, truth):
    truth.write_text("query_image,x1,y1,x2,y2,positives\ncoffee.png,,,,,coins.png\n")
    _, out, _ = udq("evaluate", collection.path, "--ground-truth", truth, "--json")
    assert json.loads(out)["by_size"] is None
    code, out, _ = udq("evaluate", collection.path, "--ground-truth", truth)
    assert code == 0
    assert "no known boxes" in out
    assert "share of the photo" not in out


def test_evaluate_keeps_features_and_takes_them_from_there(udq, collection, truth, tmp_path, monkeypatch):
    asked = "evaluate", collection.path, "--ground-truth", truth, "--real-valued"
    _, without, _ = udq(*asked, "--json")
    code, first, _ = udq(*asked, "--features", tmp_path / "kept", "--json")
    assert code == 0
    monkeypatch.setattr(Extractor, "_extract", None)
    code, second, _ = udq(*asked, "--features", tmp_path / "kept", "--json")

    assert code == 0
    rows = [json.loads(out)["per_query"] for out in (without, first, second)]
    assert rows[0] == rows[1] == rows[2]
    assert all("ap_real_valued" in row for row in rows[2])


def test_evaluate_writes_a_report_for_people(udq, collection, truth, tmp_path):
    page = tmp_path / "errors.html"
    code, out, _ = udq("evaluate", collection.path, "--ground-truth", truth, "--report", page)

    assert code == 0
    assert out.splitlines()[-1] == f"report: {page}, {page.stat().st_size / 1e6:.1f} MB"
    assert "motorcycle" in page.read_text(encoding="utf-8")
    assert sorted(tmp_path.iterdir()) == [page, truth]


def test_keep_query_counts_the_query_itself(udq, collection, truth):
    _, out, _ = udq("evaluate", collection.path, "--ground-truth", truth, "--keep-query", "--json")

    assert {row["query"]: row["positives"] for row in json.loads(out)["per_query"]}["coffee.png"] == 2


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ("300,10,100,200", "x1 < x2 and y1 < y2"),
        ("0,0,5000,100", "inside the photo, which is 600 x 400 pixels"),
        ("-5,0,50,100", "inside the photo"),
        ("a,b,c,d", "expected four numbers X1,Y1,X2,Y2"),
        ("1,2,3", "expected four finite numbers"),
        ("nan,0,10,10", "expected four finite numbers"),
        ("0,0,0,10", "inverted or empty"),
    ],
)
def test_a_wrong_box_is_one_line_and_usage(udq, collection, photos, box, says):
    code, out, err = udq("search", collection.path, photos / "coffee.png", f"--box={box}")

    assert (code, out) == (2, "")
    assert says in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "No such command 'nope'"),
        (["search"], 2, "Missing argument 'COLLECTION'"),
        (["index", "{photos}"], 2, "Missing option '-o'"),
        (["index", "{tmp}/nowhere", "-o", "{tmp}/x.udq"], 2, "no such file or folder"),
        (["index", "{tmp}", "-o", "{tmp}/x.udq"], 2, "no photo found"),
        (["index", "{tmp}/truth.csv", "-o", "{tmp}/x.udq"], 2, "found the suffix '.csv'"),
        (["index", "{photos}", "-o", "{collection}"], 2, "already exists"),
        (["index", "{photos}", "-o", "{tmp}/truth.csv/x.udq"], 1, "cannot create a collection here"),
        (["index", "{photos}", "{photos}/views", "{tmp}/twin", "-o", "{tmp}/x.udq"], 2, "no such file or folder"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--subspaces", "3"], 2, "expected one of 2, 4, 8, 16, found 3"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--codewords", "100"], 2, "expected one of 16, 32"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--refine", "best"], 2, "expected one of none, bfr, pbr, cbr"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--lambda", "-1"], 2, "expected 0 or more, found -1"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--preset", "best"], 2, "expected one of default, fast, fine"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--smallest", "tiny"], 2, "expected a percentage, such as 5%"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--smallest", "0.1%"], 2, "expected 0.5 to 100, in percent"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--backbone", "lenet"], 2, "expected one of efficientnet-lite0"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--weights", "{tmp}/w.pt"], 2, "no such weights file"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--weights", "{tmp}/truth.csv"], 2, "expected a state_dict"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--config", "{tmp}/no.toml"], 2, "no such configuration file"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--device", "tpu"], 2, "expected auto, cpu or cuda"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--proposals", "edges"], 2, "expected one of grid, rpn, rpn+grid"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--proposals", "grid", "--rpn", "{tmp}/truth.csv"], 2, "use no"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--rpn", "{tmp}/truth.csv"], 2, "that udq"),
        (["index", "{photos}", "-o", "{tmp}/x.udq", "--regions", "0"], 2, "expected 1 or more, found 0"),
        (["train-rpn", "{tmp}/no", "-o", "{tmp}/x.npz"], 2, "expected VOC (a folder with Annotations/"),
        (["train-rpn", "{tmp}/truth.csv", "-o", "{tmp}/x.npz"], 2, "image"),
        (["train-rpn", "{tmp}/truth.csv", "-o", "{tmp}/x.npz", "--held-out", "1"], 2, "between 0 and 1, found 1"),
        (["search", "{tmp}/no.udq", "{photos}/coffee.png"], 2, "no such collection"),
        (["search", "{photos}", "{photos}/coffee.png"], 1, "not a udq collection"),
        (["search", "{collection}", "{tmp}/no.png"], 2, "no such photo"),
        (["search", "{collection}", "{tmp}/truth.csv"], 1, "not a photo"),
        (["search", "{collection}", "{photos}/coffee.png", "-k", "0"], 2, "expected 1 or more, found 0"),
        (["search", "{collection}", "{photos}/coffee.png", "-k", "many"], 2, "should be a valid integer"),
        (["search", "{collection}", "{photos}/coffee.png", "--picture", "{tmp}/x.gif"], 2, "expected a suffix of"),
        (["search", "{collection}", "{photos}/coffee.png", "--picture", "{tmp}/no/x.png"], 1, "cannot be written"),
        (["evaluate", "{collection}", "--ground-truth", "{tmp}/no.csv"], 2, "cannot be read"),
        (["evaluate", "{collection}", "--ground-truth", "{tmp}/no.csv", "--features", "{tmp}/x"], 2, "--real-valued"),
        (["evaluate", "{collection}", "--ground-truth", "{tmp}/truth.csv", "--dataset", "x"], 2, "expected one of"),
        (["evaluate", "{collection}", "--ground-truth", "{tmp}/no.csv", "--report", "{tmp}/x.pdf"], 2, "of .html"),
        (["evaluate", "{collection}", "--ground-truth", "{tmp}/no.csv", "--report", "{tmp}/no/x.html"], 2, "no folder"),
        (["info", "{photos}"], 1, "not a udq collection"),
        (["info", "{collection}", "--picture", "{tmp}/x.gif"], 2, "expected a suffix of .jpg, .jpeg, .pdf, .png, .svg"),
        (["info", "{collection}", "--picture", "{tmp}/no/x.png"], 1, "cannot be written"),
        (["verify", "{tmp}/no.udq"], 2, "no such collection"),
        (["demo", "-o", "{photos}"], 2, "already exists"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_changes_nothing(udq, photos, collection, truth, tmp_path, arguments, code, says):
    places = {"photos": photos, "collection": collection.path, "tmp": tmp_path}
    found, out, err = udq(*(argument.format(**places) for argument in arguments))

    assert says in one_line(err)
    assert (found, out) == (code, "")
    assert sorted(tmp_path.iterdir()) == [truth]
    assert collection.verify() == []


def test_a_network_trained_on_ones_own_boxes_proposes_the_regions_of_a_collection(udq, photos, tmp_path):
    rows = ["image,x1,y1,x2,y2", "coffee.png,80,20,478,386", "chelsea.png,60,20,400,300", "gone.png,1,1,9,9"]
    (tmp_path / "boxes.csv").write_text("\n".join([*rows, "rocket.png,9,9,9,20", "camera.png,90,50,330,500"]))
    code, out, err = udq(
        "train-rpn", tmp_path / "boxes.csv", "--images", photos, "--views", "1", "-o", tmp_path / "x.npz"
    )
    assert code == 0
    assert "3 photos with 3 boxes (csv); skipped: 1 missing photo" in err
    assert "1 empty box" in err
    assert f"  {tmp_path / 'boxes.csv'}, line 4: missing photo: gone.png\n" in err
    assert f"  {tmp_path / 'boxes.csv'}, line 5: empty box: 9,9,9,20 in rocket.png of 640 x 427 pixels\n" in err
    assert "IoU 0.5" in out
    assert f"--rpn {tmp_path / 'x.npz'}" in out

    options = "--proposals", "rpn", "--smallest", "0", "--regions", "20", "--rpn", tmp_path / "x.npz"
    assert udq("index", photos, "-o", tmp_path / "x.udq", *options)[0] == 0
    facts = json.loads(udq("info", tmp_path / "x.udq", "--json")[1])
    assert facts["rpn"]["path"] == str((tmp_path / "x.npz").resolve())
    assert facts["regions"] <= 12 * 21
    assert udq("search", tmp_path / "x.udq", photos / "coffee.png", "--box", "80,20,478,386", "-k", "1")[0] == 0
    assert udq("retrain", tmp_path / "x.udq", "--iterations", "0")[0] == 0

    shutil.copytree(tmp_path / "x.udq", tmp_path / "grid.udq")
    (tmp_path / "grid.toml").write_text('[features]\nproposals = "grid"\n')
    assert udq("retrain", tmp_path / "grid.udq", "--iterations", "0", "--config", tmp_path / "grid.toml")[0] == 0
    assert json.loads(udq("info", tmp_path / "grid.udq", "--json")[1])["rpn"] is None

    (tmp_path / "x.npz").write_bytes(b"other")
    code, _, err = udq("search", tmp_path / "x.udq", photos / "coffee.png")
    assert code == 1
    assert "not the weights of the region proposal network this collection was built with" in one_line(err)


def test_two_photos_of_one_name_are_refused(udq, photos, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(photos / "coffee.png", tmp_path / "other" / "coffee.png")
    code, _, err = udq("index", photos, tmp_path / "other", "-o", tmp_path / "x.udq")

    assert code == 2
    assert "two photos would be named 'coffee.png'" in one_line(err)


def test_broken_photos_are_listed_at_the_end_and_by_info(udq, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photos / "coffee.png", folder / "coffee.png")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").touch()
    code, _, err = udq("index", folder, "-o", tmp_path / "x.udq")
    assert code == 0
    assert "1 photo could not be read and is not in the collection:" in err
    assert "empty.jpg: empty file" in err

    _, out, _ = udq("info", tmp_path / "x.udq")
    assert "empty.jpg: empty file" in out
    assert "(1 could not be read)" in out
    assert "passed over   1 other file\n" in out
    assert udq("verify", tmp_path / "x.udq")[0] == 0


def test_a_newer_format_is_not_opened(udq, collection, tmp_path):
    copy = shutil.copytree(collection.path, tmp_path / "x.udq")
    manifest = json.loads((copy / "collection.json").read_text())
    (copy / "collection.json").write_text(json.dumps(manifest | {"version": 99}))
    code, _, err = udq("info", copy)

    assert code == 1
    assert "format version 99 is newer" in one_line(err)
    assert "upgrade udq" in err


def test_verify_names_a_damaged_file(udq, collection, tmp_path):
    copy = shutil.copytree(collection.path, tmp_path / "x.udq")
    codes = copy / "segments" / "000001" / "codes.npy"
    data = bytearray(codes.read_bytes())
    data[-1] ^= 1
    codes.write_bytes(data)
    code, out, err = udq("verify", copy, "--json")

    assert code == 1
    [damaged] = json.loads(out)["damaged"]
    assert (damaged["file"], damaged["images"]) == ("segments/000001/codes.npy", collection.names)
    assert "1 damaged file; restore the collection from a copy, or run 'udq verify --repair'" in one_line(err)


def test_a_missing_file_of_a_collection_is_one_line(udq, collection, photos, tmp_path):
    copy = shutil.copytree(collection.path, tmp_path / "x.udq")
    (copy / "segments" / "000001" / "boxes.npy").unlink()
    code, _, err = udq("search", copy, photos / "coffee.png")

    assert code == 1
    assert (
        "boxes.npy: damaged (No such file or directory); restore it from a copy, or run 'udq verify --repair'"
        in one_line(err)
    )


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a path that is never writable")
def test_no_permission_to_write_is_one_line(udq, photos):
    code, _, err = udq("index", photos, "-o", "/proc/x.udq")

    assert code == 1
    assert "cannot create a collection here" in one_line(err)


def test_ctrl_c_stops_an_index_and_says_how_to_go_on(photos, tmp_path):
    many = tmp_path / "photos"
    for copy in range(40):
        shutil.copytree(photos, many / str(copy))
    command = [
        sys.executable,
        "-c",
        "from udq.cli.main import main; main()",
        "index",
        str(many),
        "-o",
        str(tmp_path / "x.udq"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".x.udq.partial/scratch/photos/*.npz")) and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err
    left = tmp_path / ".x.udq.partial"
    assert err.strip().splitlines()[-1] == (
        f"udq: interrupted; run the same command to continue, or delete {left} to give up"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "photos"]


def test_a_reader_that_goes_away_is_no_error(collection):
    script = f"{sys.executable} -c 'from udq.cli.main import main; main()' info {collection.path} --json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "{"
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["--picture", "--lines"])
@pytest.mark.parametrize("name", ["coffee.png", "coins.png", "link.png"])
def test_results_never_replace_a_photo(udq, place, option, name):
    (place / "link.png").symlink_to(place / "photos" / "coins.png")
    target = place / name if name == "link.png" else place / "photos" / name
    before = target.read_bytes()
    query = place / "photos" / "coffee.png", "--rerank", "verify"
    code, _, err = udq("search", place / "x.udq", *query, option, target)
    assert code == 2
    assert "which results must not replace" in err
    assert target.read_bytes() == before
    code, _, err = udq("info", place / "x.udq", "--picture", target)
    assert (code, target.read_bytes()) == (2, before)


@pytest.mark.skipif(os.name != "posix", reason="POSIX has FIFOs")
def test_results_never_replace_what_is_no_file(udq, place):
    os.mkfifo(place / "pipe.png")
    code, _, err = udq("search", place / "x.udq", place / "photos" / "coffee.png", "--picture", place / "pipe.png")
    assert (code, "found something else" in err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("index", "", "-o", "{new}"),
        ("index", "{photos}", "-o", ""),
        ("index", "{photos}", "-o", "{new}", "--config", ""),
        ("add", "{collection}", ""),
        ("add", "{collection}", "{photos}", ""),
        ("relocate", "{collection}", "{photos}", ""),
        ("relocate", "{collection}", "", "{photos}"),
        ("search", "", "{photos}/coffee.png"),
        ("datasets", "check", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(udq, collection, photos, tmp_path, monkeypatch, words):
    monkeypatch.chdir(photos)
    places = {"collection": collection.path, "photos": photos, "new": tmp_path / "new.udq"}
    code, _, err = udq(*(word.format(**places) for word in words))
    assert code == 2
    assert "expected a path, found an empty one" in one_line(err)
    assert not (tmp_path / "new.udq").exists()


@pytest.mark.parametrize("option", ["--config", "--ground-truth"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_or_a_device_is_no_text_file(photos, tmp_path, option):
    os.mkfifo(tmp_path / "fifo")
    for file in (tmp_path / "fifo", "/dev/zero"):
        words = ["index", photos, "-o", tmp_path / "x.udq", option, file]
        run = subprocess.run(
            [sys.executable, "-c", "from udq.cli.main import main; main()", *map(str, words)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 2
        assert "not a regular file" in one_line(run.stderr)


def test_ctrl_c_while_the_commands_are_imported_is_one_line():
    script = (
        "import os, signal, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from udq.cli.main import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 130
    assert one_line(run.stderr) == "udq: interrupted; nothing was done"
