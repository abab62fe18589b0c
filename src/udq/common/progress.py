"""Progress of long work, reported through a callback, so that the work does not depend on how it is displayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias, TypeVar

_Item = TypeVar("_Item")

Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]
"""``progress(stage, total)`` opens a stage of ``total`` steps (None if unknown) and yields the function to call at each
step."""


@contextmanager
def silent(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Report nothing: the default ``Progress``."""
    del stage, total
    yield lambda: None


def tracked(items: Iterable[_Item], step: Callable[[], None]) -> Iterator[_Item]:
    """Yield items and call ``step`` before each."""
    for item in items:
        step()
        yield item
