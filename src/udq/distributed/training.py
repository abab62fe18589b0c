"""Algorithm 1 by several processes of a Ray cluster: data parallel, by Ray Train.

Each process has the whole sample, computes its part of each batch, and sums its gradients with those of the others
(``udq.training.process_group``): the steps equal those of one process up to rounding. Rank 0 computes the supervision
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
from udq.training.algorithm import Checkpoint, Trained, TrainingJob, TrainingState
from udq.training.algorithm import train as train_locally
from udq.training.pooled_features import CachedFeatures, PooledFeatures
from udq.training.process_group import ProcessGroup
from udq.types import Arrays

# Most processes: a smaller part of a batch of some hundred regions is not worth the exchange of gradients.
MOST = 8
# How often training resumes after processes died.
_FAILURES = 3
# Seconds between two reports of progress.
_INTERVAL = 0.3

_Value = TypeVar("_Value")


class _TorchProcessGroup:
    """A process group of torch.distributed (``udq.training.process_group.ProcessGroup``)."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the group."""
        # As one tensor, because each exchange has a latency.
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(together)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: _Value) -> _Value:
        """Return the value of rank 0."""
        values: list[Any] = [value if self.rank == 0 else None]
        distributed.broadcast_object_list(values)
        received: _Value = values[0]
        return received


class _ProgressActor:
    """Receives the progress, the states and the result of training from rank 0; a Ray actor."""

    def __init__(self, state: bytes | None) -> None:
        self._steps, self._states = 0, 0
        self._state = state
        self._trained: Trained | None = None

    def set_steps(self, steps: int) -> None:
        self._steps = steps

    def set_state(self, state: bytes) -> None:
        self._state = state
        self._states += 1

    def set_trained(self, trained: Trained) -> None:
        self._trained = trained

    def progress(self, states: int) -> tuple[int, int, bytes | None]:
        """Return the number of steps, the number of states, and the last state if there are more than ``states``."""
        return self._steps, self._states, self._state if self._states > states else None

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
    """Train on the cluster (``udq.training.fitting.Trainer``).

    This process trains alone if a benchmark is measured after each round, if training is end to end, or if the cluster
    has fewer than two free processors. Arguments and result are those of ``udq.training.algorithm.train``.
    """
    size = min(cluster.free("GPU" if job.device.type == "cuda" else "CPU"), MOST)
    if measure is not None or size < 2 or not isinstance(pooled, CachedFeatures):
        return train_locally(job, pooled, progress=progress, checkpoint=checkpoint, measure=measure)
    ray = cluster.ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node: the actor's state must outlive every other node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    resumed = None if checkpoint is None else checkpoint.read()
    actor_class = ray.remote(_ProgressActor).options(num_cpus=0, scheduling_strategy=here)
    actor = actor_class.remote(None if resumed is None else resumed.to_bytes())
    settings = job.training
    steps = (settings.iterations + 1) * settings.epochs * -(-len(job.images) // settings.batch)
    with tempfile.TemporaryDirectory(prefix="udq-train-") as folder, progress("training", steps) as step:
        thread = _TrainerThread(_trainer(job, pooled, actor, size, folder))
        try:
            _follow(thread, actor, step, checkpoint)
            if thread.failure is not None:
                raise cluster.reason(thread.failure, cluster.RESUME) from thread.failure
            trained: Trained = ray.get(actor.trained.remote())
        except ray.exceptions.RayError as error:
            raise cluster.reason(error, cluster.RESUME) from error
        except BaseException:
            ray.kill(actor)  # ends the group too, at its next round
            raise
    return trained


def _trainer(job: TrainingJob, pooled: CachedFeatures, actor: Any, size: int, folder: str) -> Any:
    """Return the trainer of Ray Train: ``size`` processes that run ``_work``, or fewer if a node is lost."""
    ray_train: Any = importlib.import_module("ray.train")
    from ray.train.torch import TorchTrainer

    # The reference is in a list, so that Ray passes it on as it is instead of resolving it.
    work = [cluster.ray().put((job, pooled.all()))]
    return TorchTrainer(
        _work,
        train_loop_config={"work": work, "actor": actor},
        scaling_config=ray_train.ScalingConfig(
            num_workers=(1, size),
            use_gpu=job.device.type == "cuda",
            resources_per_worker={"CPU": 1},
        ),
        run_config=ray_train.RunConfig(
            storage_path=folder,
            failure_config=ray_train.FailureConfig(max_failures=_FAILURES, controller_failure_limit=_FAILURES),
        ),
    )


def _follow(thread: _TrainerThread, actor: Any, step: Callable[[], None], checkpoint: Checkpoint | None) -> None:
    """Start a thread, and report its steps and save its states until it ends."""
    thread.start()
    steps = states = 0
    while thread.is_alive():
        thread.join(timeout=_INTERVAL)
        reached, count, state = cluster.ray().get(actor.progress.remote(states))
        for _ in range(reached - steps):
            step()
        steps, states = max(steps, reached), count
        if state is not None and checkpoint is not None:
            checkpoint.write(TrainingState.from_bytes(state))


class _TrainerThread(threading.Thread):
    """Runs a trainer of Ray Train; as a daemon, it does not keep this process from exiting.

    Attributes:
        failure: the error that ended the training, or None.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.failure: Exception | None = None

    def run(self) -> None:
        """Train."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.failure = error


class _ActorCheckpoint:
    """The state of training in the actor: rank 0 reads and writes it, and broadcasts what it reads."""

    def __init__(self, actor: Any, group: ProcessGroup) -> None:
        self._actor, self._group = actor, group

    def read(self) -> TrainingState | None:
        """Return the last state; None if there is none."""
        state = self._group.broadcast(cluster.ray().get(self._actor.state.remote()))
        return None if state is None else TrainingState.from_bytes(state)

    def write(self, state: TrainingState) -> None:
        """Save a state."""
        if self._group.rank == 0:
            cluster.ray().get(self._actor.set_state.remote(state.to_bytes()))


def _work(config: dict[str, Any]) -> None:
    """Train as one process of the group."""
    ray, actor = cluster.ray(), config["actor"]
    job, features = ray.get(config["work"][0])
    job, group = dataclasses.replace(job, threads=1), _TorchProcessGroup()
    if job.device.type == "cuda":
        from ray.train.torch import get_device

        job = dataclasses.replace(job, device=get_device())

    @contextmanager
    def progress(stage: str, total: int | None) -> Iterator[Callable[[], None]]:
        done, reported = 0, time.monotonic()

        def step() -> None:
            nonlocal done, reported
            done += 1
            if done == total or time.monotonic() > reported + _INTERVAL:
                actor.set_steps.remote(done)
                reported = time.monotonic()

        yield step

    first = group.rank == 0
    trained = train_locally(
        job,
        CachedFeatures(features, job.device, parts=group.size),
        progress=progress if first else silent,
        checkpoint=_ActorCheckpoint(actor, group),
        group=group,
    )
    if first:
        ray.get(actor.set_trained.remote(trained))
