"""Train, encode and evaluate one set of photos with many configurations, sharing features and rounds of training.

A measurement equals that of ``udq index`` and ``udq evaluate`` with the same configuration: the same sample, training,
codes and protocol. But they have no queries to fine-tune the convolutions on, as ``query_steps`` asks here.
Configurations that differ only in their codes (M, K) or in how often module 2 runs continue from each other's rounds of
training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from udq.common.files import write_whole
from udq.common.progress import Progress, silent
from udq.common.provenance import code
from udq.config import IndexConfig
from udq.evaluation import benchmark, scoring
from udq.evaluation.benchmark import ProtocolQueries
from udq.evaluation.scoring import Outcome
from udq.experiments.paper.codes import EncodedPhotos, Floats, encode_photos
from udq.experiments.paper.features import Photos
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.features.trunk import Trunk
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.search.database import Database
from udq.search.ranking import Ranking
from udq.training import fitting, sampling
from udq.training.algorithm import TrainingState
from udq.training.end_to_end import EndToEnd
from udq.types import Arrays, Features


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


@dataclass(frozen=True)
class Fitted:
    """A trained model, and the workbench with the features of its network.

    Attributes:
        model: maps pooled features to codes.
        workbench: the workbench to measure the model on; a new one if the convolutions were trained too.
        seconds: duration of sampling, training and fitting.
    """

    model: Model
    workbench: Workbench
    seconds: float


@dataclass
class Workbench:
    """The features of photos and queries, with the answers.

    Attributes:
        extractor: the network.
        photos: photos of the database, with features.
        queries: queries, answers and the protocol.
        query_features: (Q, D) pooled features of the queries.
        scratch: folder for checkpoints of training.
        ranked: whether regions are in the order of their proposer, best first.
        position: ``SearchConfig.position``.
        convolutions: those that the extractor was loaded with; empty if they are the pretrained ones.
    """

    extractor: Extractor
    photos: Photos
    queries: ProtocolQueries
    query_features: Floats
    scratch: Path
    ranked: bool
    position: str
    convolutions: Arrays = field(default_factory=dict)

    def fit(self, config: IndexConfig, progress: Progress = silent) -> Fitted:
        """Train and fit a model like ``udq index``.

        Args:
            config: a configuration with the images and features of the extractor.
            progress: called for each step.
        """
        started = time.perf_counter()
        end_to_end = config.training.enabled and config.training.end_to_end
        rows = sampling.training_sample(len(self.photos), config.sample)
        sample, sources = self._sample(rows, config, only_rows=end_to_end)
        pooled = None
        if end_to_end:
            trunk = Trunk(config.features, weights=self.extractor.weights, device=self.extractor.device)
            trunk.load(self.convolutions)
            pooled = EndToEnd(trunk, sources, sample, config.images)
        checkpoint = RoundCheckpoints(self._checkpoint_folder(config), config.training.iterations)
        threads = self.extractor.engine.threads
        trained = fitting.learn(
            sample, config, self.extractor.device, progress, threads=threads, pooled=pooled, checkpoint=checkpoint
        )
        workbench = self
        if trained.convolutions:
            workbench = self._with_convolutions(trained.convolutions, config)
            sample, _ = workbench._sample(rows, config, only_rows=True)
        model = fitting.encoder(sample, trained, config, threads=threads)
        return Fitted(model, workbench, time.perf_counter() - started)

    def encode(self, model: Model, vectors: Floats | None = None) -> EncodedPhotos:
        """Encode the readable photos.

        Args:
            model: the model that encodes.
            vectors: (Q, d) unit features of the queries; by default those of their crops.
        """
        vectors = self.query_vectors(model) if vectors is None else vectors
        return encode_photos(model, self.photos, vectors, ranked=self.ranked, position=self.position)

    def accuracy(self, model: Model, vectors: Floats | None = None) -> dict[str, float]:
        """Return the mAP of codes, of codes with diffusion, of codes by the distance of eq. 5, and of exact features.

        Args:
            model: the model that encodes.
            vectors: (Q, d) unit features of the queries; by default those of their crops.
        """
        vectors = self.query_vectors(model) if vectors is None else vectors
        encoded = self.encode(model, vectors)
        database = encoded.database
        by_eq5 = replace(database, model=replace(model, quantizer=model.quantizer.without_residuals()))
        rankings = {
            "codes": benchmark.rankings(database, self.queries, vectors),
            "codes_diffusion": benchmark.rankings(database, self.queries, vectors, ["diffusion"]),
            "codes_by_eq5": benchmark.rankings(by_eq5, self.queries, vectors),
            "real_valued": (Ranking(np.argsort(row, kind="stable"), row, _no_box) for row in encoded.nearest),
        }
        return {measure: self._mean_average_precision(database, each) for measure, each in rankings.items()}

    def outcomes(self, model: Model) -> tuple[Outcome, ...]:
        """Return the scored ranking by codes of every query, with the object's boxes in the first photos."""
        database = self.encode(model).database
        rankings = benchmark.rankings(database, self.queries, self.query_vectors(model))
        return benchmark.score(database, self.queries, rankings)

    def query_vectors(self, model: Model) -> Floats:
        """Return the unit features (Q, d) of the queries."""
        return model.head.apply(Features(self.query_features)).vectors

    def _sample(
        self, rows: Sequence[int], config: IndexConfig, *, only_rows: bool
    ) -> tuple[sampling.Sample, list[Source]]:
        """Draw the regions that the model is fitted to; also return their photos.

        Args:
            rows: positions of the photos to draw from.
            config: the configuration of the sample.
            only_rows: extract only these photos. The others are needed later in any case, unless convolutions are
                trained, which changes their features.
        """
        sources = []
        wanted = set(rows)

        def sampled() -> Iterator[ExtractedPhoto]:
            among_all = (photo for i, photo in enumerate(self.photos) if i in wanted)
            for photo in self.photos.select(rows) if only_rows else among_all:
                sources.append(photo.source)
                yield photo

        return sampling.draw(sampled(), len(rows), config.sample), sources

    def _with_convolutions(self, convolutions: Arrays, config: IndexConfig) -> Workbench:
        """Return a workbench with trained convolutions."""
        old = self.extractor
        extractor = Extractor(
            config.images,
            config.features,
            weights=old.weights,
            rpn=old.rpn,
            device=old.device.type,
            threads=old.engine.threads,
        )
        extractor.load(convolutions)
        workbench = copy(self)
        workbench.extractor, workbench.photos = extractor, self.photos.with_extractor(extractor)
        workbench.query_features = describe(extractor, self.queries)
        return workbench

    def _checkpoint_folder(self, config: IndexConfig) -> Path:
        """Return the folder of this training's checkpoints; those of another, which can be very large, are deleted."""
        shared = config.to_dict() | {"supervision": dataclasses.asdict(config.supervision())}
        del shared["quantizer"]
        # The number of rounds, and the share of the last one in the final weights, do not change the rounds.
        for key in ("iterations", "share"):
            del shared["training"][key]
        facts = json.dumps([shared, code("quantization", "training")], sort_keys=True)
        name = hashlib.sha256(facts.encode()).hexdigest()[:16]
        for other in self.scratch.glob("training-*"):
            if other.name != f"training-{name}":
                shutil.rmtree(other)
        return self.scratch / f"training-{name}"

    def _mean_average_precision(self, database: Database, rankings: Iterable[Ranking]) -> float:
        # Without boxes of positives, objects are not localised, which mAP does not need.
        without_boxes = tuple(replace(query, boxes={}) for query in self.queries.truth.queries)
        queries = replace(self.queries, truth=replace(self.queries.truth, queries=without_boxes))
        mean: float = scoring.summary(benchmark.score(database, queries, rankings))["mAP"]
        return mean


def describe(extractor: Extractor, queries: ProtocolQueries) -> Floats:
    """Return the pooled features (Q, D) of a benchmark's queries."""
    pairs = zip(queries.truth.queries, queries.boxes, strict=True)
    return np.stack([extractor.describe(queries.paths[query.image], box)[1] for query, box in pairs])


def _no_box(image: int) -> Floats:
    del image
    return np.zeros(4, np.float32)
