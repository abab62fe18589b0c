"""Measure cells of the paper's tables and figures: one after the other, each once, and each kept when it is done.

Cells of one network and one set of photos share the look at them; of those, cells that train alike share the training
(``bench``). A finished cell is a file named by all that its value depends on: settings, photos, ground truth, weights
and version. So a run that was killed goes on, and cells that two tables share are measured once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from udq import config, images, index, picture, proposals, report, scoring, storage
from udq.config import IndexConfig
from udq.datasets import GroundTruth
from udq.errors import UdqError
from udq.evaluate import ask
from udq.experiments import timing
from udq.experiments.bench import Bench, Fitted, describe
from udq.experiments.looked import Looked
from udq.experiments.shelf import Material, Shelf
from udq.experiments.tables import NETWORKS, TIMES, Cell, Experiment
from udq.extract import Extractor
from udq.progress import Progress, silent
from udq.provenance import provenance
from udq.writer import write_whole

# Queries and photos of each on a sheet of fig. 5.
_QUERIES, _SHOWN = 5, 5
PAPER = "paper"


@dataclass(frozen=True)
class Settings:
    """What a user asked for.

    Attributes:
        shelf: where data are.
        output: the folder for results.
        preset: settings that cells change; ``paper`` stands for the paper's preset of each cell's network.
        changes: a TOML file of further changes, which cells' own win over.
        weights, rpn: a file for each backbone, "" for any of them.
        limit: measure the first cells of each table alone.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    shelf: Shelf
    output: Path
    preset: str = "default"
    changes: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    rpn: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    device: str = "auto"

    def of(self, cell: Cell) -> IndexConfig:
        """Return the settings of a cell."""
        base = config.preset(NETWORKS[cell.network] if self.preset == PAPER else self.preset)
        if self.changes is not None:
            base = IndexConfig.from_toml(self.changes, base)
        return base.replace(cell.changes)


@dataclass(frozen=True)
class Result:
    """A cell, and what became of it.

    Attributes:
        cell: the cell.
        measured: mAP or seconds; None where nothing was measured.
        reason: why nothing was, in a line; empty for values of other people.
        facts: what was measured on what, with provenance, JSON-serialisable.
        sheet: a picture of its first results, or None.
    """

    cell: Cell
    measured: float | None = None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    sheet: Path | None = None


@dataclass(frozen=True)
class _Task:
    """A cell that is to be measured."""

    cell: Cell
    kind: str
    config: IndexConfig
    material: Material

    @property
    def look(self) -> str:
        """What cells with the same look at the same photos have in common."""
        seen = {stage: self.config.to_dict()[stage] for stage in ("images", "features", "sample")}
        return json.dumps([self.material.name, seen])

    @property
    def order(self) -> tuple[str, str, int]:
        """Sort key: training that cells share side by side, fewer iterations first, so that more go on from them."""
        training = self.config.to_dict()["training"]
        iterations = training.pop("iterations")
        return self.look, json.dumps([training, str(self.config.supervision())]), iterations


def run(
    experiments: Sequence[Experiment],
    settings: Settings,
    *,
    progress: Progress = silent,
    say: Callable[[Experiment, Result], None] = lambda experiment, result: None,
) -> dict[str, list[Result]]:
    """Measure tables and figures.

    Args:
        experiments: which.
        settings: on what, and how.
        progress: is told of each step.
        say: is told of each cell that is done or that cannot be.

    Returns:
        Name of the experiment -> results, in the order of its cells.

    Raises:
        InputError: settings that cannot be right for any cell.
    """
    done: dict[tuple[str, str], Result] = {}
    tasks: list[tuple[Experiment, _Task]] = []

    def finish(experiment: Experiment, result: Result) -> None:
        done[experiment.name, result.cell.where] = result
        say(experiment, result)

    for experiment in experiments:
        for place, cell in enumerate(experiment.measured):
            wanted = settings.of(cell)
            if settings.limit is not None and place >= settings.limit:
                done[experiment.name, cell.where] = Result(cell, reason="left out by --limit")
                continue
            try:
                material = settings.shelf.find(cell.dataset)
            except UdqError as error:
                finish(experiment, Result(cell, reason=_line(error)))
                continue
            kind = "times" if cell.measure in TIMES else "pictures" if experiment.pictures else "accuracy"
            tasks.append((experiment, _Task(cell, kind, wanted, material)))
    tasks.sort(key=lambda pair: pair[1].order)
    for _, group in groupby(tasks, key=lambda pair: pair[1].look):
        alike = list(group)
        try:
            desk = Desk(alike[0][1].material, alike[0][1].config, settings, progress)
        except (UdqError, OSError) as error:
            for experiment, task in alike:
                finish(experiment, Result(task.cell, reason=_line(error)))
            continue
        results = []
        for experiment, task in alike:
            try:
                results.append(desk.measure(task.cell, task.kind, task.config))
            except (UdqError, OSError) as error:
                results.append(Result(task.cell, reason=_line(error)))
            finish(experiment, results[-1])
        if settings.limit is None and all(result.measured is not None for result in results):
            shutil.rmtree(desk.scratch, ignore_errors=True)  # many gigabytes that no cell of this run asks for again
    return {
        experiment.name: [done.get((experiment.name, cell.where), Result(cell)) for cell in experiment.cells]
        for experiment in experiments
    }


