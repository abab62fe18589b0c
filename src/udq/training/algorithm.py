"""Algorithm 1: a collection teaches its own features to fit its own codes, without labels.

    module 1     supervision from the pooled features as they are, and one round of optimisation
    module 2     ``iterations`` times: supervision anew from the network's own features, and one round; it ends sooner
                 where features begin to spread over more directions again

Supervision (sec. 3.2): refine the features (sec. 3.4), minimise the quantization error (eq. 6), take the codewords as
labels and the quantized features as targets. A round minimises the joint loss (eq. 7). The rotation of each quantizer
is folded into FC_S, so that slices of f line up with the codebooks: eq. 8 and 9 slice f, the labels are of rotated f.

Past the paper: the weights that are kept are the average of the trained ones and those before training. Training
starts from layers that change nothing, so that the two lie close enough for their average to be as good a network as
either; it keeps what training gained and gives back what it overdid (docs/training.md).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from udq.common import npz
from udq.common.progress import Progress, silent
from udq.config import QuantizerConfig, TrainConfig
from udq.quantization import quantizer as quantizers
from udq.quantization.head import Head, average
from udq.training import losses, refinement
from udq.training.process_group import ProcessGroup, SingleProcess
from udq.training.trainable_head import TrainableHead
from udq.types import Arrays, Codes, Features

# k-means for PBR and CBR: regions a cluster, and clusters at most.
_REGIONS_A_CLUSTER = 40
_CLUSTERS = 4096
# The quantizers of the rounds supervise and are thrown away: fewer regions and alternations of eq. 6 will do.
_QUANTIZED = 20_000
_ALTERNATIONS = 4
# A round that raises the participation ratio by more than this factor is taken back; less is noise.
_RISE = 1.01


@dataclass(frozen=True)
class Supervision:
    """What one round of optimisation is told (sec. 3.2).

    Attributes:
        rotation: (d, d) float32, R of eq. 6.
        codebooks: (M, K, d/M) float32, in the rotated space.
        labels: (G, M) codes of the refined features (eq. 4).
        quantized: (G, d) quantized refined features (eq. 3), in the rotated space.
        error: the mean squared quantization error of the refined features (eq. 6).
    """

    rotation: NDArray[np.float32]
    codebooks: NDArray[np.float32]
    labels: Codes
    quantized: Features
    error: float


@dataclass(frozen=True)
class Round:
    """What one round did, for the training curves.

    Attributes:
        iteration: 0 is module 1; 1, 2, ... are those of module 2.
        quantization_error: of the supervision (eq. 6).
        participation_ratio: of the features that the round left; see ``participation_ratio``.
        mAP: of the averaged weights on a benchmark, where one is given; nothing goes by it.
        separability, discriminability: eq. 8 and 9 of each epoch, mean over its steps.
    """

    iteration: int
    quantization_error: float
    separability: tuple[float, ...]
    discriminability: tuple[float, ...]
    participation_ratio: float
    mAP: float | None = None

    @staticmethod
    def from_dict(facts: dict[str, Any]) -> Round:
        """Return a round from what ``dataclasses.asdict`` and JSON made of it."""
        parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in facts.items()}
        return Round(**parts)


@dataclass(frozen=True)
class Trained:
    """A trained head, and how it came about.

    Attributes:
        head: pooled feature -> f.
        convolutions: what was trained of them, by name; empty where they stay as they are.
        rounds: of optimisation, in order; the last one may have been taken back.
        kept: how many of them are in the head.
        stopped: why training ended before its last iteration, or None.
    """

    head: Head
    convolutions: Arrays
    rounds: tuple[Round, ...]
    kept: int
    stopped: str | None

    def history(self) -> dict[str, Any]:
        """Return the training curves, JSON-serialisable."""
        return {
            "rounds": [dataclasses.asdict(each) for each in self.rounds],
            "kept": self.kept,
            "stopped": self.stopped,
        }


class PooledFeatures(Protocol):
    """What the fully connected layers are trained on: pooled features of the sample's regions.

    They wait in memory (``Cached``), or come out of convolutions that train along (``end_to_end.EndToEnd``).
    """

    def all(self) -> Features:
        """Return the pooled features (G, D) as they are now."""

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch: for each step of the optimiser the rows of its parts, which go through one by one."""

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one part, with a gradient where convolutions train."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what trains beside the fully connected layers."""

    def state(self) -> Arrays:
        """Return a copy of what trains, by name; empty where nothing does."""

    def load(self, state: Arrays) -> None:
        """Take over a state."""


