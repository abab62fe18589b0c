"""Algorithm 1: fits the features of a collection to its own codes, without labels.

    module 1     supervision from the untrained features, and one round of optimisation
    module 2     ``iterations`` times: supervision from the network's current features, and one round of optimisation;
                 ends early if the features begin to spread over more directions again

Supervision (sec. 3.2): refine the features (sec. 3.4), minimise the quantization error (eq. 6), take the codewords as
labels and the quantized features as targets. A round minimises the joint loss (eq. 7). The rotation of each quantizer
is folded into FC_S, so that slices of f line up with the codebooks: eq. 8 and 9 slice f, the labels are of rotated f.

Beyond the paper: the result is the average of the weights before and after training. Training starts from layers that
change nothing, so that the two are close enough for their average to be a good network: it keeps most of what training
gained, and undoes some overfitting (docs/training.md).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from udq.common import npz
from udq.common.files import MAX_FEATURES, read_regular, reason
from udq.common.progress import Progress, silent
from udq.common.threads import ALONE, Pool, limit_this_thread, pool
from udq.config import QuantizerConfig, TrainConfig
from udq.errors import UdqError
from udq.quantization import quantizer
from udq.quantization.head import Head, average
from udq.training import losses, refinement
from udq.training.pooled_features import PooledFeatures
from udq.training.process_group import ProcessGroup, SingleProcess
from udq.training.trainable_head import TrainableHead
from udq.training.verified_pairs import Estimate
from udq.types import Arrays, Codes, Features

# k-means for PBR and CBR: regions per cluster, and the largest number of clusters. PBR takes S neighbours of a cluster;
# of clusters as small as that, it would take all, which is CBR: they have this many times S.
_REGIONS_A_CLUSTER, _TIMES_NEIGHBOURS = 40, 4
_CLUSTERS = 4096
# Of SGD, as Faster R-CNN is trained.
_MOMENTUM, _DECAY = 0.9, 5e-4
# Regions and alternations of eq. 6 for the quantizers that supervise a round: fewer than for the final one.
_QUANTIZED = 20_000
_ALTERNATIONS = 4
# A round that raises the participation ratio by more than this factor is discarded; less is noise.
_RISE = 1.01


@dataclass(frozen=True)
class Supervision:
    """Labels and targets of one round of optimisation (sec. 3.2).

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
    """Measurements of one round, for the training curves.

    Attributes:
        iteration: 0 for module 1; 1, 2, ... for module 2.
        quantization_error: of the supervision (eq. 6).
        participation_ratio: of the features after the round; see ``participation_ratio``.
        mAP: of the averaged weights on a benchmark, if there is one; does not influence training.
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
        """Return a round from the output of ``dataclasses.asdict``, directly or through JSON."""
        parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in facts.items()}
        return Round(**parts)


@dataclass(frozen=True)
class Trained:
    """A trained head and its training curves.

    Attributes:
        head: pooled feature -> f.
        convolutions: trained parameters of the convolutions by name; empty if they were not trained.
        rounds: rounds of optimisation in order; the last one may have been discarded.
        kept: number of rounds that the head is the result of.
        stopped: why training ended before its last iteration, or None.
        pairs: number of verified pairs of photos that the initial projection was fitted to; 0 if it was not.
        estimate: what training brought to the verified pairs of this collection; None without such pairs.
    """

    head: Head
    convolutions: Arrays
    rounds: tuple[Round, ...]
    kept: int
    stopped: str | None
    pairs: int = 0
    estimate: Estimate | None = None

    def history(self) -> dict[str, Any]:
        """Return the training curves, JSON-serialisable."""
        return {
            "rounds": [dataclasses.asdict(each) for each in self.rounds],
            "kept": self.kept,
            "stopped": self.stopped,
            "verified_pairs": self.pairs,
            "estimate": None if self.estimate is None else dataclasses.asdict(self.estimate),
        }


@dataclass(frozen=True)
class TrainingState:
    """The state of training between two rounds: everything that the next round needs.

    Attributes:
        head: the current fully connected layers.
        untrained: those before training, with every rotation that was folded into the trained ones.
        convolutions: trained parameters of the convolutions by name.
        rounds: finished rounds.
    """

    head: Head
    untrained: Head
    convolutions: Arrays
    rounds: tuple[Round, ...]

    def averaged(self, before: Arrays, *, share: float) -> tuple[Head, Arrays]:
        """Return the weighted averages of trained and untrained weights.

        Args:
            before: convolutions before training.
            share: weight of the trained ones, 0..1.
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
    def read(file: Path) -> TrainingState:
        """Read a file of a state; raises UdqError if it is damaged, or not a regular file."""
        try:
            return TrainingState.from_bytes(read_regular(file, limit=MAX_FEATURES))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UdqError(
                f"{file}: expected the state of a training, found a damaged file ({reason(error)}); delete it, and "
                "training starts from the beginning"
            ) from error

    @staticmethod
    def from_bytes(data: bytes) -> TrainingState:
        """Return the state that ``to_bytes`` wrote."""
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
    """Storage for the state of training, which is saved after every round."""

    def read(self) -> TrainingState | None:
        """Return the state that an earlier run saved, or None."""

    def write(self, state: TrainingState) -> None:
        """Save a state."""


