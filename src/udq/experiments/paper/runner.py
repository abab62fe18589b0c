"""Measure cells of the paper's tables and figures: one after the other, each once.

Cells of one network and one set of photos share the look at them (``desk``); of those, cells that train alike share
the training (``bench``). A finished cell is kept: so a run that was killed goes on, and cells that two tables share are
measured once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import filelock

from udq.common.progress import Progress, silent
from udq.common.text import one_line
from udq.config import IndexConfig
from udq.errors import DiskError, InputError, UdqError
from udq.experiments.paper.cells import CellRunner, Result
from udq.experiments.paper.data import DataFolder, Dataset
from udq.experiments.paper.settings import Settings
from udq.experiments.paper.tables import TIMES, Cell, Experiment
from udq.features.device import device_of


@dataclass(frozen=True)
class _Task:
    """A cell that is to be measured."""

    cell: Cell
    kind: str
    config: IndexConfig
    material: Dataset

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


Told = Callable[[Experiment, Sequence[Result]], None]


@dataclass
class _Record:
    """What became of the cells so far, by experiment and place, and who is told of it."""

    experiments: Sequence[Experiment]
    say: Told
    write: Told
    done: dict[tuple[str, str], Result] = field(default_factory=dict)

    def of(self, experiment: Experiment) -> list[Result]:
        """Return a table's results in the order of its cells."""
        return [self.done.get((experiment.name, cell.where), Result(cell)) for cell in experiment.cells]

    def finish(self, experiment: Experiment, results: Sequence[Result]) -> None:
        """Note results of a table, and have it written with its last one."""
        self.done.update({(experiment.name, result.cell.where): result for result in results})
        self.say(experiment, results)
        if all((experiment.name, cell.where) in self.done for cell in experiment.measured):
            self.write(experiment, self.of(experiment))

    def leave_out(self, pairs: Sequence[tuple[Experiment, Cell]], reason: str) -> None:
        """Note cells that cannot be measured for one reason, all of a table at once."""
        for experiment in self.experiments:
            some = [Result(cell, reason=reason) for each, cell in pairs if each is experiment]
            if some:
                self.finish(experiment, some)


def _nobody(experiment: Experiment, results: Sequence[Result]) -> None:
    del experiment, results


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Make the folder of results and hold it: a second run there would delete what the first has in ``scratch/``.

    Raises:
        InputError: another run holds it, or no folder can be there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {output}: no folder can be there ({error.strerror}); choose another place") from error
    lock = filelock.FileLock(output / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"-o {output}: another udq is measuring to it; wait until that is done, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def run(
    experiments: Sequence[Experiment],
    settings: Settings,
    *,
    progress: Progress = silent,
    say: Told = _nobody,
    write: Told = _nobody,
) -> dict[str, list[Result]]:
    """Measure tables and figures.

    Args:
        experiments: which.
        settings: on what, and how.
        progress: is told of each step.
        say: is told of each cell that is done, and at once of all that cannot be for the same reason.
        write: is given all results of a table or figure as soon as its last cell is done, in the order of its cells.

    Returns:
        Name of the experiment -> results, in the order of its cells.

    Raises:
        InputError: settings that cannot be right for any cell.
        DiskError: the disk cannot take what was measured, nor could it what follows.
    """
    device_of(settings.device)
    record = _Record(experiments, say, write)
    tasks: list[tuple[Experiment, _Task]] = []
    lacking: dict[str, list[tuple[Experiment, Cell]]] = {}
    find = cache(partial(_find, settings.shelf))  # a ground truth takes a while to read
    for experiment in experiments:
        for place, cell in enumerate(experiment.measured):
            wanted = settings.of(cell)
            if settings.limit is not None and place >= settings.limit:
                record.done[experiment.name, cell.where] = Result(cell, reason="left out by --limit")
                continue
            material = find(cell.dataset)
            if isinstance(material, str):
                lacking.setdefault(material, []).append((experiment, cell))
                continue
            kind = "times" if cell.measure in TIMES else "pictures" if experiment.pictures else "accuracy"
            tasks.append((experiment, _Task(cell, kind, wanted, material)))
    for reason, pairs in lacking.items():
        record.leave_out(pairs, reason)
    tasks.sort(key=lambda pair: pair[1].order)
    for _, group in groupby(tasks, key=lambda pair: pair[1].look):
        alike = list(group)
        try:
            desk = CellRunner(alike[0][1].material, alike[0][1].config, settings, progress)
        except (UdqError, OSError) as error:
            record.leave_out([(experiment, task.cell) for experiment, task in alike], _line(error))
            continue
        results = []
        for experiment, task in alike:
            try:
                results.append(desk.measure(task.cell, task.kind, task.config))
            except DiskError:
                raise
            except (UdqError, OSError) as error:
                results.append(Result(task.cell, reason=_line(error)))
            record.finish(experiment, results[-1:])
        if settings.limit is None and all(result.measured is not None for result in results):
            shutil.rmtree(desk.scratch, ignore_errors=True)  # many gigabytes that no cell of this run asks for again
    return {experiment.name: record.of(experiment) for experiment in experiments}


def _find(shelf: DataFolder, dataset: str) -> Dataset | str:
    """Return what cells of a data set are measured on, or why it is not there."""
    try:
        return shelf.find(dataset)
    except UdqError as error:
        return _line(error)


def _line(error: Exception) -> str:
    """Return what is missing in one line; a download that fails is an OSError, and says little."""
    line = one_line(error)
    return line if isinstance(error, UdqError) else f"cannot be downloaded or read ({line}); see --weights and --rpn"
