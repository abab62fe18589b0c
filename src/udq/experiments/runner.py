"""Measure cells of the paper's tables and figures: one after the other, each once.

Cells of one network and one set of photos share the look at them (``desk``); of those, cells that train alike share
the training (``bench``). A finished cell is kept: so a run that was killed goes on, and cells that two tables share are
measured once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from udq.config import IndexConfig
from udq.errors import UdqError
from udq.experiments.desk import Desk, Result
from udq.experiments.settings import Settings
from udq.experiments.shelf import Material
from udq.experiments.tables import TIMES, Cell, Experiment
from udq.progress import Progress, silent


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


def _line(error: Exception) -> str:
    """Return what is missing in one line; a download that fails is an OSError, and says little."""
    line = " ".join(str(error).split())
    return line if isinstance(error, UdqError) else f"cannot be downloaded or read ({line}); see --weights and --rpn"
