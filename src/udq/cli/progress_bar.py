"""Long work: a progress bar, what Ctrl-C says about resuming, and elapsed time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from udq.cli.printing import say
from udq.errors import INTERRUPTED

# SIGINTs received: code called from C may swallow KeyboardInterrupt, so each step checks this list.
interrupts: list[int] = []
# Seconds over which the rate is estimated: several steps of the slowest work, a large network in training on a CPU.
_PERIOD = 120.0
# Seconds between two lines of progress in a file or a pipe, where a bar cannot be redrawn.
_LINES = 600.0


@contextmanager
def progress(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Draw a bar on stderr with count, rate and remaining time; write a line every ten minutes if it is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Task, TimeRemainingColumn  # isort: skip
    from rich.text import Text

    class Rate(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task) -> Text:
            # Of the whole stage at its end: the last steps alone may be the quick ones of a batch.
            speed = task.completed / task.finished_time if task.finished_time else task.speed
            return Text(_rate(speed) if speed else "")

    columns = [TextColumn("{task.description}"), TimeElapsedColumn()]
    columns += (
        [SpinnerColumn()]
        if total is None
        else [BarColumn(), MofNCompleteColumn(), Rate(), TextColumn("left"), TimeRemainingColumn()]
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=_PERIOD) as bar:
        task = bar.add_task(stage, total=total)
        written = bar.get_time()

        def step() -> None:
            nonlocal written
            bar.advance(task)
            if not bar.console.is_terminal and bar.get_time() - written > _LINES and not bar.finished:
                bar.console.print(bar)
                written = bar.get_time()
            if interrupts:
                raise KeyboardInterrupt

        yield step


def _rate(speed: float) -> str:
    """Return steps per second, or the seconds of a step if it takes longer."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


@contextmanager
def resumable(left: Callable[[], str | None]) -> Iterator[None]:
    """On Ctrl-C, say how to continue and exit.

    Args:
        left: returns what was kept and how to continue; None if nothing was, and the interrupt propagates.
    """
    try:
        yield
    except KeyboardInterrupt:
        advice = left()
        if advice is None:
            raise
        say(f"udq: interrupted; {advice}", to=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Give a function that returns the seconds since the start of the block."""
    started = time.perf_counter()
    yield lambda: round(time.perf_counter() - started, 2)
