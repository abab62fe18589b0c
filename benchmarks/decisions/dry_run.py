"""What the paper's experiments take: python benchmarks/decisions/dry_run.py DATA [--json OUT] [--work FOLDER].

    python benchmarks/decisions/dry_run.py DATA --threads 2 --json results/benchmark_dry_run.json

Composes, from photos of DATA, a folder in the layout of VOC2007 (500 x 375 pixels) and one in that of Oxford5K (1024
pixels), and random weights with the file names, keys and shapes of torchvision's. Then it runs the commands of
docs/results.md as a user does, on a CPU:

    full    the region proposal networks, and one trained cell for each network, with all settings of the paper but the
            number of steps of fine-tuning on the queries
    all     every cell of every table and figure on Oxford5K, with small photos, few regions and short trainings

With --work, the folder is kept, and a run that was interrupted continues after the last command that it finished.
It records seconds, peak memory and peak disk of each command, and the seconds of each stage by the progress bars. From
the seconds of ``full`` per photo, view and step follow those of the paper's numbers of photos. Random weights find
nothing, so accuracies are not recorded.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image

from udq.common.provenance import provenance
from udq.config import ProposalTraining, preset
from udq.datasets.catalogue import photo_names
from udq.experiments.paper import tables
from udq.experiments.paper.data import DataFolder
from udq.experiments.paper.settings import QUERY_STEPS, Settings

NETWORKS = {"vgg16": "vgg16-397923af.pth", "resnet101-v1": "resnet101-63fe2227.pth"}
"""Backbones of the paper -> torchvision's file of weights."""
CHANNELS = {"vgg16": 4096, "resnet101-v1": 2048}
"""Length of a region's feature."""
PRESETS = {"vgg16": "paper", "resnet101-v1": "paper-resnet101"}
PLACES = {"all_souls": "lund", "ashmolean": "strecha_castle-P30"}
"""Landmarks of Oxford -> folders of DATA/landmarks whose photos stand for them."""
# Of each place: two query photos, which are good answers, one that is an ok answer, and one that is junk.
KINDS = ("good", "good", "ok", "junk")
VOC_SIZE, OXFORD_LONGER = (500, 375), 1024
STEPS = 8
"""Steps of fine-tuning on the queries that are measured."""
FULL = f"[training]\nquery_steps = {STEPS}\n"
SMALL = """[images]
shorter = 96
longer = 160
[features]
regions = 16
[training]
query_steps = 4
iterations = 1
epochs = 1
"""
# Photos of VOC2007's trainval and of the paper's data sets, and views that a region proposal network may save on disk.
VOC, PHOTOS = 5011, {"oxford5k": 5063, "paris6k": 6412, "oxford105k": 5063 + 100071, "paris106k": 6412 + 100071}
SAVED = 10 * 2**30
HOUR = 3600
# Rounds of a training, and copies of the features of a sample that are in memory at a time (udq.training.sampling).
ROUNDS, COPIES = 3, 3
_STAGE = re.compile(r"^(?P<name>\S.*?) +(?P<elapsed>\d+:\d\d:\d\d) .* (?P<done>\d+)/(?P<total>\d+) ")
_VIEW = re.compile(r"\d{6}-\d\.npz")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def voc_folder(data: Path, target: Path, count: int) -> None:
    """Write photos of instre_dev and the boxes of their main objects in the layout of VOC2007."""
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    with (data / "instre_dev" / "object_boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            boxes[row["image"]].append([float(row[name]) for name in ("x1", "y1", "x2", "y2")])
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (target / folder).mkdir(parents=True)
    names = []
    for number, (photo, found) in enumerate(list(boxes.items())[:count], 1):
        names.append(f"{number:06d}")
        with Image.open(data / "instre_dev" / "images" / photo) as opened:
            scale = [VOC_SIZE[0] / opened.width, VOC_SIZE[1] / opened.height] * 2
            opened.convert("RGB").resize(VOC_SIZE).save(target / "JPEGImages" / f"{names[-1]}.jpg", quality=90)
        scaled = [[round(side * by) for side, by in zip(box, scale, strict=True)] for box in found]
        objects = "".join(
            f"<object><name>object</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2 in scaled
        )
        text = f"<annotation><filename>{names[-1]}.jpg</filename>{objects}</annotation>\n"
        (target / "Annotations" / f"{names[-1]}.xml").write_text(text)
    (target / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in names))


