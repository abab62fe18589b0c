"""udq reproduce: the paper's values as data, and the runner that measures them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from udq import Collection, datasets
from udq.common.progress import silent
from udq.config import IndexConfig
from udq.errors import DiskError
from udq.evaluation import benchmark
from udq.experiments.paper import runner, tables, timing, tuning
from udq.experiments.paper.data import DataFolder
from udq.experiments.paper.features import CachedPhotos
from udq.experiments.paper.settings import Settings
from udq.experiments.paper.workbench import RoundCheckpoints, Workbench, describe
from udq.features.extractor import Extractor
from udq.photos.source import find
from udq.search.ranking import ranking_by_feature
from udq.training import algorithm, sampling
from udq.training.query_tuning import QueryTuning

QUICK = """
[images]
shorter = 160
longer = 224
smallest = 0.0
[features]
regions = 40
[quantizer]
dimensions = 64
iterations = 1
[training]
hidden = 0
epochs = 1
iterations = 1
refine_from = 0
stop_early = false
"""
END_TO_END = QUICK + "end_to_end = true\nconvolutions_rate = 1e-4\nbatch = 200\n[sample]\nphotos = 8\n"


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory):
    """A custom benchmark on the twelve photos; one of its queries cannot be answered well."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(photos, folder / "images")
    (folder / "ground_truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives,positive_boxes,junk\n"
        "views/motorcycle_right.png,47,20,628,451,views/motorcycle_left.png,80 40 680 470,\n"
        "coffee.png,81,20,478,386,rocket.png|page.png,,\n"
        "china.png,,,,,flower.png,,brick.png\n"
    )
    return folder


@pytest.fixture
def quick(tmp_path):
    """Settings that take little time."""
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    return file


def config_of(file):
    return IndexConfig.from_toml(file, IndexConfig())


def value(name, row, column):
    return next(cell.paper for cell in tables.load(name).cells if cell.where == f"{row}, {column}")


