"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

# progress(stage, total) opens a stage of ``total`` steps (None: unknown) and gives the function to call at each step.
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]


@contextmanager
def silent(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Report to nobody."""
    del stage, total
    yield lambda: None