def oxford_folder(data: Path, target: Path, places: Mapping[str, str]) -> None:
    """Write photos of landmarks in the layout of Oxford5K, named as in it."""
    for folder in ("photos", "groundtruth"):
        (target / folder).mkdir(parents=True)
    official = photo_names("oxford5k")
    for landmark, place in places.items():
        names = [name for name in official if name.startswith(landmark)][: len(KINDS)]
        sizes = []
        for name, file in zip(names, sorted((data / "landmarks" / place).glob("*.jpg")), strict=False):
            with Image.open(file) as opened:
                scale = OXFORD_LONGER / max(opened.size)
                sizes.append((round(opened.width * scale), round(opened.height * scale)))
                opened.convert("RGB").resize(sizes[-1]).save(target / "photos" / f"{name}.jpg", quality=90)
        for number in range(KINDS.count("good")):
            width, height = sizes[number]
            box = f"{width * 0.2:.1f} {height * 0.2:.1f} {width * 0.8:.1f} {height * 0.8:.1f}"
            texts = {"query": f"oxc1_{names[number]} {box}\n"}
            for kind in dict.fromkeys(KINDS):
                texts[kind] = "".join(f"{name}\n" for name, its in zip(names, KINDS, strict=True) if its == kind)
            for kind, text in texts.items():
                (target / "groundtruth" / f"{landmark}_{number + 1}_{kind}.txt").write_text(text)


def write_weights(home: Path) -> None:
    """Write random weights where torchvision finds downloaded ones, in their format."""
    (home / "hub" / "checkpoints").mkdir(parents=True)
    for name, file in NETWORKS.items():
        torch.manual_seed(0)
        state = torchvision.models.get_model(name.removesuffix("-v1"), weights=None).state_dict()
        for key, values in state.items():
            if key.endswith("bn3.weight"):
                values.fill_(0.2)  # otherwise values double in each of the 33 blocks of ResNet101
        torch.save(state, home / "hub" / "checkpoints" / file)


@dataclass
class Usage:
    """Peaks of a command and its children in bytes, sampled every second.

    Attributes:
        memory: resident.
        disk: growth of the folder.
        views: of that, views saved for a region proposal network.
    """

    memory: int = 0
    disk: int = 0
    views: int = 0


@contextmanager
def watched(process: int, folder: Path) -> Iterator[Usage]:
    """Sample the memory of a process and its children, and the size of a folder."""
    usage, ended = Usage(), threading.Event()
    before, _ = _sizes(folder)

    def sample() -> None:
        while not ended.wait(1.0):
            usage.memory = max(usage.memory, _resident(process))
            size, views = _sizes(folder)
            usage.disk, usage.views = max(usage.disk, size - before), max(usage.views, views)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()


def _resident(process: int) -> int:
    """Return the resident memory of a process and of all below it."""
    total = 0
    with suppress(OSError, ValueError):  # it has just ended
        total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
        for thread in Path(f"/proc/{process}/task").iterdir():
            total += sum(_resident(int(child)) for child in (thread / "children").read_text().split())
    return total


def _sizes(folder: Path) -> tuple[int, int]:
    """Return the bytes of all files below a folder, and those of saved views."""
    total = views = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size = Path(place, name).stat().st_size
                total += size
                views += size if _VIEW.fullmatch(name) else 0
    return total, views