class Desk:
    """One network and one set of photos, and the cells that are measured on them."""

    def __init__(self, material: Material, look: IndexConfig, settings: Settings, progress: Progress) -> None:
        """Build the network; photos are looked at when the first cell needs them.

        Args:
            material: photos and ground truth.
            look: settings, of which those of photos, network and sample are the same in all cells.
            settings: what the user asked for.
            progress: is told of each step.

        Raises:
            UdqError: weights, photos or what the ground truth names are not there.
        """
        self._material, self._look, self._progress = material, look, progress
        self._output = settings.output
        backbone = look.features.backbone
        weights, rpn = (given.get(backbone, given.get("")) for given in (settings.weights, settings.rpn))
        self._given = {"weights": storage.fingerprint(weights), "rpn": storage.fingerprint(rpn)}
        self._sources = images.find(material.folders)[0]
        self._asked = ask(material.truth, {source.name: source.path for source in self._sources})
        self._extractor = Extractor(
            look.images, look.features, weights=weights, rpn=rpn, device=settings.device
        ).proposing()
        seen = IndexConfig(images=look.images, features=look.features, sample=look.sample)
        self.scratch = self._output / "scratch" / self._fingerprint(seen, "look")[:16]
        self._fitted: tuple[IndexConfig, Fitted] | None = None

    @cached_property
    def _bench(self) -> Bench:
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Bench(
            self._extractor,
            Looked(self._sources, self._extractor, self._progress, self.scratch),
            self._asked,
            describe(self._extractor, self._asked),
            self.scratch,
            ranked=self._look.features.proposals in proposals.RANKED,
        )

    def measure(self, cell: Cell, kind: str, config: IndexConfig) -> Result:
        """Return a cell's value, measured now or by an earlier run.

        Args:
            cell: the cell.
            kind: ``accuracy``, ``times``, or ``pictures`` for accuracy with a sheet.
            config: its settings.
        """
        name = self._fingerprint(config, kind)
        file = self._output / "cells" / f"{name}.json"
        sheet = file.with_suffix(".jpg") if kind == "pictures" else None
        if not file.exists() or not (sheet is None or sheet.exists()):
            file.parent.mkdir(parents=True, exist_ok=True)
            fitted = self._fit(config)
            values = self._values(fitted, kind, sheet)
            facts = {
                "dataset": self._material.name,
                "backbone": config.features.backbone,
                "photos": len(self._sources),
                "queries": len(self._asked.truth.queries),
                "learned_on": fitted.model.origin,
                "seconds_to_fit": round(fitted.seconds, 1),
                "values": values,
                "config": config.to_dict(),
                **{name: given and {**given, "path": Path(given["path"]).name} for name, given in self._given.items()},
                "provenance": provenance(seed=config.sample.seed),
            }
            write_whole(file, (json.dumps(facts, indent=1) + "\n").encode())
        facts = json.loads(file.read_text(encoding="utf-8"))
        return Result(cell, facts["values"][cell.measure], "", facts | {"cell": file.name}, sheet)

    def _fit(self, config: IndexConfig) -> Fitted:
        """Train and fit, unless the cell before had the same settings, as the scans of table 7 have."""
        if self._fitted is None or self._fitted[0] != config:
            self._fitted = None  # frees its memory first
            self._fitted = config, self._bench.fit(config, self._progress)
        return self._fitted[1]

    def _values(self, fitted: Fitted, kind: str, sheet: Path | None) -> dict[str, float]:
        if kind == "times":
            return timing.search_times(fitted.bench, fitted.model)
        if sheet is None:
            return fitted.bench.accuracy(fitted.model)
        outcomes = fitted.bench.outcomes(fitted.model)
        shown = outcomes[:: max(1, len(outcomes) // _QUERIES)][:_QUERIES]
        paths = {source.name: source.path for source in self._sources}
        picture.save(report.outcomes_sheet(shown, paths, _SHOWN), sheet)
        return {"codes": scoring.summary(outcomes)["mAP"]}

    def _fingerprint(self, config: IndexConfig, kind: str) -> str:
        """Return a checksum of all that a value depends on."""
        built = index.fingerprint(self._sources, config, self._extractor, self._given)
        return sha256(f"{kind} {built} {_digest(self._asked.truth)}".encode()).hexdigest()


def _line(error: Exception) -> str:
    """Return what is missing in one line; a download that fails is an OSError, and says little."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UdqError) else f"cannot be downloaded or read ({line}); see --weights and --rpn"


def _digest(truth: GroundTruth) -> str:
    facts = [
        [query.image, query.box, sorted(query.positives), sorted(query.junk), sorted(query.boxes.items())]
        for query in truth.queries
    ]
    return sha256(json.dumps([truth.dataset, truth.own_photo, facts]).encode()).hexdigest()
