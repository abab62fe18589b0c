"""States of training on disk, one a round, so that more iterations of the same training go on from fewer."""

from __future__ import annotations

from pathlib import Path

from udq.common.files import write_whole
from udq.training.algorithm import TrainingState


class RoundCheckpoints:
    """The state of training after each round, on disk; more iterations of the same training go on from it."""

    def __init__(self, folder: Path, iterations: int) -> None:
        """Open what there is.

        Args:
            folder: of this training alone.
            iterations: of module 2 that are wanted; module 1 makes it one round more.
        """
        self._folder = folder
        self._rounds = iterations + 1

    def read(self) -> TrainingState | None:
        """Return the last state that is not beyond the rounds that are wanted."""
        for done in range(self._rounds, 0, -1):
            if self._file(done).exists():
                return TrainingState.from_bytes(self._file(done).read_bytes())
        return None

    def write(self, state: TrainingState) -> None:
        """Keep a state."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(len(state.rounds)), state.to_bytes())

    def _file(self, done: int) -> Path:
        return self._folder / f"round-{done:02d}.npz"