class CachedFeatures:
    """Pooled features that wait in memory: the convolutions stay as they are."""

    def __init__(self, features: Features, device: torch.device, *, parts: int = 1) -> None:
        """Take features (G, D), for a device; each step has so many parts, one for each process of a group."""
        self._features = features
        self._device = device
        self._parts = parts

    def all(self) -> Features:
        """Return the pooled features (G, D)."""
        return self._features

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch: random batches."""
        order = torch.randperm(len(self._features), generator=generator)
        return [list(torch.chunk(rows, self._parts)) for rows in torch.split(order, batch)]

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one part."""
        return torch.from_numpy(self._features.vectors[rows.numpy()]).to(self._device)

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: only the fully connected layers train."""
        return []

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def load(self, state: Arrays) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class TrainingState:
    """Training between two rounds: all that the next one needs.

    Attributes:
        head: the fully connected layers as they are.
        untrained: those before training, turned along with every rotation that was folded into the trained ones.
        convolutions: what is trained of them, by name.
        rounds: that are done.
    """

    head: Head
    untrained: Head
    convolutions: Arrays
    rounds: tuple[Round, ...]

    def averaged(self, before: Arrays, *, share: float) -> tuple[Head, Arrays]:
        """Return the averages of trained and untrained weights, of which ``share`` is trained.

        Args:
            before: convolutions before training.
            share: 0..1.
        """
        convolutions = {name: average(before[name], self.convolutions[name], share=share) for name in before}
        return self.untrained.averaged(self.head, share=share), convolutions

    def to_bytes(self) -> bytes:
        """Return the state as an .npz archive; ``from_bytes`` reads it back exactly."""
        arrays: dict[str, NDArray[Any]] = {
            "rounds": np.array(json.dumps([dataclasses.asdict(each) for each in self.rounds]))
        }
        for name, group in self._groups().items():
            arrays |= {f"{name}/{part}": array for part, array in group.items()}
        return npz.to_bytes(arrays)

    @staticmethod
    def from_bytes(data: bytes) -> TrainingState:
        """Read ``to_bytes``."""
        groups: dict[str, Arrays] = {"head": {}, "untrained": {}, "convolutions": {}}
        arrays = npz.from_bytes(data)
        rounds = tuple(map(Round.from_dict, json.loads(str(arrays.pop("rounds")))))
        for name, array in arrays.items():
            group, _, part = name.partition("/")
            groups[group][part] = array
        head, untrained = Head.from_arrays(groups["head"]), Head.from_arrays(groups["untrained"])
        return TrainingState(head, untrained, groups["convolutions"], rounds)

    def _groups(self) -> dict[str, Arrays]:
        return {
            "head": self.head.arrays(),
            "untrained": self.untrained.arrays(),
            "convolutions": self.convolutions,
        }


class Checkpoint(Protocol):
    """Where the state of training is saved after every round."""

    def read(self) -> TrainingState | None:
        """Return the state that an earlier run saved; None if there is none."""

    def write(self, state: TrainingState) -> None:
        """Save a state."""


@dataclass(frozen=True)
class TrainingJob:
    """What algorithm 1 runs on: the same in every process that takes part.

    Attributes:
        images: (G,) index of the photo that each region belongs to, so that neighbours can be taken from other photos.
        start: where the fully connected layers begin: FC_S as the principal components.
        training: settings of the rounds.
        quantizer: settings of the supervision's quantizer.
        codewords: K; fewer than ``quantizer.codewords`` if the sample is small.
        seed: of k-means and batches; the same seed and sample give the same head on one machine.
        device: where the network is optimised.
    """

    images: NDArray[np.int64]
    start: Head
    training: TrainConfig
    quantizer: QuantizerConfig
    codewords: int
    seed: int
    device: torch.device


def train(
    job: TrainingJob,
    pooled: PooledFeatures,
    *,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
    measure: Callable[[Head, Arrays], float | None] | None = None,
    group: ProcessGroup | None = None,
) -> Trained:
    """Run algorithm 1 on a sample of a collection's own regions.

    Args:
        job: photos of the regions, and settings.
        pooled: features of the G regions.
        progress: called for each step.
        checkpoint: where the state is read from at the start, and saved after each round.
        measure: averaged layers and convolutions after each round -> mAP of a benchmark.
        group: processes that train together; this one alone if None.
    """
    group = group or SingleProcess()
    training = job.training
    begun = job.start.deepened(training.hidden)
    before = pooled.state()
    resumed = None if checkpoint is None else checkpoint.read()
    state = resumed or TrainingState(begun, begun, before, ())
    network = TrainableHead(state.head).to(job.device)
    pooled.load(state.convolutions)
    parts = sum(len(step[group.rank :: group.size]) for step in pooled.steps(training.batch, torch.Generator()))
    rounds, stopped = state.rounds, None
    features = network.apply_to(pooled.all())
    ratio = group.broadcast(participation_ratio(features))
    with progress("training", (training.iterations + 1) * training.epochs * parts) as step:
        for _ in range(len(rounds) * training.epochs * parts):
            step()
        for iteration in range(len(rounds), training.iterations + 1):
            reached, features = _round(network, pooled, features, state, job, iteration, group, step)
            if reached is None:
                stopped = f"the loss of iteration {iteration} was no longer a number; kept the state before it"
                break
            last, ratio = ratio, reached.rounds[-1].participation_ratio
            mean = None if measure is None else measure(*reached.averaged(before, share=training.share))
            rounds = (*rounds, dataclasses.replace(reached.rounds[-1], mAP=mean))
            if training.stop_early and ratio > _RISE * last:
                spread = f"features spread over {ratio:.1f} directions, {last:.1f} before it"
                stopped = f"took back iteration {iteration}: {spread}"
                break
            state = dataclasses.replace(reached, rounds=rounds)
            if checkpoint is not None:
                checkpoint.write(state)
    head, convolutions = state.averaged(before, share=training.share)
    kept = len(state.rounds)
    return Trained(head, convolutions if kept else {}, rounds, kept, stopped)


def _round(
    network: TrainableHead,
    pooled: PooledFeatures,
    features: Features,
    state: TrainingState,
    job: TrainingJob,
    iteration: int,
    group: ProcessGroup,
    step: Callable[[], None],
) -> tuple[TrainingState | None, Features]:
    """Generate supervision from the network's features (G, d) and optimise once.

    Returns:
        The state after the round, None if it is no longer finite; and the network's features after it.
    """
    seed = job.seed + iteration
    # Rank 0 computes this and broadcasts it, and what follows from it too: rounding differs between machines.
    told = group.broadcast(supervise(features, job, seed) if group.rank == 0 else None)
    assert told is not None
    untrained = state.untrained.rotated(told.rotation)
    network.load(state.head.rotated(told.rotation))
    network.classify(told.codebooks, sharpness=job.training.sharpness)
    epochs = list(_optimise(network, pooled, told, job.training, seed, group, step))
    # The last step may be the one that diverges: the features after it must be finite as well.
    features = network.apply_to(pooled.all())
    sane = bool(np.isfinite(epochs).all() and np.isfinite(features.vectors).all())
    sane, ratio = group.broadcast((sane, participation_ratio(features) if sane else 0.0))
    if not sane:
        return None, features
    separability, discriminability = zip(*epochs, strict=True)
    done = Round(iteration, told.error, separability, discriminability, ratio)
    return TrainingState(network.head(), untrained, pooled.state(), (*state.rounds, done)), features


def participation_ratio(features: Features) -> float:
    """Return over how many directions features (G, d) spread: (sum of variances)^2 / sum of squared variances.

    The label-free sign of when to stop. It falls while training brings together what is alike, and rises when there
    is nothing left to bring together and clusters are only pushed apart, which costs accuracy (docs/training.md).
    """
    centred = features.vectors - features.vectors.mean(axis=0)
    covariance = (centred.T @ centred).astype(np.float64)
    squared = float(np.square(covariance).sum())
    return float(np.trace(covariance)) ** 2 / squared if squared else 0.0


def supervise(features: Features, job: TrainingJob, seed: int) -> Supervision:
    """Generate self-supervision from features (G, d): refine, quantize, label (sec. 3.2 and 3.4)."""
    refined = refined_features(features, job.images, job.training, seed)
    rows = np.sort(np.random.default_rng(seed).permutation(len(refined))[:_QUANTIZED])
    fitted = quantizers.fit(
        Features(np.ascontiguousarray(refined.vectors[rows])),
        subspaces=job.quantizer.subspaces,
        codewords=job.codewords,
        iterations=_ALTERNATIONS,
        seed=seed,
    )
    labels = fitted.encode(refined)
    quantized = fitted.decode(labels)
    error = float(np.square(fitted.rotate(refined).vectors - quantized.vectors).sum(axis=1).mean())
    return Supervision(fitted.rotation, fitted.codebooks, labels, quantized, error)


def refined_features(features: Features, images: NDArray[np.int64], training: TrainConfig, seed: int) -> Features:
    """Refine features (G, d) as ``training.refine`` says (eq. 11-13)."""
    if training.refine == "none":
        return features
    if training.refine == "bfr":
        nearest = refinement.neighbours(features, images, count=training.neighbours, elsewhere=training.elsewhere)
        return refinement.brute_force(features, nearest)
    clusters = refinement.cluster(
        features, clusters=max(1, min(_CLUSTERS, len(features) // _REGIONS_A_CLUSTER)), seed=seed
    )
    if training.refine == "pbr":
        return refinement.proposal_based(
            features, images, clusters, count=training.neighbours, elsewhere=training.elsewhere
        )
    return refinement.center_based(features, images, clusters, elsewhere=training.elsewhere)


def _optimise(
    network: TrainableHead,
    pooled: PooledFeatures,
    told: Supervision,
    training: TrainConfig,
    seed: int,
    group: ProcessGroup,
    step: Callable[[], None],
) -> Iterator[tuple[float, float]]:
    """Minimise the joint loss; yield eq. 8 and eq. 9 of each epoch, mean over its regions."""
    labels = torch.tensor(told.labels.values.astype(np.int64))
    quantized = torch.tensor(told.quantized.vectors)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if convolutions := pooled.parameters():
        groups.append({"params": convolutions, "lr": training.convolutions_rate})
    optimiser = torch.optim.Adam(groups, lr=training.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(training.epochs):
        found, regions = np.zeros(2), 0
        for parts in pooled.steps(training.batch, generator):
            size = sum(map(len, parts))
            optimiser.zero_grad()
            for rows in parts[group.rank :: group.size]:
                features = network(pooled.pooled(rows))
                separability = losses.separability(network.logits(features), labels[rows].to(network.device))
                discriminability = losses.discriminability(features, quantized[rows].to(network.device))
                # Losses are means over a part, the step wants that over all of its parts.
                loss = losses.joint(separability, discriminability, weight=training.weight) * (len(rows) / size)
                loss.backward()  # type: ignore[no-untyped-call]
                found += np.array([separability.item(), discriminability.item()]) * len(rows)
                step()
            regions += size
            if group.size > 1:
                group.all_reduce([_gradient(each) for part in optimiser.param_groups for each in part["params"]])
            optimiser.step()
        total = torch.tensor(found, device=network.device)
        group.all_reduce([total])
        yield tuple((total.cpu().numpy() / regions).tolist())


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, which is 0 where this process had no part in it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