def run(words: Sequence[object], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a command of udq in a folder, and return its figures.

    Returns:
        ``command``, ``seconds``, ``cpu_seconds``, ``memory_bytes``, ``disk_bytes``, ``views_bytes``, and ``stages``:
        for each progress bar, in order, its name, seconds and number of steps.
    """
    command = [str(word) for word in words]
    busy_before = _cpu_seconds()
    print("udq", *command, flush=True)
    started = time.perf_counter()
    udq = Path(sys.executable).parent / "udq"
    with (
        subprocess.Popen(
            [udq, *command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
        watched(process.pid, folder) as usage,
    ):
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            print(" ", lines[-1], flush=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"dry_run: udq {command[0]} failed with {process.returncode}: {lines[-1]}")
    return {
        "command": " ".join(["udq", *command]),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(_cpu_seconds() - busy_before, 1),
        "memory_bytes": usage.memory,
        "disk_bytes": usage.disk,
        "views_bytes": usage.views,
        "stages": stages(lines),
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stages(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return name, seconds and steps of each finished progress bar in the output of a command."""
    found = []
    for bar in filter(None, map(_STAGE.match, lines)):
        hours, minutes, seconds = map(int, bar["elapsed"].split(":"))
        total = HOUR * hours + 60 * minutes + seconds
        if bar["done"] == bar["total"]:  # not a line of an unfinished one
            found.append({"name": bar["name"], "seconds": total, "steps": int(bar["total"])})
    return found


def compose(data: Path, work: Path, count: int) -> None:
    """Write photos, weights and settings into a clean folder."""
    voc_folder(data, work / "VOC2007", count)
    oxford_folder(data, work / "DATA" / "oxford5k", PLACES)
    write_weights(work / "torch")
    for name, text in (("full", FULL), ("small", SMALL)):
        (work / f"{name}.toml").write_text(text)


def commands() -> dict[str, list[str]]:
    """Return what is measured: name -> words of a command of udq, which runs in the folder of ``compose``."""
    found = {}
    networks = []
    for backbone, weights in NETWORKS.items():
        file = f"{backbone}.npz"
        networks += ["--rpn", f"{backbone}={file}"]
        words = ["train-rpn", "VOC2007", "--preset", PRESETS[backbone], "-o", file]
        found[f"rpn {backbone}"] = [*words, "--weights", f"torch/hub/checkpoints/{weights}"]
    paper = ["--preset", "paper", *networks]
    # The first cells of these tables: a training of VGG16, and one of ResNet101.
    for backbone, table in zip(NETWORKS, ("table3", "table5"), strict=True):
        found[f"full {backbone}"] = [
            "reproduce", table, "--data", "DATA", *paper, "--config", "full.toml", "--limit", "1", "-o", table,
        ]  # fmt: skip
    found["all"] = ["reproduce", "all", "--data", "DATA", *paper, "--config", "small.toml", "-o", "all"]
    return found


def counts() -> dict[tuple[str, str], dict[str, int]]:
    """Return the work of ``reproduce all --preset paper`` by backbone and data set of the paper.

    Returns:
        ``cells``: different values; ``untrained``: 1 if there are cells without training; ``trainings``; ``rounds``:
        of all trainings; ``passes``: how often trained networks extract all photos: to fit codes for each
        configuration, and to encode for each cell.
    """
    settings = Settings(DataFolder(Path()), Path(), "paper")
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    rounds: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for experiment in map(tables.load, tables.NAMES):
        for cell in experiment.measured:
            config = settings.of(cell)
            place = (config.features.backbone, cell.dataset)
            sets = found.setdefault(place, {"cells": set(), "untrained": set(), "fits": set()})
            kind = "times" if cell.measure in tables.TIMES else "pictures" if experiment.pictures else "accuracy"
            whole = json.dumps([config.to_dict(), kind])
            if not config.training.enabled:
                sets["untrained"].add(whole)
                continue
            sets["cells"].add(whole)
            sets["fits"].add(json.dumps(config.to_dict()))
            training = json.dumps(
                [dataclasses.asdict(replace(config.training, iterations=0)), str(config.supervision())]
            )
            rounds[place][training] = max(rounds[place].get(training, 0), config.training.iterations + 1)
    return {
        place: {
            "cells": len(sets["cells"]) + len(sets["untrained"]),
            "untrained": min(1, len(sets["untrained"])),
            "trainings": len(rounds[place]),
            "rounds": sum(rounds[place].values()),
            "passes": len(sets["fits"]) + len(sets["cells"]),
        }
        for place, sets in sorted(found.items())
    }


def _share(measured: Mapping[str, Any], threads: int) -> float:
    """Return the share of its threads' time that a command used, and would have taken at best with the cores alone."""
    share: float = measured["cpu_seconds"] / (threads * measured["seconds"])
    return min(1.0, share)


def proposals(measured: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Return what training on VOC2007 takes, by the seconds per view of a small one."""
    extraction, training = measured["stages"]
    settings = ProposalTraining()
    held_out = round(VOC * settings.held_out)
    views = (VOC - held_out) * settings.views
    view_bytes = measured["views_bytes"] / extraction["steps"]
    saved = min(views + held_out, int(SAVED / view_bytes))
    of_view = extraction["seconds"] / extraction["steps"]
    photos_in_training = extraction["steps"] - 1  # of the measured photos, one is held out
    of_epoch = training["seconds"] / (settings.epochs * photos_in_training)
    # Views that the disk has no room for are computed again in each epoch, and those held out once more, for recall.
    computed = saved + max(0, views + held_out - saved) * settings.epochs
    return {
        "seconds_per_view": of_view,
        "seconds_per_view_and_epoch": of_epoch,
        "views": views + held_out,
        "views_computed": computed,
        "bytes_per_view": round(view_bytes),
        "hours": (hours := (computed * of_view + settings.epochs * views * of_epoch) / HOUR),
        "hours_alone": hours * _share(measured, threads),
        "memory_gb": measured["memory_bytes"] / 1e9,
        "disk_gb": saved * view_bytes / 1e9,
    }


def units(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a step of fine-tuning, of a photo in one training of three rounds, and in extraction."""
    tuning, first, training, *again = measured["stages"]
    photos = first["steps"]
    extractions = [first, *again]
    return {
        "seconds_per_step": tuning["seconds"] / tuning["steps"],
        "seconds_per_photo_and_training": training["seconds"] / photos,
        "seconds_per_photo_extracted": sum(each["seconds"] for each in extractions) / (photos * len(extractions)),
    }


def whole(
    of: Mapping[str, float],
    work: Mapping[str, int],
    measured: Mapping[str, Any],
    dataset: str,
    *,
    channels: int,
    threads: int,
) -> dict[str, Any]:
    """Return what all cells of one network and data set take.

    Args:
        of: see ``units``.
        work: see ``counts``.
        measured: the command that ``of`` is from.
        dataset: a data set of the paper.
        channels: length of a feature.
        threads: of the command.
    """
    photos = PHOTOS[dataset]
    tuning = QUERY_STEPS * of["seconds_per_step"]
    training = work["rounds"] / ROUNDS * of["seconds_per_photo_and_training"] * photos
    extraction = (1 + work["untrained"] + work["passes"]) * of["seconds_per_photo_extracted"] * photos
    features = photos * (preset("paper").features.regions + 1) * channels * 4
    return {
        **work,
        "hours_tuning": tuning / HOUR,
        "hours_training": training / HOUR,
        "hours_extraction": extraction / HOUR,
        "hours": (tuning + training + extraction) / HOUR,
        "hours_alone": (tuning + training + extraction) / HOUR * _share(measured, threads),
        "memory_gb": (measured["memory_bytes"] + COPIES * features) / 1e9,
        "disk_gb": (measured["disk_bytes"] + (1 + work["untrained"]) * features) / 1e9,
    }


def measure(data: Path, work: Path, photos: int, threads: int) -> dict[str, Any]:
    """Compose the folders and run the commands that were not run in ``work`` before; return the figures of each."""
    file = work / "measured.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if not measured:
        compose(data, work, photos)
    # COLUMNS: progress bars in whole lines.
    environment = os.environ | {"TORCH_HOME": str(work / "torch"), "COLUMNS": "120"}
    for name, words in commands().items():
        if name not in measured:
            measured[name] = run([*words, "--device", "cpu", "--threads", threads], work, environment)
            print(name, json.dumps(measured[name]), flush=True)
            file.write_text(json.dumps(measured, indent=1))
    return measured


def estimates(measured: Mapping[str, Mapping[str, Any]], threads: int) -> dict[str, Any]:
    """Return seconds per unit of each network, and from them what the paper's data sets take."""
    report: dict[str, Any] = {"rpn": {}, "units": {}, "whole": []}
    work = counts()
    for backbone, channels in CHANNELS.items():
        report["rpn"][backbone] = _rounded(proposals(measured[f"rpn {backbone}"], threads))
        full = measured[f"full {backbone}"]
        report["units"][backbone] = _rounded(units(full))
        for (name, dataset), of_set in work.items():
            if name == backbone:
                found = whole(units(full), of_set, full, dataset, channels=channels, threads=threads)
                report["whole"].append(
                    {"backbone": name, "dataset": dataset, "photos": PHOTOS[dataset], **_rounded(found)}
                )
    return report


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in figures.items()}


def main() -> None:
    """Run everything, print it, and write JSON where asked, after each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--photos", type=int, default=8, metavar="N", help="of VOC2007's layout; default: 8")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of each command; default: 2")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="kept, to continue there; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    needed = "instre_dev/object_boxes.csv", *(f"landmarks/{place}" for place in PLACES.values())
    if missing := [name for name in needed if not (given.data / name).exists()]:
        parser.error(f"{given.data}: expected the development sets, found no {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="udq-dry-run-") as temporary:
        work = given.work or Path(temporary)
        measured = measure(given.data, work.resolve(), given.photos, given.threads)
    photos = {"voc": given.photos, "oxford": len(PLACES) * len(KINDS)}
    report = {
        "threads": given.threads,
        "photos": photos,
        "query_steps": STEPS,
        "commands": measured,
        **estimates(measured, given.threads),
        "provenance": provenance(seed=0),
    }
    print(json.dumps({name: report[name] for name in ("rpn", "units", "whole")}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
