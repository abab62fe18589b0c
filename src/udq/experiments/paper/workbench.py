"""One set of photos, many settings: photos are looked at once, and what settings share is trained once.

A measurement is what ``udq index`` and ``udq evaluate`` would do with its settings, photo for photo: the same sample,
training, codes and protocol. Settings that differ in their own codes (M, K) or in how often module 2 runs alone go on
from each other's rounds of training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from udq.common.progress import Progress, silent
from udq.config import IndexConfig
from udq.evaluation import benchmark, scoring
from udq.evaluation.benchmark import ProtocolQueries
from udq.evaluation.scoring import Outcome
from udq.experiments.paper.checkpoints import RoundCheckpoints
from udq.experiments.paper.codes import EncodedPhotos, Floats, in_codes
from udq.experiments.paper.features import Photos
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.features.trunk import Trunk
from udq.photos import source
from udq.quantization.model import Model
from udq.search.database import Database
from udq.search.ranking import Ranking
from udq.training import fitting, sampling
from udq.training.end_to_end import EndToEnd
from udq.types import Arrays, Features


@dataclass(frozen=True)
class Fitted:
    """A model of some settings, and the photos as its network sees them.

    Attributes:
        model: pooled features -> codes.
        bench: what it is measured on: another one where the convolutions were trained too.
        seconds: of drawing the sample, training and fitting.
    """

    model: Model
    bench: Workbench
    seconds: float


@dataclass
class Workbench:
    """Photos, and boxed queries with their answers.

    Attributes:
        extractor: the network that sees both.
        photos: what it makes of the database.
        asked: queries, answers, and the protocol.
        queries: (Q, D) pooled features of the queries.
        scratch: a folder for states of training.
        ranked: whether regions are in the order of their proposer, which puts the best first.
    """

    extractor: Extractor
    photos: Photos
    asked: ProtocolQueries
    queries: Floats
    scratch: Path
    ranked: bool

    def fit(self, config: IndexConfig, progress: Progress = silent) -> Fitted:
        """Train and fit as ``udq index`` would.

        Args:
            config: settings that see photos as the extractor does.
            progress: is told of each step.
        """
        started = time.perf_counter()
        end_to_end = config.training.enabled and config.training.end_to_end
        rows = sampling.training_sample(len(self.photos), config.sample)
        sample, sources = self._sample(rows, config, apart=end_to_end)
        pooled = None
        if end_to_end:
            trunk = Trunk(config.features, weights=self.extractor.weights, device=self.extractor.device)
            pooled = EndToEnd(trunk, sources, sample.images, sample.regions, config.images)
        device, rounds = self.extractor.device, RoundCheckpoints(self._folder(config), config.training.iterations)
        trained = fitting.learn(sample, config, device, progress, pooled=pooled, checkpoint=rounds)
        bench = self
        if trained.convolutions:
            bench = self._with(trained.convolutions, config)
            sample, _ = bench._sample(rows, config, apart=True)
        fitted = fitting.encoder(sample, trained, config)
        return Fitted(fitted, bench, time.perf_counter() - started)

    def encode(self, model: Model, queries: Floats | None = None) -> EncodedPhotos:
        """Encode every photo that can be read.

        Args:
            model: what encodes.
            queries: (Q, d) unit features of the queries; those of their crops where None.
        """
        asked = self.features(model) if queries is None else queries
        return in_codes(model, self.photos, asked, ranked=self.ranked)

    def accuracy(self, model: Model, queries: Floats | None = None) -> dict[str, float]:
        """Return mAP of codes, ranked again too, of codes by the distance of eq. 5 alone, and of real-valued features.

        Args:
            model: what encodes.
            queries: as in ``encode``.
        """
        asked = self.features(model) if queries is None else queries
        encoded = self.encode(model, asked)
        database, quantizer = encoded.database, model.quantizer
        plain = replace(quantizer, residuals=np.zeros_like(quantizer.residuals))
        by_eq5 = replace(database, model=replace(model, quantizer=plain))
        rankings = {
            "codes": benchmark.rankings(database, self.asked, asked),
            "codes_diffusion": benchmark.rankings(database, self.asked, asked, ["diffusion"]),
            "codes_by_eq5": benchmark.rankings(by_eq5, self.asked, asked),
            "real_valued": (Ranking(np.argsort(row, kind="stable"), row, _nowhere) for row in encoded.nearest),
        }
        return {measure: self._map(database, found) for measure, found in rankings.items()}

    def outcomes(self, model: Model) -> tuple[Outcome, ...]:
        """Return every query's ranking by codes, scored, with where its object was found in the first photos."""
        database = self.encode(model).database
        return benchmark.score(database, self.asked, benchmark.rankings(database, self.asked, self.features(model)))

    def features(self, model: Model) -> Floats:
        """Return the unit features (Q, d) of the queries."""
        return model.head.apply(Features(self.queries)).vectors

    def _sample(
        self, rows: Sequence[int], config: IndexConfig, *, apart: bool
    ) -> tuple[sampling.Sample, list[source.Source]]:
        """Draw the regions that the model is fitted to; also return the photos they are of.

        Args:
            rows: places of these photos.
            config: how to draw.
            apart: whether to look at these photos alone. All of them are needed sooner or later, unless convolutions
                are trained: then what this network makes of the others is not.
        """
        sources = []
        wanted = set(rows)

        def noted() -> Iterator[ExtractedPhoto]:
            whole = (photo for i, photo in enumerate(self.photos) if i in wanted)
            for photo in self.photos.some(rows) if apart else whole:
                sources.append(photo.source)
                yield photo

        return sampling.draw(noted(), len(rows), config.sample), sources

    def _with(self, convolutions: Arrays, config: IndexConfig) -> Workbench:
        """Return the bench with trained convolutions."""
        old = self.extractor
        extractor = Extractor(config.images, config.features, weights=old.weights, rpn=old.rpn, device=old.device.type)
        extractor.load(convolutions)
        bench = copy(self)
        bench.extractor, bench.photos = extractor, self.photos.seen_by(extractor)
        bench.queries = describe(extractor, self.asked)
        return bench

    def _folder(self, config: IndexConfig) -> Path:
        """Return the folder of this training's states; those of another are deleted, as they can be very large."""
        alike = config.to_dict() | {"supervision": dataclasses.asdict(config.supervision())}
        del alike["quantizer"]
        # Of how many rounds, and what is made of the last one in the end: the rounds themselves are the same.
        for key in ("iterations", "share"):
            del alike["training"][key]
        name = hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:16]
        for other in self.scratch.glob("training-*"):
            if other.name != f"training-{name}":
                shutil.rmtree(other)
        return self.scratch / f"training-{name}"

    def _map(self, database: Database, rankings: Iterable[Ranking]) -> float:
        # Boxes of positives would have the place of each object worked out, which mAP does not ask for.
        queries = tuple(replace(query, boxes={}) for query in self.asked.truth.queries)
        asked = replace(self.asked, truth=replace(self.asked.truth, queries=queries))
        mean: float = scoring.summary(benchmark.score(database, asked, rankings))["mAP"]
        return mean


def describe(extractor: Extractor, asked: ProtocolQueries) -> Floats:
    """Return the pooled features (Q, D) of a benchmark's queries."""
    pairs = zip(asked.truth.queries, asked.boxes, strict=True)
    return np.stack([extractor.describe(asked.paths[query.image], box)[1] for query, box in pairs])


def _nowhere(image: int) -> Floats:
    del image
    return np.zeros(4, np.float32)
