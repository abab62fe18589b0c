"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

# progress(stage, total) opens a stage of ``total`` steps (None: unknown) and gives the function to call at each step.
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]


@contextmanager
def silent(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Report to nobody."""
    del stage, total
    yield lambda: None


_Item = TypeVar("_Item")


def tracked(photos: Iterable[_Item], step: Callable[[], None]) -> Iterator[_Item]:
    """Yield photos and count them."""
    for photo in photos:
        step()
        yield photo
