"""Measure the cells of the paper's tables and figures, each once.

Cells with the same network and photos share the extracted features (``cells.CellRunner``); cells with the same training
share its rounds (``workbench.Workbench``). Results of cells are stored, so a killed run continues where it stopped, and
cells that two tables share are measured once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby
from pathlib import Path

from udq.common.lock import Lock
from udq.common.progress import Progress, silent
from udq.common.text import one_line
from udq.config import IndexConfig
from udq.errors import DiskError, InputError, UdqError
from udq.experiments.paper.cells import CellRunner, Result, remove_outdated
from udq.experiments.paper.data import DataFolder, Dataset
from udq.experiments.paper.settings import Settings
from udq.experiments.paper.tables import TIMES, Cell, Experiment
from udq.features.device import device_of

# Settings of cells that share features.
_SHARED = "images", "features", "keypoints", "sample"


@dataclass(frozen=True)
class _Task:
    """A cell to measure.

    Attributes:
        experiment: the table or figure of the cell.
        cell: the cell.
        kind: see ``CellRunner.measure``.
        config: the cell's configuration.
        dataset: photos and ground truth.
    """

    experiment: Experiment
    cell: Cell
    kind: str
    config: IndexConfig
    dataset: Dataset

    @property
    def features_key(self) -> str:
        """Equal for cells that use the same features of the same photos."""
        shared = {stage: self.config.to_dict()[stage] for stage in _SHARED}
        training = self.config.training
        return json.dumps([self.dataset.name, shared, training.query_steps, training.convolutions_rate])

    @property
    def order(self) -> tuple[str, str, int]:
        """Sort key: cells that share training are adjacent, fewer iterations first, for the others to continue."""
        training = self.config.to_dict()["training"]
        iterations = training.pop("iterations")
        return self.features_key, json.dumps([training, str(self.config.supervision())]), iterations


Report = Callable[[Experiment, Sequence[Result]], None]


@dataclass
class _Record:
    """The results so far, and the callbacks that report them.

    Attributes:
        experiments: all tables and figures of the run.
        say: called for new results of a table.
        write: called for all results of a table, once it is complete.
        done: (name of the table, cell) -> result.
    """

    experiments: Sequence[Experiment]
    say: Report
    write: Report
    done: dict[tuple[str, str], Result] = field(default_factory=dict)

    def of(self, experiment: Experiment) -> list[Result]:
        """Return the results of a table in the order of its cells."""
        return [self.done.get((experiment.name, cell.where), Result(cell)) for cell in experiment.cells]

    def finish(self, experiment: Experiment, results: Sequence[Result]) -> None:
        """Add results of a table, and write the table with its last result."""
        self.done.update({(experiment.name, result.cell.where): result for result in results})
        self.say(experiment, results)
        if all((experiment.name, cell.where) in self.done for cell in experiment.measured):
            self.write(experiment, self.of(experiment))

    def leave_out(self, pairs: Sequence[tuple[Experiment, Cell]], reason: str) -> None:
        """Add cells that cannot be measured for the same reason, all cells of a table at once."""
        for experiment in self.experiments:
            some = [Result(cell, reason=reason) for each, cell in pairs if each is experiment]
            if some:
                self.finish(experiment, some)


def _ignore(experiment: Experiment, results: Sequence[Result]) -> None:
    del experiment, results


def lock_output(output: Path) -> Lock:
    """Create the folder of results and lock it: a second run there would delete the first one's ``scratch/``.

    Raises:
        InputError: another run has locked it, or the folder cannot be created.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"-o {output}: the folder cannot be created ({error.strerror}); choose another place"
        ) from error
    remedy = "wait until it is done, or choose another folder"
    return Lock(output, f"-o {output}", doing="measuring to it", remedy=remedy)


def run(
    experiments: Sequence[Experiment],
    settings: Settings,
    *,
    progress: Progress = silent,
    say: Report = _ignore,
    write: Report = _ignore,
) -> dict[str, list[Result]]:
    """Measure tables and figures.

    Args:
        experiments: the tables and figures.
        settings: the data, the output folder and the configuration.
        progress: called for each step.
        say: called for each measured cell, and once for all cells of a table that cannot be measured for the same
            reason.
        write: called for all results of a table or figure, in the order of its cells, once its last cell is done.

    Returns:
        Name of the experiment -> results, in the order of its cells.

    Raises:
        InputError: the settings are invalid for every cell.
        DiskError: a result cannot be written to disk, and neither could the next ones.
    """
    device_of(settings.device)
    remove_outdated(settings.output)
    record = _Record(experiments, say, write)
    tasks = sorted(_tasks(record, settings), key=lambda task: task.order)
    for _, group in groupby(tasks, key=lambda task: task.features_key):
        _measure(list(group), record, settings, progress)
    return {experiment.name: record.of(experiment) for experiment in experiments}


def _tasks(record: _Record, settings: Settings) -> list[_Task]:
    """Return the cells to measure; those beyond the limit or without data are recorded as left out."""
    tasks: list[_Task] = []
    left_out: dict[str, list[tuple[Experiment, Cell]]] = {}
    find = cache(partial(_find, settings.data))  # a ground truth takes a while to read
    for experiment in record.experiments:
        for position, cell in enumerate(experiment.measured):
            config = settings.of(cell)
            if settings.limit is not None and position >= settings.limit:
                record.done[experiment.name, cell.where] = Result(cell, reason="left out by --limit")
                continue
            dataset = find(cell.dataset)
            if isinstance(dataset, str):
                left_out.setdefault(dataset, []).append((experiment, cell))
                continue
            kind = "times" if cell.measure in TIMES else "pictures" if experiment.pictures else "accuracy"
            tasks.append(_Task(experiment, cell, kind, config, dataset))
    for reason, cells in left_out.items():
        record.leave_out(cells, reason)
    return tasks


def _measure(tasks: Sequence[_Task], record: _Record, settings: Settings, progress: Progress) -> None:
    """Measure cells that share features."""
    try:
        runner = CellRunner(tasks[0].dataset, tasks[0].config, settings, progress)
    except (UdqError, OSError) as error:
        record.leave_out([(task.experiment, task.cell) for task in tasks], _line(error))
        return
    results = []
    for task in tasks:
        try:
            results.append(runner.measure(task.cell, task.kind, task.config))
        except DiskError:
            raise
        except (UdqError, OSError) as error:
            results.append(Result(task.cell, reason=_line(error)))
        record.finish(task.experiment, results[-1:])
    if settings.limit is None and all(result.measured is not None for result in results):
        shutil.rmtree(runner.scratch, ignore_errors=True)  # many gigabytes that no other cell of this run needs


def _find(data: DataFolder, name: str) -> Dataset | str:
    """Return the data set that stands for one of the paper's, or why it is missing."""
    try:
        return data.find(name)
    except UdqError as error:
        return _line(error)


def _line(error: Exception) -> str:
    """Return an error in one line, with advice for an OSError, such as a failed download of weights."""
    line = one_line(error)
    return line if isinstance(error, UdqError) else f"cannot be downloaded or read ({line}); see --weights and --rpn"
