"""Build a collection: photos -> regions -> features -> model -> codes -> disk.

A build extracts a sample of the photos, fits the model to it, and encodes every photo. The features of the sample wait
in scratch files, so that no photo goes through the network twice. Memory depends on the size of the sample and of a
segment, not on the number of photos. Each phase can be resumed: a build that was killed continues from its last
checkpoint and ends with the same codes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path

from udq._version import __version__
from udq.common import files
from udq.common.progress import Progress, silent, tracked
from udq.common.threads import Pool, limit_this_thread, one_core_each, pool
from udq.config import IndexConfig
from udq.errors import ImageError, InputError
from udq.features.cache import FeatureCache
from udq.features.device import SCALE, in_gpu_memory
from udq.features.extractor import Extractor
from udq.features.trunk import Trunk
from udq.indexing.encode import encode_or_report
from udq.indexing.workers import LocalWorkers, Workers
from udq.photos.listing import NOTHING, PassedOver
from udq.photos.source import Source
from udq.quantization.model import Model
from udq.store import segments
from udq.store.builder import CollectionBuilder
from udq.store.manifest import UnreadablePhoto, given_file, read_manifest
from udq.store.segments import StoredPhoto
from udq.training import fitting
from udq.training.algorithm import Trained, train
from udq.training.end_to_end import EndToEnd
from udq.training.fitting import FileCheckpoint, Measure, Trainer
from udq.training.sampling import Sample, draw, training_sample

WorkerFactory = Callable[[Extractor, IndexConfig], AbstractContextManager[Workers]]
"""Factory for the workers of a build, given an extractor and its settings; closes them on exit."""

MonitorFactory = Callable[[Sequence[Source], FeatureCache, Extractor], Measure]
"""Photos, features of the training photos, network -> what measures a benchmark after each round of training."""


def build(
    sources: Sequence[Source],
    path: Path,
    *,
    passed_over: PassedOver = NOTHING,
    exclude: Sequence[str] = (),
    config: IndexConfig,
    weights: Path | None = None,
    rpn: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    monitor: MonitorFactory | None = None,
    workers: WorkerFactory | None = None,
    trainer: Trainer = train,
    progress: Progress = silent,
) -> None:
    """Build a collection of photos at ``path``.

    Args:
        sources: the photos, in the order of names.
        path: the collection to make; nothing may be there yet.
        passed_over: counts of what is not indexed in the given folders.
        exclude: the user's patterns of what is not indexed, for later additions.
        config: settings of the collection.
        weights: a file of weights for the backbone.
        rpn: a file of the region proposal network.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads; as many as there are cores if None.
        monitor: measures a benchmark after every round of training; does not influence it.
        workers: factory of the workers that extract and encode photos; in-process if None.
        trainer: runs algorithm 1.
        progress: called for each photo.

    Raises:
        InputError: something is at ``path`` already, or another process is building there.
        ImageError: not one photo can be read.
    """
    extractor = Extractor(
        config.images, config.features, config.keypoints, weights=weights, rpn=rpn, device=device, threads=threads
    ).proposing()
    given = {"weights": files.fingerprint(weights), "rpn": files.fingerprint(rpn)}
    with (
        CollectionBuilder(path, fingerprint=fingerprint(sources, config, extractor, given)) as builder,
        nullcontext(LocalWorkers(extractor)) if workers is None else workers(extractor, config) as started,
    ):
        phases = _Build(sources, range(len(sources)), builder, extractor, started, config, progress)
        broken = phases.run(monitor, trainer)
        builder.commit(
            config, given=given, broken=broken, next_id=len(sources), passed_over=passed_over, exclude=exclude
        )


def rebuild(
    path: Path,
    *,
    config: IndexConfig,
    device: str = "auto",
    threads: int | None = None,
    monitor: MonitorFactory | None = None,
    progress: Progress = silent,
) -> None:
    """Retrain a collection on its photos as they are now, encode them again, and replace it.

    The collection is unchanged until the last step, which is atomic.

    Args:
        path: the collection.
        config: settings to build it with.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of threads; as many as there are cores if None.
        monitor: measures a benchmark after every round of training; does not influence it.
        progress: called for each photo.

    Raises:
        InputError: photos are missing.
        CollectionError: a file of weights that it was built with is missing.
    """
    manifest = read_manifest(path)
    images = segments.read_living(path, manifest)
    sources = [Source(image.name, image.path) for image in images]
    missing = [source.path for source in sources if not source.path.is_file()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of its {len(sources)} photos are missing, '{missing[0]}' first; put them back: "
            "a collection does not store features, so that they must be extracted again; if their folder moved, run "
            f"first: udq relocate {path} OLD NEW"
        )
    if not sources:
        raise InputError(f"{path}: contains no photos to train on; add some first")
    given = dict(manifest.given)
    if "rpn" not in config.features.proposals:
        given["rpn"] = None  # another proposer is used now
    weights, rpn = (given_file(given, name) for name in ("weights", "rpn"))
    extractor = Extractor(
        config.images, config.features, config.keypoints, weights=weights, rpn=rpn, device=device, threads=threads
    ).proposing()
    same = fingerprint(sources, config, extractor, given, manifest.document["sha256"])
    with CollectionBuilder(path, fingerprint=same, replaces=manifest) as builder:
        ids = [image.id for image in images]
        phases = _Build(sources, ids, builder, extractor, LocalWorkers(extractor), config, progress)
        broken = [*manifest.broken, *phases.run(monitor)]
        builder.commit(
            config,
            given=given,
            broken=broken,
            next_id=manifest.next_id,
            passed_over=manifest.passed_over,
            exclude=manifest.exclude,
        )


@dataclass(frozen=True, eq=False)
class _Build:
    """The phases of a build: extract the sample, fit the model, encode; each skips what an earlier run completed.

    Attributes:
        sources: the photos.
        ids: their ids, ascending.
        builder: writes the model and the segments.
        extractor: the network.
        workers: extract and encode photos with this network.
        config: settings.
        progress: called for each photo.
    """

    sources: Sequence[Source]
    ids: Sequence[int]
    builder: CollectionBuilder
    extractor: Extractor
    workers: Workers
    config: IndexConfig
    progress: Progress

    def run(self, monitor: MonitorFactory | None = None, trainer: Trainer = train) -> list[UnreadablePhoto]:
        """Fit the model to a sample of the photos and encode all of them; return the photos that cannot be read."""
        with limit_this_thread(), one_core_each():
            if not self.builder.has_model:
                self._fit(monitor, trainer)
            return self._encode()

    @cached_property
    def _sampled(self) -> list[int]:
        """Indices of the photos of the sample, ascending."""
        return training_sample(len(self.sources), self.config.sample)

    @cached_property
    def _features(self) -> FeatureCache:
        """Features of the sample's photos by the network before training."""
        return self._cache("photos")

    @cached_property
    def _trained_features(self) -> FeatureCache:
        """Features of the sample's photos by the network with trained convolutions."""
        return self._cache("photos-again")

    def _cache(self, name: str) -> FeatureCache:
        sources = [self.sources[i] for i in self._sampled]
        return FeatureCache(self.builder.scratch / name, sources, self.workers.extract)

    def _sample(self, cache: FeatureCache, stage: str) -> Sample:
        """Extract the photos of the sample, and draw the regions that the model is fitted to."""
        count = len(self._sampled)
        with self.progress(stage, count) as step, self._gpu_memory():
            return draw(tracked(cache.fill(), step), count, self.config.sample)

    def _fit(self, monitor: MonitorFactory | None, trainer: Trainer) -> None:
        """Train the head, fit the quantizer, and write both."""
        measure = None if monitor is None else monitor(self.sources, self._features, self.extractor)
        sample = self._sample(self._features, "extracting features")
        if not len(sample.features):
            self.builder.abandon()
            raise ImageError(_none_readable(self._features.broken))
        trained = self._train(sample, measure, trainer)
        if trained.convolutions:
            self.workers.load(trained.convolutions)
            sample = self._sample(self._trained_features, "extracting features again, with trained convolutions")
        with self.progress("fitting codes", self.config.quantizer.iterations + 1) as step:
            model = fitting.encoder(sample, trained, self.config, threads=self.extractor.engine.threads, step=step)
        history = trained.history() if self.config.training.enabled else None
        self.builder.put_model(model, training=history, backbone=trained.convolutions)

    def _train(self, sample: Sample, measure: Measure | None, trainer: Trainer) -> Trained:
        """Run algorithm 1 on the sample; end to end, on its photos."""
        pooled = None
        if self.config.training.enabled and self.config.training.end_to_end:
            trunk = Trunk(self.config.features, weights=self.extractor.weights, device=self.extractor.device)
            pooled = EndToEnd(trunk, self._features.sources, sample, self.config.images)
        return fitting.learn(
            sample,
            self.config,
            self.extractor.device,
            self.progress,
            threads=self.extractor.engine.threads,
            pooled=pooled,
            checkpoint=FileCheckpoint(self.builder.scratch / "training.npz"),
            measure=measure,
            trainer=trainer,
        )

    def _encode(self) -> list[UnreadablePhoto]:
        """Encode the photos that are not written yet, and write them in segments; return all unreadable photos."""
        builder, model, cache = self.builder, self.builder.read_model(), self._features
        if convolutions := builder.read_backbone():
            self.workers.load(convolutions)
            cache = self._trained_features
        done, broken, pending = builder.done, builder.broken, list[StoredPhoto]()

        def write() -> None:
            builder.put_segment(pending, codewords=model.quantizer.codewords, done=done, broken=broken)

        with (
            self.progress("encoding photos", len(self.sources)) as step,
            self._gpu_memory(),
            pool(self.extractor.engine.threads) as threads,
        ):
            for _ in range(done):
                step()
            for photo in tracked(self._encoded(model, cache, threads), step):
                done += 1
                if isinstance(photo, StoredPhoto):
                    pending.append(photo)
                else:
                    broken.append(photo)
                if len(pending) == segments.PHOTOS:
                    write()
                    pending.clear()
            if pending:
                write()
        return broken

    def _encoded(self, model: Model, cache: FeatureCache, threads: Pool) -> Iterator[StoredPhoto | UnreadablePhoto]:
        """Yield the photos that are not written yet, in order.

        Features of the sample's photos come from the cache; the workers extract the other photos.
        """
        done, sampled = self.builder.done, set(self._sampled)
        features = cache.drain(skip=sum(i < done for i in self._sampled))
        ids = [self.ids[i] for i in self._sampled if i >= done]
        cached = threads.map(encode_or_report, features, ids, repeat(model))
        others = ((self.ids[i], self.sources[i]) for i in range(done, len(self.sources)) if i not in sampled)
        encoded = self.workers.encode(others, model)
        for i in range(done, len(self.sources)):
            yield next(cached) if i in sampled else next(encoded)

    def _gpu_memory(self) -> AbstractContextManager[None]:
        return in_gpu_memory(SCALE.format(self.config.images.longer))


def _none_readable(reasons: Sequence[str]) -> str:
    listed = "; ".join(reasons[:3])
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"none of {len(reasons)} photos could be read: {listed}{more}"


def fingerprint(
    sources: Sequence[Source],
    config: IndexConfig,
    extractor: Extractor,
    given: Mapping[str, files.Fingerprint | None],
    replaces: str | None = None,
) -> str:
    """Return a checksum of everything that the codes of a build depend on.

    Args:
        sources: the photos.
        config: settings of the collection.
        extractor: the network; its engine determines the arithmetic.
        given: the user's own files of weights.
        replaces: checksum of the collection that the build replaces.
    """
    facts = [__version__, extractor.engine.facts(), config.to_dict(), dict(given), replaces]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sources:
        # Bytes of a name that are not valid Unicode are lone surrogates, which must not be an error here.
        digest.update(f"{source.name}\0{source.place}\0{source.state()}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
