"""Checkpoints of training, one per round, so that a longer run of the same training continues from a shorter one."""

from __future__ import annotations

import os
from pathlib import Path

from udq.common.files import write_whole
from udq.training.algorithm import TrainingState


class RoundCheckpoints:
    """The state of a training after each of its rounds, on disk."""

    def __init__(self, folder: Path, iterations: int) -> None:
        """Choose the folder and the number of rounds.

        Args:
            folder: holds the checkpoints of this training only.
            iterations: how often module 2 runs; module 1 adds one round.
        """
        self._folder = folder
        self._rounds = iterations + 1

    def read(self) -> TrainingState | None:
        """Return the last state within the wanted number of rounds; None without one."""
        for rounds in range(self._rounds, 0, -1):
            if os.path.lexists(self._file(rounds)):
                return TrainingState.read(self._file(rounds))
        return None

    def write(self, state: TrainingState) -> None:
        """Write a state to disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(len(state.rounds)), state.to_bytes())

    def _file(self, rounds: int) -> Path:
        return self._folder / f"round-{rounds:02d}.npz"
