"""Algorithm 1 by several processes of a Ray cluster: data parallel, by Ray Train.

Each process has the whole sample, computes its part of each batch, and sums its gradients with those of the others
(``udq.training.process_group``): the steps equal those of one process but for rounding. Rank 0 computes the supervision
and decides if a round is undone. After every round the state is sent back; training resumes from it if a process dies.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from udq.common.progress import Progress, silent
from udq.distributed import cluster
from udq.quantization.head import Head
from udq.training.algorithm import CachedFeatures, Checkpoint, PooledFeatures, Trained, TrainingJob, TrainingState
from udq.training.algorithm import train as train_here
from udq.training.process_group import ProcessGroup
from udq.types import Arrays

# Processes at most: of a batch of some hundred regions, a smaller part is not worth the exchange of gradients.
MOST = 8
# How often training goes on after processes died.
_FAILURES = 3
_LOOK_EVERY = 0.3

_Value = TypeVar("_Value")


class _TorchProcessGroup:
    """A group of torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the group."""
        # As one: each exchange has to be waited for.
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(together)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: _Value) -> _Value:
        """Return the value of the first of the group."""
        held: list[Any] = [value if self.rank == 0 else None]
        distributed.broadcast_object_list(held)
        agreed: _Value = held[0]
        return agreed


class _ProgressActor:
    """Where the first of the group leaves how far it is; an actor."""

    def __init__(self, state: bytes | None) -> None:
        self._steps, self._kept = 0, 0
        self._state = state
        self._trained: Trained | None = None

    def tell(self, steps: int) -> None:
        self._steps = steps

    def keep(self, state: bytes) -> None:
        self._state = state
        self._kept += 1

    def end(self, trained: Trained) -> None:
        self._trained = trained

    def look(self, known: int) -> tuple[int, int, bytes | None]:
        """Return steps done, how many states were left, and the last one where there are more than are known."""
        return self._steps, self._kept, self._state if self._kept > known else None

    def state(self) -> bytes | None:
        return self._state

    def trained(self) -> Trained | None:
        return self._trained


def train(
    job: TrainingJob,
    pooled: PooledFeatures,
    *,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
    measure: Callable[[Head, Arrays], float | None] | None = None,
) -> Trained:
    """Do what ``udq.training.algorithm.train`` does, on the cluster; what is watched by a benchmark is trained here.

    Args and what is returned are those of ``udq.training.algorithm.train``.
    """
    size = min(cluster.free("GPU" if job.device.type == "cuda" else "CPU"), MOST)
    if measure is not None or size < 2 or not isinstance(pooled, CachedFeatures):
        return train_here(job, pooled, progress=progress, checkpoint=checkpoint, measure=measure)
    engine = cluster.ray()
    ray_train: Any = importlib.import_module("ray.train")
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Here, as what it holds must outlive every other machine.
    here = NodeAffinitySchedulingStrategy(engine.get_runtime_context().get_node_id(), soft=False)
    desk = engine.remote(_ProgressActor).options(num_cpus=0, scheduling_strategy=here)
    resumed = None if checkpoint is None else checkpoint.read()
    desk = desk.remote(None if resumed is None else resumed.to_bytes())
    # In a list, so that it goes as it is to those who ask for it.
    work = [engine.put((job, pooled.all()))]
    settings = job.training
    steps = (settings.iterations + 1) * settings.epochs * -(-len(job.images) // settings.batch)
    with tempfile.TemporaryDirectory(prefix="udq-train-") as folder, progress("training", steps) as step:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"work": work, "desk": desk},
            scaling_config=ray_train.ScalingConfig(
                # As many as there are, where a machine is lost.
                num_workers=(1, size),
                use_gpu=job.device.type == "cuda",
                resources_per_worker={"CPU": 1},
            ),
            run_config=ray_train.RunConfig(
                storage_path=folder,
                failure_config=ray_train.FailureConfig(max_failures=_FAILURES, controller_failure_limit=_FAILURES),
            ),
        )
        fitting = _Fitting(trainer)
        fitting.start()
        done = kept = 0
        try:
            while fitting.is_alive():
                fitting.join(timeout=_LOOK_EVERY)
                reached, count, state = engine.get(desk.look.remote(kept))
                for _ in range(reached - done):
                    step()
                done, kept = max(done, reached), count
                if state is not None and checkpoint is not None:
                    checkpoint.write(TrainingState.from_bytes(state))
            if fitting.failure is not None:
                raise cluster.reason(fitting.failure, cluster.GO_ON) from fitting.failure
            trained: Trained = engine.get(desk.trained.remote())
        except engine.exceptions.RayError as error:
            raise cluster.reason(error, cluster.GO_ON) from error
        except BaseException:
            engine.kill(desk)  # so that the group ends too, with its next round
            raise
    return trained


class _Fitting(threading.Thread):
    """Waits for the group, and for nobody's sake keeps this process from ending."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.failure: Exception | None = None

    def run(self) -> None:
        """Wait."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.failure = error


class _ActorCheckpoint:
    """States of training on the desk: every process reads what the first one reads, and the first one writes."""

    def __init__(self, desk: Any, group: ProcessGroup) -> None:
        self._desk, self._team = desk, group

    def read(self) -> TrainingState | None:
        """Return the last state."""
        left = self._team.broadcast(cluster.ray().get(self._desk.state.remote()))
        return None if left is None else TrainingState.from_bytes(left)

    def write(self, state: TrainingState) -> None:
        """Save a state."""
        if self._team.rank == 0:
            cluster.ray().get(self._desk.keep.remote(state.to_bytes()))


def _work(told: dict[str, Any]) -> None:
    """Train as one of the group."""
    engine, desk = cluster.ray(), told["desk"]
    job, features = engine.get(told["work"][0])
    group = _TorchProcessGroup()
    if job.device.type == "cuda":
        from ray.train.torch import get_device

        job = dataclasses.replace(job, device=get_device())

    @contextmanager
    def progress(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
        done, said = 0, time.monotonic()

        def step() -> None:
            nonlocal done, said
            done += 1
            if done == total or time.monotonic() > said + _LOOK_EVERY:
                desk.tell.remote(done)
                said = time.monotonic()

        yield step

    first = group.rank == 0
    trained = train_here(
        job,
        CachedFeatures(features, job.device, parts=group.size),
        progress=progress if first else silent,
        checkpoint=_ActorCheckpoint(desk, group),
        group=group,
    )
    if first:
        engine.get(desk.end.remote(trained))
