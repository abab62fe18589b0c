"""Algorithm 1: a collection teaches its own features to fit its own codes, without labels.

    module 1     supervision from the pooled features as they are, and one round of optimisation
    module 2     ``iterations`` times: supervision anew from the network's own features, and one round

Supervision (sec. 3.2): refine the features (sec. 3.4), minimise the quantization error (eq. 6), take the codewords as
labels and the quantized features as targets. A round minimises the joint loss (eq. 7). The rotation of each quantizer
is folded into FC_S, so that slices of f line up with the codebooks (PAPER_NOTES, reading 2).

Past the paper: the weights that are kept are the average of the trained ones and those before training. Training
starts from layers that change nothing, so that the two lie close enough for their average to be as good a network as
either; it keeps what training gained and gives back what it overdid (docs/training.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from udq import losses, quantize, refine
from udq.config import QuantizerConfig, TrainConfig
from udq.head import Head
from udq.network import Network
from udq.progress import Progress, silent
from udq.types import Codes, Features

# k-means for PBR and CBR: regions a cluster, and clusters at most.
_REGIONS_A_CLUSTER = 40
_CLUSTERS = 4096
# The quantizers of the rounds supervise and are thrown away: fewer regions and alternations of eq. 6 will do.
_QUANTIZED = 20_000
_ALTERNATIONS = 4


@dataclass(frozen=True)
class Sample:
    """Regions that a model is fitted to.

    Attributes:
        features: (G, D) pooled features.
        images: (G,) int64, which photo each region is of.
    """

    features: Features
    images: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.features),):
            raise ValueError(f"images: expected ({len(self.features)},), found {self.images.shape}")


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
        separability, discriminability: eq. 8 and 9 of each epoch, mean over its steps.
    """

    iteration: int
    quantization_error: float
    separability: tuple[float, ...]
    discriminability: tuple[float, ...]


@dataclass(frozen=True)
class Trained:
    """A trained head, and how it came about.

    Attributes:
        head: pooled feature -> f.
        rounds: of optimisation, in order.
        stopped: why training ended before its last iteration, or None.
    """

    head: Head
    rounds: tuple[Round, ...]
    stopped: str | None

    def history(self) -> dict[str, Any]:
        """Return the training curves, JSON-serialisable."""
        return {"rounds": [dataclasses.asdict(each) for each in self.rounds], "stopped": self.stopped}


def train(
    sample: Sample,
    start: Head,
    *,
    training: TrainConfig,
    quantizer: QuantizerConfig,
    codewords: int,
    seed: int,
    device: torch.device,
    progress: Progress = silent,
) -> Trained:
    """Run algorithm 1 on a sample of a collection's own regions.

    Args:
        sample: pooled features, whose photos say which neighbours teach something new.
        start: where the fully connected layers begin: FC_S as the principal components.
        training: settings of the rounds.
        quantizer: settings of the supervision's quantizer.
        codewords: K; fewer than ``quantizer.codewords`` where the sample is small.
        seed: of k-means and batches; the same seed and sample give the same head on one machine.
        device: where the network is optimised.
        progress: is told of each step.
    """
    # The untrained head, turned along with every rotation that is folded into the trained one.
    untrained = start.deepened(training.hidden)
    network = Network(untrained).to(device)
    pooled = sample.features.vectors
    steps = training.epochs * math.ceil(len(pooled) / training.batch)
    rounds: list[Round] = []
    stopped = None
    with progress("training", (training.iterations + 1) * steps) as step:
        for iteration in range(training.iterations + 1):
            good = network.head()
            turn = seed + iteration
            told = supervise(network.apply_to(sample.features), sample.images, training, quantizer, codewords, turn)
            untrained = untrained.rotated(told.rotation)
            good = good.rotated(told.rotation)
            network.load(good)
            network.classify(told.codebooks, sharpness=training.sharpness)
            epochs: list[tuple[float, float]] = []
            for losses_of_epoch in _optimise(network, pooled, told, training, turn):
                epochs.append(losses_of_epoch)
                for _ in range(steps // training.epochs):
                    step()
            # The last step may be the one that goes too far: what it left must be numbers as well.
            left = network.apply_to(Features(pooled[: training.batch])).vectors
            if not (np.isfinite(epochs).all() and np.isfinite(left).all()):
                network.load(good)
                stopped = f"the loss of iteration {iteration} was no longer a number; kept the state before it"
                break
            separability, discriminability = zip(*epochs, strict=True)
            rounds.append(Round(iteration, told.error, separability, discriminability))
    return Trained(untrained.averaged(network.head(), share=training.share), tuple(rounds), stopped)


def supervise(
    features: Features,
    images: NDArray[np.int64],
    training: TrainConfig,
    quantizer: QuantizerConfig,
    codewords: int,
    seed: int,
) -> Supervision:
    """Generate self-supervision from features (G, d): refine, quantize, label (sec. 3.2 and 3.4)."""
    refined = refined_features(features, images, training, seed)
    rows = np.sort(np.random.default_rng(seed).permutation(len(refined))[:_QUANTIZED])
    fitted = quantize.fit(
        Features(np.ascontiguousarray(refined.vectors[rows])),
        subspaces=quantizer.subspaces,
        codewords=codewords,
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
        nearest = refine.neighbours(features, images, count=training.neighbours, elsewhere=training.elsewhere)
        return refine.brute_force(features, nearest)
    clusters = refine.cluster(features, clusters=max(1, min(_CLUSTERS, len(features) // _REGIONS_A_CLUSTER)), seed=seed)
    if training.refine == "pbr":
        return refine.proposal_based(
            features, images, clusters, count=training.neighbours, elsewhere=training.elsewhere
        )
    return refine.center_based(features, images, clusters, elsewhere=training.elsewhere)


def _optimise(
    network: Network, pooled: NDArray[np.float32], told: Supervision, training: TrainConfig, seed: int
) -> Iterator[tuple[float, float]]:
    """Minimise the joint loss; yield eq. 8 and eq. 9 of each epoch, mean over its steps."""
    labels = torch.tensor(told.labels.values.astype(np.int64))
    quantized = torch.tensor(told.quantized.vectors)
    optimiser = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(training.epochs):
        found = []
        for rows in torch.split(torch.randperm(len(pooled), generator=generator), training.batch):
            features = network(torch.from_numpy(pooled[rows.numpy()]).to(network.device))
            separability = losses.separability(network.logits(features), labels[rows].to(network.device))
            discriminability = losses.discriminability(features, quantized[rows].to(network.device))
            optimiser.zero_grad()
            losses.joint(separability, discriminability, weight=training.weight).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            found.append((separability.item(), discriminability.item()))
        yield tuple(np.mean(found, axis=0).tolist())
