"""From a sample of regions to a model: algorithm 1 with a collection's settings, then the quantizer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from udq.common.files import write_whole
from udq.common.progress import Progress, silent
from udq.config import IndexConfig, QuantizerConfig
from udq.features.device import SCALE, in_gpu_memory
from udq.quantization import model
from udq.quantization.head import Head
from udq.training import verified_pairs
from udq.training.algorithm import (
    Checkpoint,
    Trained,
    TrainingJob,
    TrainingState,
    train,
)
from udq.training.pooled_features import CachedFeatures, PooledFeatures
from udq.training.sampling import Sample
from udq.training.verified_pairs import VerifiedPairs
from udq.types import Arrays

# Shrinkage of the projection that is fitted to verified pairs: for a collection of which every photo is in a pair, and
# how it grows if there are few pairs of photos.
_SHRINKAGE, _FEW = 1.0, 30.0
# Share of the regions that may come before a pair that did not, on the mean, when features are fitted to other pairs.
_HARM = 0.005
_NONE = VerifiedPairs(np.empty((0, 2), np.int64), 0)

Measure = Callable[[Head, Arrays], float | None]
"""Averaged head and convolutions after a round of training -> mAP of a benchmark; None if it cannot be measured."""


class Trainer(Protocol):
    """A function that runs algorithm 1: ``udq.training.algorithm.train``, or the same on other machines."""

    def __call__(
        self,
        job: TrainingJob,
        pooled: PooledFeatures,
        *,
        progress: Progress = silent,
        checkpoint: Checkpoint | None = None,
        measure: Measure | None = None,
    ) -> Trained:
        """Train; arguments as for ``udq.training.algorithm.train``."""


class FileCheckpoint:
    """The state of training in a file, which is replaced after every round."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> TrainingState | None:
        """Return the state that an earlier run saved; None if there is none."""
        return TrainingState.read(self._file) if os.path.lexists(self._file) else None

    def write(self, state: TrainingState) -> None:
        """Save a state in place of the previous one."""
        write_whole(self._file, state.to_bytes())


def learn(
    sample: Sample,
    config: IndexConfig,
    device: torch.device,
    progress: Progress = silent,
    *,
    threads: int | None = None,
    pooled: PooledFeatures | None = None,
    checkpoint: Checkpoint | None = None,
    measure: Measure | None = None,
    trainer: Trainer = train,
) -> Trained:
    """Train on a sample; if training is disabled, return the untrained head.

    Args:
        sample: regions and their features before training.
        config: settings of the collection.
        device: the device to train on.
        progress: called for each step.
        threads: number of threads; as many as there are cores if None.
        pooled: source of the pooled features; those of the sample if None.
        checkpoint: where the state of training is saved after each round.
        measure: measures a benchmark after each round.
        trainer: runs algorithm 1.
    """
    supervision = config.supervision()
    few = len(np.unique(sample.images)) < config.training.refine_from
    refinement = "none" if few else config.training.refine
    settings = dataclasses.replace(config.training, share=config.share(), refine=refinement)
    head = model.start(sample.features, supervision, threads=threads)
    if not config.training.enabled:
        return Trained(head, {}, (), 0, None)
    untrained, pairs, used = head, _NONE, 0
    if config.training.verified and any(len(photo.points) for photo in sample.photos):
        with progress("verifying pairs of photos", len(sample.photos)) as step:
            pairs = verified_pairs.find(sample, head.apply(sample.features), threads=threads, step=step)
        head, used = _from_pairs(sample, head, pairs, supervision, threads)
    job = TrainingJob(
        sample.images,
        head,
        training=settings,
        quantizer=supervision,
        codewords=model.codewords(len(sample.features), supervision),
        seed=config.sample.seed,
        device=device,
        threads=threads,
    )
    batch = f"batch in [training], now {config.training.batch},"
    # End to end, memory holds the activations of one photo, whatever the batch size is.
    with in_gpu_memory(batch if pooled is None else SCALE.format(config.images.longer)):
        features = pooled or CachedFeatures(sample.features, device)
        trained = trainer(job, features, progress=progress, checkpoint=checkpoint, measure=measure)
    estimate = None
    if len(pairs.rows) and not trained.convolutions:  # with others, features of the sample are of the past
        before, after = (head.apply(sample.features) for head in (untrained, trained.head))
        estimate = verified_pairs.estimate(before, after, pairs.rows, sample.images, seed=config.sample.seed)
    return dataclasses.replace(trained, pairs=used, estimate=estimate)


def _from_pairs(
    sample: Sample, head: Head, pairs: VerifiedPairs, settings: QuantizerConfig, threads: int | None
) -> tuple[Head, int]:
    """Return the head to start training from, and the number of pairs of photos: fitted to verified pairs, or ``head``.

    The fit gains most for objects that are in the pairs, and may cost others a little: the fewer photos are in pairs,
    the nearer it stays to the principal components. It is not used if it harms objects that it was not fitted to: pairs
    of one half judge the fit to the other.
    """
    if not len(pairs.rows):
        return head, 0
    paired = len(np.unique(sample.images[pairs.rows])) / len(sample.photos)
    shrinkage = _SHRINKAGE / paired + _FEW / pairs.photos

    def fitted(rows: NDArray[np.int64]) -> Head:
        return model.start_from_pairs(sample.features, rows, settings, shrinkage=shrinkage, threads=threads)

    one, other = pairs.halves(sample.images)
    if not len(one) or not len(other):
        return head, 0
    before = head.apply(sample.features)
    gains = [
        verified_pairs.gain(before, fitted(rows).apply(sample.features), judges, sample.images)
        for rows, judges in ((one, other), (other, one))
    ]
    return (fitted(pairs.rows), pairs.photos) if np.mean(gains) > -_HARM else (head, 0)


def encoder(
    sample: Sample,
    trained: Trained,
    config: IndexConfig,
    *,
    threads: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> model.Model:
    """Return the model of a trained head and a quantizer fitted to the sample's features.

    Args:
        sample: regions and their features.
        trained: the head.
        config: settings of the collection.
        threads, step: as for ``quantizer.fit``.
    """
    return model.fit(
        sample.features,
        trained.head,
        config.quantizer,
        seed=config.sample.seed,
        trained=trained.kept > 0,
        threads=threads,
        step=step,
    )