@dataclass(frozen=True)
class TrainingJob:
    """Input of algorithm 1 besides the pooled features: the same in every process that takes part.

    Attributes:
        images: (G,) index of the photo that each region belongs to, so that neighbours can be taken from other photos.
        start: initial fully connected layers: FC_S as the principal components.
        training: settings of the rounds.
        quantizer: settings of the supervision's quantizer.
        codewords: K; fewer than ``quantizer.codewords`` if the sample is small.
        seed: of k-means and batches; the same seed and sample give the same head on one machine.
        device: the device to train on.
        threads: number of threads on a CPU; as many as there are cores if None. The head does not depend on it, unless
            convolutions are trained.
    """

    images: NDArray[np.int64]
    start: Head
    training: TrainConfig
    quantizer: QuantizerConfig
    codewords: int
    seed: int
    device: torch.device
    threads: int | None = None


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
        measure: averaged layers and convolutions after each round -> mAP of a benchmark, or None.
        group: processes that train together; this one alone if None.
    """
    # End to end, one photo at a time is on all threads of torch; those of the pool decode the next ones.
    with pool(job.threads) as workers, nullcontext() if pooled.at_once else limit_this_thread(workers.count):
        return _train(job, pooled, workers, progress, checkpoint, measure, group or SingleProcess())


def _train(
    job: TrainingJob,
    pooled: PooledFeatures,
    workers: Pool,
    progress: Progress,
    checkpoint: Checkpoint | None,
    measure: Callable[[Head, Arrays], float | None] | None,
    group: ProcessGroup,
) -> Trained:
    training = job.training
    start, before = job.start.deepened(training.hidden), pooled.state()
    resumed = None if checkpoint is None else checkpoint.read()
    state = resumed or TrainingState(start, start, before, ())
    rounds, stopped = state.rounds, None
    # Supervision comes from the features of all regions, before the first round and after each.
    of_round = _steps(pooled, training, group) + pooled.steps_of_all
    with progress("training", (training.iterations + 1) * of_round + pooled.steps_of_all) as step:
        for _ in range(len(rounds) * of_round):
            step()
        optimiser = _Optimiser(job, pooled, workers, group, step, state)
        for iteration in range(len(rounds), training.iterations + 1):
            last = optimiser.ratio
            reached = optimiser.round(state, iteration)
            if reached is None:
                stopped = f"the loss of iteration {iteration} was no longer a number; kept the state before it"
                break
            mean = None if measure is None else measure(*reached.averaged(before, share=training.share))
            rounds = (*rounds, dataclasses.replace(reached.rounds[-1], mAP=mean))
            if training.stop_early and spreads(last, optimiser.ratio):
                spread = f"features spread over {optimiser.ratio:.1f} directions, {last:.1f} before it"
                stopped = f"took back iteration {iteration}: {spread}"
                break
            state = dataclasses.replace(reached, rounds=rounds)
            if checkpoint is not None:
                checkpoint.write(state)
    head, convolutions = state.averaged(before, share=training.share)
    kept = len(state.rounds)
    return Trained(head, convolutions if kept else {}, rounds, kept, stopped)


def _steps(pooled: PooledFeatures, training: TrainConfig, group: ProcessGroup) -> int:
    """Return the number of parts that this process computes in a round."""
    epoch = pooled.steps(training.batch, torch.Generator())
    return training.epochs * sum(len(parts[group.rank :: group.size]) for parts in epoch)


class _Optimiser:
    """The network in training.

    Attributes:
        ratio: participation ratio of its features after the last round.
    """

    def __init__(
        self,
        job: TrainingJob,
        pooled: PooledFeatures,
        workers: Pool,
        group: ProcessGroup,
        step: Callable[[], None],
        state: TrainingState,
    ) -> None:
        """Load the state that the next round starts from.

        Args:
            job: photos of the regions, and settings.
            pooled: features of the G regions.
            workers: threads that compute the parts of a step, or read photos ahead.
            group: processes that train together.
            step: called for each part that this process computes, and each part of ``PooledFeatures.all``.
            state: the state of training.
        """
        self._job = job
        self._pooled = pooled
        self._workers = workers
        self._at_once = workers if pooled.at_once else ALONE
        self._group = group
        self._step = step
        self._network = TrainableHead(state.head).to(job.device)
        pooled.load(state.convolutions)
        self._features = self._network.apply_to(pooled.all(step, workers), workers=self._at_once)
        self.ratio = group.broadcast(participation_ratio(self._features))

    def round(self, state: TrainingState, iteration: int) -> TrainingState | None:
        """Generate supervision from the network's features and optimise once.

        Args:
            state: the result of the previous round.
            iteration: 0 for module 1.

        Returns:
            The state after the round; None if it is no longer finite.
        """
        job, group, network = self._job, self._group, self._network
        seed = job.seed + iteration
        # Rank 0 computes this and broadcasts it, and what follows from it too: rounding differs between machines.
        supervision = group.broadcast(supervise(self._features, job, seed) if group.rank == 0 else None)
        assert supervision is not None
        untrained = state.untrained.rotated(supervision.rotation)
        network.load(state.head.rotated(supervision.rotation))
        network.classify(supervision.codebooks, job.training, seed=seed)
        epochs = list(self._epochs(supervision, seed))
        # The last step may be the one that diverges: the features after it must be finite as well.
        self._features = network.apply_to(self._pooled.all(self._step, self._workers), workers=self._at_once)
        finite = bool(np.isfinite(epochs).all() and np.isfinite(self._features.vectors).all())
        finite, self.ratio = group.broadcast((finite, participation_ratio(self._features) if finite else 0.0))
        if not finite:
            return None
        separability, discriminability = zip(*epochs, strict=True)
        done = Round(iteration, supervision.error, separability, discriminability, self.ratio)
        return TrainingState(network.head(), untrained, self._pooled.state(), (*state.rounds, done))

    def _epochs(self, supervision: Supervision, seed: int) -> Iterator[tuple[float, float]]:
        """Minimise the joint loss; yield eq. 8 and eq. 9 of each epoch, mean over its regions."""
        network, pooled, group, training = self._network, self._pooled, self._group, self._job.training
        labels = torch.tensor(supervision.labels.values.astype(np.int64))
        quantized = torch.tensor(supervision.quantized.vectors)
        groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
        if convolutions := pooled.parameters():
            groups.append({"params": convolutions, "lr": training.convolutions_rate})
        parameters = [*network.parameters(), *convolutions]
        optimiser = _optimiser(groups, training)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(training.epochs):
            losses_sum, regions = np.zeros(2), 0
            steps = pooled.steps(training.batch, generator)
            shares = [parts[group.rank :: group.size] for parts in steps]
            ahead = pooled.ahead(itertools.chain.from_iterable(shares), self._workers)
            for parts, own in zip(steps, shares, strict=True):
                size = sum(map(len, parts))

                def compute(
                    rows: Tensor, part: Callable[[], Tensor], size: int = size
                ) -> tuple[tuple[Tensor | None, ...], list[float]]:
                    """Return the gradients and the losses of one part."""
                    features = network(part())
                    separability = losses.separability(network.logits(features), labels[rows].to(network.device))
                    discriminability = losses.discriminability(features, quantized[rows].to(network.device))
                    # Losses are means over a part, but a step minimises the mean over all of its parts.
                    loss = losses.joint(separability, discriminability, weight=training.weight) * (len(rows) / size)
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                    return gradients, [separability.item(), discriminability.item()]

                optimiser.zero_grad()
                for rows, (gradients, part_losses) in zip(own, self._at_once.map(compute, own, ahead), strict=True):
                    _accumulate(parameters, gradients)
                    losses_sum += np.array(part_losses) * len(rows)
                    self._step()
                regions += size
                if group.size > 1:
                    group.all_reduce([_gradient(parameter) for parameter in parameters])
                optimiser.step()
            total = torch.tensor(losses_sum, device=network.device)
            group.all_reduce([total])
            yield tuple((total.cpu().numpy() / regions).tolist())


def _optimiser(groups: list[dict[str, Any]], training: TrainConfig) -> torch.optim.Optimizer:
    if training.optimiser == "adam":
        return torch.optim.Adam(groups, lr=training.learning_rate)
    return sgd(groups, training.learning_rate)


def sgd(parameters: Iterable[Any], rate: float) -> torch.optim.SGD:
    """Return the optimiser that Faster R-CNN is trained with, of parameters or of groups of them."""
    return torch.optim.SGD(parameters, lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)


def spreads(before: float, after: float) -> bool:
    """Return whether a round raised the participation ratio by more than noise: early stopping discards it."""
    return after > _RISE * before


def participation_ratio(features: Features) -> float:
    """Return the number of directions that features (G, d) spread over: (sum of variances)^2 / sum of their squares.

    Tells without labels when to stop. It falls while training brings similar features together, and rises once training
    only pushes clusters apart, which costs accuracy (docs/training.md).
    """
    centred = features.vectors - features.vectors.mean(axis=0)
    covariance = (centred.T @ centred).astype(np.float64)
    squared = float(np.square(covariance).sum())
    return float(np.trace(covariance)) ** 2 / squared if squared else 0.0


def supervise(features: Features, job: TrainingJob, seed: int) -> Supervision:
    """Generate self-supervision from features (G, d): refine, quantize, label (sec. 3.2 and 3.4)."""
    refined = refined_features(features, job.images, job.training, seed, threads=job.threads)
    rows = np.sort(np.random.default_rng(seed).permutation(len(refined))[:_QUANTIZED])
    fitted = quantizer.fit(
        Features(np.ascontiguousarray(refined.vectors[rows])),
        subspaces=job.quantizer.subspaces,
        codewords=job.codewords,
        iterations=_ALTERNATIONS,
        seed=seed,
        threads=job.threads,
    )
    labels = fitted.encode(refined)
    quantized = fitted.decode(labels)
    error = float(np.square(fitted.rotate(refined).vectors - quantized.vectors).sum(axis=1).mean())
    return Supervision(fitted.rotation, fitted.codebooks, labels, quantized, error)


def refined_features(
    features: Features, images: NDArray[np.int64], training: TrainConfig, seed: int, *, threads: int | None = None
) -> Features:
    """Refine features (G, d) by the method that ``training.refine`` names (eq. 11-13)."""
    if training.refine == "none":
        return features
    if training.refine == "bfr":
        nearest = refinement.neighbours(
            features, images, count=training.neighbours, elsewhere=training.elsewhere, threads=threads
        )
        return refinement.brute_force(features, nearest)
    size = _REGIONS_A_CLUSTER
    if training.refine == "pbr":
        size = max(size, _TIMES_NEIGHBOURS * training.neighbours)
    clusters = refinement.cluster(features, clusters=max(1, min(_CLUSTERS, len(features) // size)), seed=seed)
    if training.refine == "pbr":
        return refinement.proposal_based(
            features, images, clusters, count=training.neighbours, elsewhere=training.elsewhere, threads=threads
        )
    return refinement.center_based(features, images, clusters, elsewhere=training.elsewhere)


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add the gradients of one part to those of the step."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter; zeros if this process computed none of it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