def error_line(err):
    """Return the only line on stderr that is an error message."""
    lines = [line for line in err.splitlines() if line.startswith("udq: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


# --- the paper as data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row", "column", "printed"),
    [
        ("table2", "M = 2, 12 bits", "Off-the-shelf-OPQ", "0.494"),
        ("table2", "M = 4, 32 bits", "UDQ", "0.838"),
        ("table2", "M = 8, 72 bits", "Off-the-shelf-OPQ", "0.766"),
        ("table3", "M = 2, 18 bits", "VGG16, Oxford105K", "0.805"),
        ("table3", "M = 8, 72 bits", "ResNet101, Oxford105K", "0.883"),
        ("table4", "M = 4, 24 bits", "VGG16, Paris106K", "0.733"),
        ("table4", "M = 8, 64 bits", "ResNet101, Paris6K", "0.877"),
        ("table5", "Yang et al. [9]", "Paris6K, W", "0.872"),
        ("table5", "Do et al. [52]", "Oxford105K, W/O", "0.447"),
        ("table5", "UDQ-CBR", "Paris106K, W/O", "0.889"),
        ("table6", "Radenovic et al. [16], 512d/2048d", "Oxford5K, W", "0.910"),
        ("table6", "UDQ-BFR, 8bytes/9bytes", "Oxford105K, W/O", "0.897"),
        ("table7", "Paris6K", "Real-valued descriptors [4]", "0.182"),
        ("fig4", "lambda = 0.01", "Paris6K", "0.865"),
    ],
)
def test_values_are_those_of_the_paper(name, row, column, printed):
    assert value(name, row, column) == printed


def test_values_that_tables_share_are_equal():
    rows = tables.load("table2").rows
    sets = ("Oxford5K", "Oxford105K", "Paris6K", "Paris106K")

    for row in rows:
        assert value("table2", row, "UDQ") == value("table3", row, "VGG16, Oxford5K")
    for dataset in sets:
        table, bits = ("table3", 72) if dataset.startswith("Oxford") else ("table4", 64)
        # Table 5's UDQ-Baseline, without refinement, is the default of tables 3 and 4.
        assert value("table5", "UDQ-Baseline", f"{dataset}, W/O") == value(
            table, f"M = 8, {bits} bits", f"ResNet101, {dataset}"
        )
        best = value("table5", "UDQ-BFR", f"{dataset}, W/O")
        assert best == value("table6", "UDQ-BFR, 8bytes/9bytes", f"{dataset}, W/O") == value("fig5", "UDQ-BFR", dataset)
    # The text: "outperform the second best methods by 5.0%, 7.2%, 2.8%, 9.1%".
    for dataset, gain in zip(sets, (0.050, 0.072, 0.028, 0.091), strict=True):
        others = [
            float(cell.paper)
            for cell in tables.load("table5").cells
            if cell.measure is None and cell.column.startswith(f"{dataset}, ") and cell.paper not in ("", "N/A")
        ]
        ours = float(value("table5", "UDQ-BFR", f"{dataset}, W/O"))
        assert ours - max(others) == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_cell_is_complete_and_valid(name):
    experiment = tables.load(name)

    assert len({cell.where for cell in experiment.cells}) == len(experiment.cells)
    for cell in experiment.cells:
        assert cell.paper in ("", "N/A") or 0 < float(cell.paper) < 1
        if cell.measure is None:
            continue
        assert cell.measure in tables.ACCURACIES + tables.TIMES
        assert cell.dataset in tables.DATASETS
        settings = IndexConfig().replace(cell.changes)
        bits = settings.quantizer.subspaces * (settings.quantizer.codewords - 1).bit_length()
        if "bits" in cell.row:
            assert cell.row == f"M = {settings.quantizer.subspaces}, {bits} bits"


# --- end to end ----------------------------------------------------------------------------------------------------


def test_presets_are_shown_side_by_side(udq, data, quick, tmp_path):
    command = "reproduce", "table2", "--data", data, "--config", quick, "--limit", "1", "-o", tmp_path / "out"
    code, out, _ = udq(*command, "--preset", "default,fast")
    assert code == 0
    assert out.splitlines()[-1] == f"written: {tmp_path / 'out' / 'table2.md'}"
    values = [
        json.loads((tmp_path / "out" / name / "table2.json").read_text())["cells"][0]["measured"]
        for name in ("default", "fast")
    ]
    table = (tmp_path / "out" / "table2.md").read_text()
    assert "Each cell: the paper's value / preset default / preset fast." in table
    assert f"| M = 2, 12 bits | 0.494 / {values[0]:.3f} / {values[1]:.3f} | 0.514 / – / – |" in table
    code, _, err = udq(*command, "--preset", "default,slow")
    assert code == 2
    assert "expected one of default, fast" in error_line(err)


def test_features_are_fine_tuned_on_the_queries_and_an_interrupted_run_continues(udq, data, tmp_path, monkeypatch):
    def reproduce(steps, name):
        file = tmp_path / f"{name}.toml"
        file.write_text(f"{QUICK}query_steps = {steps}\nconvolutions_rate = 0.001\n")
        output = tmp_path / name
        return udq("reproduce", "table2", "--data", data, "--config", file, "--limit", "2", "-o", output)[0]

    def measured(name):
        facts = json.loads((tmp_path / name / "table2.json").read_text())
        return [cell["on"]["values"]["real_valued"] for cell in facts["cells"][:2]]

    assert reproduce(0, "pretrained") == reproduce(6, "tuned") == 0
    assert measured("tuned") != measured("pretrained")

    stepped = QueryTuning.step

    def step(self):
        if self.done == 5:
            raise KeyboardInterrupt
        stepped(self)

    monkeypatch.setattr(tuning, "_SAVED", 2)
    with monkeypatch.context() as patch:
        patch.setattr(QueryTuning, "step", step)
        assert reproduce(6, "interrupted") != 0
    done = []
    monkeypatch.setattr(QueryTuning, "step", lambda self: (done.append(self.done), stepped(self)))
    assert reproduce(6, "interrupted") == 0
    assert done == [4, 5]
    assert measured("interrupted") == measured("tuned")


def test_a_sample_that_does_not_fit_into_memory_is_known_before_fine_tuning(udq, data, tmp_path, monkeypatch):
    file = tmp_path / "all.toml"
    file.write_text(f"{QUICK}query_steps = 6\n[sample]\nphotos = 0\nregions = 0\n")
    monkeypatch.setattr(sampling, "_COPIES", 10**9)
    monkeypatch.setattr(QueryTuning, "step", lambda self: pytest.fail("fine-tuning began"))
    code, out, _ = udq("reproduce", "table2", "--data", data, "--config", file, "--limit", "1", "-o", tmp_path / "out")

    assert code == 1
    assert "training on all regions takes about" in out


@pytest.mark.parametrize(("settings", "cells"), [(QUICK, 4), (END_TO_END, 2)])
def test_a_cell_equals_what_index_and_evaluate_measure(udq, data, tmp_path, settings, cells):
    file = tmp_path / "settings.toml"
    file.write_text(settings)
    code, out, _ = udq(
        "reproduce", "table2", "--data", data, "--config", file, "--limit", cells, "-o", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    facts = json.loads((tmp_path / "out" / "table2.json").read_text())
    assert facts["measured"] == cells
    for cell in facts["cells"][:cells]:
        built = Collection.build(
            data / "images",
            tmp_path / f"{cell['row']}, {cell['column']}.udq",
            config=config_of(file).replace(cell["changes"]),
            device="cpu",
        )
        truth = datasets.load("boxes", data / "ground_truth.csv")
        report = benchmark.evaluate(built, truth, real_valued=True).report

        assert 0 < report["mAP"] < 1
        assert cell["measured"] == pytest.approx(report["mAP"], abs=1e-6)
        again = benchmark.evaluate(built, truth, stages=["diffusion"]).report
        assert cell["on"]["values"]["codes_diffusion"] == pytest.approx(again["mAP"], abs=1e-6)
        assert cell["on"]["values"]["real_valued"] == pytest.approx(report["real_valued"]["mAP"], abs=1e-6)
        assert cell["on"]["config"] == report["config"]
        assert cell["on"]["provenance"]["machine"]["cores"]
        assert cell["on"]["seconds"] >= cell["on"]["seconds_to_fit"] > 0
        assert f"table2: {cell['row']}, {cell['column']}: paper / measured: {cell['paper']} / " in out

    table = (tmp_path / "out" / "table2.md").read_text()
    first, second = facts["cells"][:2]
    assert f"| M = 2, 12 bits | 0.494 / {first['measured']:.3f} | 0.514 / {second['measured']:.3f} |" in table
    assert "| M = 8, 72 bits | 0.766 / – | 0.873 / – |" in table
    assert "boxes: 12 photos, 3 queries, which stands in for the paper's oxford5k" in table
    assert "network efficientnet-lite0, preset default with settings.toml, not the paper's network" in table
    assert f"and {24 - cells - 1} more: left out by --limit" in table


def test_published_rows_are_not_measured_and_missing_distractors_are_one_line(udq, data, quick, tmp_path):
    output = tmp_path / "out"
    arguments = ("reproduce", "table6", "--data", data, "--config", quick, "-o", output, "--device", "cpu", "--json")
    code, out, err = udq(*arguments)
    facts = json.loads(out)["experiments"][0]
    cells = {(cell["row"], cell["column"]): cell for cell in facts["cells"]}
    ours = "UDQ-BFR, 8bytes/9bytes"

    assert code == 0
    assert cells["Tolias et al. [4], 512d", "Paris6K, W"]["status"] == "published"
    assert "measured" not in cells["Tolias et al. [4], 512d", "Paris6K, W"]
    assert cells[ours, "Oxford5K, W/O"]["status"] == "measured"
    reranked = cells[ours, "Oxford5K, W"]
    assert reranked["paper"] == ""
    assert reranked["measured"] == reranked["on"]["values"]["codes_diffusion"]
    assert cells[ours, "Oxford105K, W/O"]["status"] == cells[ours, "Oxford105K, W"]["status"] == "missing"
    assert "udq datasets download flickr100k" in cells[ours, "Oxford105K, W/O"]["reason"]
    lines = [line for line in err.splitlines() if "distractors" in line]
    assert len(lines) == 1
    assert lines[0].startswith("table6: 4 cells left out: needs the distractors in DATA/flickr100k")
    assert "| 0.669 | 0.773 | 0.616 |" in (output / "table6.md").read_text()
    assert "codes are coarser than the paper's: too few for K = 512" in (output / "table6.md").read_text()

    distractors = data / "flickr100k"
    distractors.mkdir()
    try:
        for i in range(3):
            Image.effect_noise((120, 90), 60).convert("RGB").save(distractors / f"noise_{i}.png")
        code, out, _ = udq(*arguments)
    finally:
        shutil.rmtree(distractors)
    cell = next(
        cell
        for cell in json.loads(out)["experiments"][0]["cells"]
        if (cell["row"], cell["column"]) == (ours, "Oxford105K, W/O")
    )
    assert cell["on"]["photos"] == 15
    assert cell["on"]["dataset"] == "boxes with distractors"


def test_the_papers_data_sets_are_found_as_downloaded(udq, photos, quick, tmp_path):
    oxford = tmp_path / "data" / "oxford5k"
    (oxford / "groundtruth").mkdir(parents=True)
    shutil.copytree(photos, oxford / "photos")
    for kind, text in {"query": "oxc1_coffee 81 20 478 386", "good": "coffee", "ok": "rocket", "junk": "page"}.items():
        (oxford / "groundtruth" / f"all_souls_1_{kind}.txt").write_text(f"{text}\n")
    arguments = ("--config", quick, "-o", tmp_path / "out", "--device", "cpu", "--json")
    code, out, _ = udq("reproduce", "fig4", "--data", tmp_path / "data", *arguments)
    cells = json.loads(out)["experiments"][0]["cells"]

    assert code == 0
    assert [cell["status"] for cell in cells] == ["measured", "missing"] * 4
    assert cells[0]["on"]["dataset"] == cells[0]["paper_dataset"] == "oxford5k"
    assert "udq datasets download paris6k" in cells[1]["reason"]
    with Image.open(tmp_path / "out" / "fig4.png") as drawn:
        assert drawn.width > 600
    alone = udq("reproduce", "fig4", "--data", oxford, "--dataset", "oxford5k", *arguments)
    assert [cell["measured"] for cell in json.loads(alone[1])["experiments"][0]["cells"]] == [
        cell["measured"] for cell in cells
    ]
    assert "photos" not in alone[2].replace("groundtruth", "")  # no progress bar: every cell was measured already
    assert "needs paris6k, but --data contains only oxford5k" in alone[2]


def test_the_commands_of_the_docs_work(udq, data, quick, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    typed = re.findall(r"^    (udq .+?)(?: +#.*)?$|`(udq reproduce \S+ --data [^`]+)`", page, re.MULTILINE)
    commands = [shlex.split(block or inline)[1:] for block, inline in typed]
    assert {words[1] for words in commands if words[0] == "reproduce" and words[2:] == ["--data", "DATA"]} == {
        *tables.NAMES
    }
    monkeypatch.chdir(tmp_path)
    for place in ("DATA", "my-photos"):
        shutil.copytree(data, tmp_path / place)
    for words in commands:
        if words[0] == "datasets":
            code, _, err = udq(*words)  # nothing is requested over the network before a person agrees
            assert (code, "no terminal to ask at" in err) == (2, True), words
        elif words[0] == "reproduce" and ("DATA" in words or "my-photos/" in words) and "--preset" not in words:
            code, out, err = udq(*words, "--config", quick, "--limit", 1, "--device", "cpu")
            assert code == 0, err
            assert "written: udq-reproduce/" in out


# --- each cell once ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_continues(udq, data, quick, tmp_path, monkeypatch):
    arguments = (
        "reproduce", "fig3", "--data", data, "--config", quick, "-o", tmp_path / "out", "--device", "cpu",
        "--limit", 13,
    )  # fmt: skip
    accuracy, extracted, fitted = Workbench.accuracy, [], []
    extract = Extractor.extract

    def counted(self, model, vectors=None):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(model)
        return accuracy(self, model, vectors)

    monkeypatch.setattr(Workbench, "accuracy", counted)
    code, _, err = udq(*arguments)
    assert code == 130
    assert "run the same command to continue" in err
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2

    monkeypatch.setattr(Workbench, "accuracy", accuracy)
    monkeypatch.setattr(
        Extractor, "extract", lambda self, sources: extracted.extend(sources := list(sources)) or extract(self, sources)
    )
    rounds = []
    supervise = algorithm.supervise
    monkeypatch.setattr(algorithm, "supervise", lambda *facts: rounds.append(facts[-1]) or supervise(*facts))
    code, _, _ = udq(*arguments)
    assert code == 0
    assert extracted == []  # features were extracted before the interrupt
    assert rounds == []  # and rounds were trained
    cells = json.loads((tmp_path / "out" / "fig3.json").read_text())["cells"]
    assert [cell["status"] for cell in cells[:13]] == ["measured"] * 13
    assert {cell["measured"] for cell in cells[8:12]} == {
        cells[8]["measured"]
    }  # the same photos stand in for all data sets

    shutil.rmtree(tmp_path / "out" / "scratch")
    udq(*arguments)
    assert extracted == rounds == []  # finished cells need neither features nor training


def test_what_other_code_left_unfinished_is_deleted(udq, data, quick, tmp_path, monkeypatch):
    arguments = ("reproduce", "table2", "--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu")
    scratch = tmp_path / "scratch"
    for folder in ("0123456789abcdef", "0123456789abcdef-0123456789abcdef", "mine"):
        (scratch / folder).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (scratch / "aaaaaaaaaaaaaaaa").symlink_to(tmp_path / "elsewhere")
    udq(*arguments, "--limit", 1)
    (first,) = {folder.name for folder in scratch.iterdir()} - {"mine", "aaaaaaaaaaaaaaaa"}
    udq(*arguments, "--limit", 2)

    assert {folder.name for folder in scratch.iterdir()} == {first, "mine", "aaaaaaaaaaaaaaaa"}
    monkeypatch.setattr("udq.experiments.paper.cells.code", lambda *packages: "changed")
    udq(*arguments, "--limit", 3)
    (second,) = {folder.name for folder in scratch.iterdir()} - {"mine", "aaaaaaaaaaaaaaaa"}
    assert second != first
    assert (tmp_path / "elsewhere").is_dir()


def test_a_killed_run_ends_with_the_same_values(udq, data, quick, tmp_path):
    arguments = ["reproduce", "table2", "--data", data, "--config", quick, "--device", "cpu", "--limit", "3", "-o"]
    run = [sys.executable, "-c", "from udq.cli.main import main; main()", *map(str, arguments)]
    for wanted in ("scratch/*/training-*/round-01.npz", "cells/*.json"):
        output = tmp_path / wanted.partition("/")[2].replace("/", "").replace("*", "")
        running = subprocess.Popen([*run, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and not list(output.glob(wanted)):
            time.sleep(0.02)
        running.kill()
        running.wait()
        assert udq(*arguments, output)[0] == 0
    assert udq(*arguments, tmp_path / "whole")[0] == 0
    found = [json.loads(file.read_text())["cells"] for file in sorted(tmp_path.glob("*/table2.json"))]

    assert len(found) == 3
    assert len({tuple(cell["measured"] for cell in cells[:3]) for cells in found}) == 1


def test_more_iterations_continue_from_fewer_with_the_same_result(photos, quick, tmp_path):
    config = config_of(quick)
    extractor = Extractor(config.images, config.features, device="cpu")
    sources = find([photos])[0]
    truth = datasets.GroundTruth("boxes", (datasets.Query("coffee.png", None, frozenset({"rocket.png"})),))
    queries = benchmark.protocol_queries(truth, {source.name: source.path for source in sources})

    def workbench(name):
        folder = tmp_path / name
        photos = CachedPhotos(sources, extractor, silent, folder)
        return Workbench(extractor, photos, queries, describe(extractor, queries), folder, True, "regions")

    one, stepwise = workbench("one"), workbench("stepwise")
    for iterations in (0, 1, 2):
        there = stepwise.fit(config.replace({"training": {"iterations": iterations}}))
    at_once = one.fit(config.replace({"training": {"iterations": 2}}))
    np.testing.assert_array_equal(at_once.model.quantizer.codebooks, there.model.quantizer.codebooks)
    fewer = stepwise.fit(config.replace({"training": {"iterations": 0}}))
    assert np.abs(fewer.model.quantizer.codebooks - there.model.quantizer.codebooks).max() > 0
    (checkpoints,) = (tmp_path / "stepwise").glob("training-*")
    assert len(RoundCheckpoints(checkpoints, 0).read().rounds) == 1
    assert len(RoundCheckpoints(checkpoints, 9).read().rounds) == 3

    stepwise.fit(config.replace({"training": {"weight": 0.5, "iterations": 0}}))
    assert len(list((tmp_path / "stepwise").glob("training-*"))) == 1  # checkpoints of another training are deleted


def test_cells_that_differ_only_in_their_codes_train_once(udq, data, quick, tmp_path, monkeypatch):
    rounds = []
    supervise = algorithm.supervise
    monkeypatch.setattr(algorithm, "supervise", lambda *facts: rounds.append(facts[-1]) or supervise(*facts))
    udq("reproduce", "table2", "--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu", "--limit", 4)

    assert rounds == [0, 1]  # M = 2 with K = 64 and K = 128 are both supervised by M = 8, K = 256


def test_a_cell_is_measured_again_for_other_photos_or_versions(udq, data, quick, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    arguments = ("--config", quick, "-o", tmp_path / "out", "--device", "cpu", "--limit", 1)
    udq("reproduce", "table2", "--data", other, *arguments)
    (other / "images" / "brick.png").write_bytes(b"no photo")
    udq("reproduce", "table2", "--data", other, *arguments)

    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2
    assert json.loads((tmp_path / "out" / "table2.json").read_text())["cells"][0]["on"]["photos"] == 11
    assert "boxes: 11 photos" in (tmp_path / "out" / "table2.md").read_text()

    monkeypatch.setattr("udq.experiments.paper.cells.versions", lambda: {"faiss-cpu": "another"})
    udq("reproduce", "table2", "--data", other, *arguments)
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 3


def test_a_photo_replaced_during_a_run_is_measured_again_by_the_next(udq, data, quick, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    arguments = ("--data", other, "--config", quick, "-o", tmp_path / "out", "--device", "cpu", "--limit", 2)
    accuracy = Workbench.accuracy

    def replaced(self, model, vectors=None):
        shutil.copyfile(other / "images" / "page.png", other / "images" / "brick.png")
        return accuracy(self, model, vectors)

    monkeypatch.setattr(Workbench, "accuracy", replaced)
    udq("reproduce", "table2", *arguments)
    monkeypatch.setattr(Workbench, "accuracy", accuracy)
    udq("reproduce", "table2", *arguments)

    assert (
        len(list((tmp_path / "out" / "cells").iterdir())) == 4
    )  # two cells with the old photo, and two with the new one


def test_a_cell_is_measured_again_if_a_query_photo_outside_the_database_changed(udq, photos, quick, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data / "photos")
    (data / "queries").mkdir()
    query = data / "queries" / "INSTRE-S1" / "coffee.png"
    query.parent.mkdir()
    shutil.move(data / "photos" / "coffee.png", query)
    (data / "photos" / "INSTRE-S1").mkdir()
    for name in ("rocket.png", "page.png"):
        shutil.move(data / "photos" / name, data / "photos" / "INSTRE-S1")
    gnd = np.empty((1, 1), [("ok", object), ("bbx", object)])
    gnd[0, 0]["ok"], gnd[0, 0]["bbx"] = np.array([[1]]), np.array([[81.0, 20, 478, 386]])
    database = np.array([["INSTRE-S1/rocket.png", "INSTRE-S1/page.png"]], object)
    names = {"imlist": database, "qimlist": np.array([["INSTRE-S1/coffee.png"]], object), "gnd": gnd}
    scipy.io.savemat(data / "gnd_instre.mat", names)
    arguments = ("--dataset", "instre", "--config", quick, "-o", tmp_path / "out", "--device", "cpu", "--limit", 1)
    for _ in range(2):
        assert udq("reproduce", "table2", "--data", data, *arguments)[0] == 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 1
    with Image.open(query) as shown:
        shown.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(query)
    assert udq("reproduce", "table2", "--data", data, *arguments)[0] == 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2


def test_a_table_is_written_when_its_last_cell_is_done(udq, data, quick, tmp_path, monkeypatch):
    accuracy = Workbench.accuracy

    def interrupted(self, model, vectors=None):
        if model.quantizer.subspaces == 4:  # only figure 4 has this among the two
            raise KeyboardInterrupt
        return accuracy(self, model, vectors)

    monkeypatch.setattr(Workbench, "accuracy", interrupted)
    settings = Settings(DataFolder(data), tmp_path, "default", quick, limit=1, device="cpu")
    written = []
    with pytest.raises(KeyboardInterrupt):
        runner.run(
            [tables.load("fig4"), tables.load("table2")],
            settings,
            write=lambda experiment, results: written.append((experiment.name, len(results), results[0].measured)),
        )
    assert [(name, cells) for name, cells, _ in written] == [("table2", 24)]
    assert written[0][2] is not None


def test_a_second_run_in_the_same_folder_is_refused(udq, data, quick, tmp_path):
    arguments = ("reproduce", "table2", "--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu")
    with runner.lock_output(tmp_path):
        code, out, err = udq(*arguments, "--limit", 1)
    assert code == 2
    assert re.search(
        r"another udq \(process \d+ on .*\) is measuring to it; wait until it is done, or choose", error_line(err)
    )
    assert out == ""
    assert udq(*arguments, "--limit", 1)[0] == 0


def test_a_full_disk_ends_the_run_and_the_same_command_continues(udq, data, quick, tmp_path, monkeypatch):
    arguments = ("reproduce", "table2", "--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu")
    tried = []

    def full(path, content):
        tried.append(path)
        raise DiskError(f"{path}: cannot be written (No space left on device); make room")

    with monkeypatch.context() as patch:
        patch.setattr("udq.experiments.paper.cells.write_whole", full)
        code, _, err = udq(*arguments, "--limit", 3)
    assert code == 1
    assert "No space left on device" in error_line(err)
    assert len(tried) == 1  # measuring the other cells would be wasted
    assert udq(*arguments, "--limit", 3)[0] == 0


def test_a_table_lists_the_commits_of_its_cells(udq, data, quick, tmp_path):
    arguments = ("reproduce", "table2", "--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu")
    assert udq(*arguments, "--limit", 1)[0] == 0
    (cell,) = (tmp_path / "cells").iterdir()
    facts = json.loads(cell.read_text())
    facts["provenance"]["commit"] = "0123abc"
    cell.write_text(json.dumps(facts))
    assert udq(*arguments, "--limit", 2)[0] == 0

    table = (tmp_path / "table2.md").read_text()
    assert "commit 0123abc" in table
    assert table.count(", commit ") == 2


# --- search time, pictures -----------------------------------------------------------------------------------------


def test_the_scans_of_table_7_rank_by_their_distances(collection):
    model = collection.model
    (segment,) = collection.segments
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(segment.codes), model.quantizer.dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scans = timing.contenders(model, segment.codes, segment.offsets, vectors)
    pooled = np.abs(rng.standard_normal(1280, np.float32))
    query = model.head.apply(search_features(pooled)).vectors[0]
    planes = np.random.default_rng(0).standard_normal((vectors.shape[1], model.quantizer.bits), np.float32)
    different = ((vectors @ planes > 0) != (query @ planes > 0)).sum(axis=1)
    farther = ((vectors - query) ** 2).sum(axis=1)

    assert list(scans) == list(tables.TIMES)
    np.testing.assert_array_equal(scans["seconds_codes"](query), ranking_by_feature(collection.database, pooled).order)
    for name, distance in (("seconds_hashing", different), ("seconds_real_valued", farther)):
        least = np.minimum.reduceat(distance, segment.offsets[:-1])
        np.testing.assert_array_equal(scans[name](query), np.argsort(least, kind="stable"))


def test_hashes_are_as_long_as_codes():
    vectors = np.random.default_rng(1).standard_normal((5, 8), np.float32)
    planes = np.random.default_rng(2).standard_normal((8, 72), np.float32)
    words = timing._hashes(vectors, planes)

    assert words.shape == (5, 2)
    set_bits = [sum(int(word).bit_count() for word in row) for row in words]
    assert set_bits == (vectors @ planes > 0).sum(axis=1).tolist()


def test_times_and_pictures(udq, data, quick, tmp_path):
    arguments = ("--data", data, "--config", quick, "-o", tmp_path, "--device", "cpu", "--limit", 3)
    assert udq("reproduce", "table7", *arguments)[0] == 0
    cells = json.loads((tmp_path / "table7.json").read_text())["cells"]
    assert all(0 < cell["measured"] < 1 for cell in cells[:3])
    assert len({cell["on"]["cell"] for cell in cells[:3]}) == 1  # measured in the same run

    assert udq("reproduce", "fig5", *arguments)[0] == 0
    facts = json.loads((tmp_path / "fig5.json").read_text())
    with Image.open(tmp_path / "fig5-oxford5k.jpg") as sheet:
        assert sheet.width > sheet.height > 300
    assert (tmp_path / "fig5-paris6k.jpg").exists()
    assert facts["cells"][0]["measured"] > 0


# --- lists and errors -----------------------------------------------------------------------------------------------


def test_the_list_names_every_table_and_figure(udq):
    code, out, _ = udq("reproduce", "--list")
    listed = json.loads(udq("reproduce", "--list", "--json")[1])["experiments"]

    assert code == 0
    assert [each["name"] for each in listed] == list(tables.NAMES)
    for each in listed:
        assert each["name"] in out
        assert each["title"] in out
    assert listed[1]["datasets"] == ["oxford105k", "oxford5k"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the name of a table or figure"),
        (["table9", "--data", "."], "experiment 'table9': expected one of table2"),
        (["table2"], "expected --data DIR"),
        (["table2", "--data", "nowhere"], "--data nowhere: expected a folder of data sets"),
        (["table2", "--data", ".", "--dataset", "nothing"], "dataset 'nothing': expected one of boxes"),
        (["table2", "--data", ".", "--ground-truth", "x.csv"], "name its data set with --dataset NAME"),
        (["table2", "--data", ".", "--preset", "nothing"], "preset 'nothing': expected one of default"),
        (["table2", "--data", ".", "--limit", "0"], "--limit: expected 1 or more"),
        (["table2", "--data", ".", "--device", "tpu"], "device 'tpu': expected auto, cpu or cuda"),
        (["table2", "--data", ".", "-o", "file/below"], "-o file/below: the folder cannot be created"),
        (["table2", "--data", ".", "--weights", "vgg16=no.pt"], "--weights vgg16=no.pt: no such file"),
        (["table2", "--data", ".", "--config", "no.toml"], "no.toml: no such configuration file"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(udq, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, _, err = udq("reproduce", *arguments)

    assert code == 2
    assert message in error_line(err)


def test_without_data_every_cell_gives_the_reason_and_the_command_fails(udq, tmp_path):
    (tmp_path / "data").mkdir()
    code, out, err = udq("reproduce", "table7", "--data", tmp_path / "data", "-o", tmp_path / "out")

    assert code == 1
    assert "nothing was measured: needs" in error_line(err)
    assert [line.partition(": needs")[0] for line in out.splitlines() if "needs" in line] == [
        "table7: 3 cells left out"
    ] * 2
    assert out.count("udq datasets download oxford5k") == out.count("udq datasets download paris6k") == 1
    assert "not measured: Oxford5K, UDQ and 2 more: needs" in (tmp_path / "out" / "table7.md").read_text()


def test_the_papers_network_without_its_proposals_is_a_reason_not_to_measure(data, random_weights, tmp_path):
    settings = Settings(
        DataFolder(data),
        tmp_path,
        "paper",
        weights={"resnet101-v1": random_weights("resnet101")},
        device="cpu",
        limit=1,
    )
    (result,) = [
        result
        for result in runner.run([tables.load("table7")], settings)["table7"]
        if result.cell.where == "Oxford5K, UDQ"
    ]

    assert settings.of(result.cell).features.backbone == "resnet101-v1"
    assert result.measured is None
    assert "resnet101-v1" in result.reason
    assert "train-rpn" in result.reason


def test_a_file_of_weights_may_be_for_one_network(tmp_path):
    from udq.cli.reproduce import _files

    one, other = tmp_path / "a=b.pt", tmp_path / "c.pt"
    one.touch()
    other.touch()

    assert _files([f"vgg16={other}", str(one)], "--weights") == {"vgg16": other, "": one}
    assert isinstance(_files([str(one)], "--rpn")[""], Path)


def search_features(pooled):
    from udq.types import Features

    return Features(pooled[None])
