"""What commands say of long work: a bar that shows how far it is, where it stands after Ctrl-C, how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from udq.cli.printing import say

# Signals of Ctrl-C so far: code that was called from C may swallow the exception of one, so each step looks here.
interrupts: list[int] = []
INTERRUPTED = 130


@contextmanager
def progress(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Draw a bar on stderr with count, rate and remaining time."""
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
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "")

    columns = [TextColumn("{task.description}"), TimeElapsedColumn()]
    columns += (
        [SpinnerColumn()]
        if total is None
        else [BarColumn(), MofNCompleteColumn(), Rate(), TextColumn("left"), TimeRemainingColumn()]
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(stage, total=total)

        def step() -> None:
            bar.advance(task)
            if interrupts:
                raise KeyboardInterrupt

        yield step


@contextmanager
def resumable(left: Callable[[], str | None]) -> Iterator[None]:
    """Let Ctrl-C say where the work stands, and end the process.

    Args:
        left: says what was kept and how to go on; None where nothing was, and the interrupt goes on its way.
    """
    try:
        yield
    except KeyboardInterrupt:
        said = left()
        if said is None:
            raise
        say(f"udq: interrupted; {said}", to=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Give what tells the seconds since now."""
    started = time.perf_counter()
    yield lambda: round(time.perf_counter() - started, 2)
