"""Build a collection: photos -> regions -> features -> model -> codes -> disk, in one stream.

The model is fitted to a sample of the photos; their pooled features are kept in scratch files, so that no photo goes
through the network twice. Then every photo is encoded in turn. Memory depends on the size of the sample and of a
segment, not on the number of photos. Every phase is resumable: a build that was killed continues from its last
checkpoint and ends with the same codes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from udq._version import __version__
from udq.common import files
from udq.common.progress import Progress, silent, tracked
from udq.config import IndexConfig
from udq.errors import ImageError, InputError
from udq.features.cache import FeatureCache
from udq.features.device import SCALE, in_gpu_memory
from udq.features.extractor import Extractor
from udq.features.trunk import Trunk
from udq.indexing.encode import Seen, seen
from udq.indexing.workers import LocalWorkers, Workers
from udq.photos import source as photo_source
from udq.quantization.model import Model
from udq.store import manifest as manifests
from udq.store import segments
from udq.store.builder import CollectionBuilder
from udq.store.segments import StoredPhoto
from udq.training import fitting
from udq.training.algorithm import Trained, train
from udq.training.end_to_end import EndToEnd
from udq.training.fitting import FileCheckpoint, Measure, Trainer
from udq.training.sampling import Sample, draw, training_sample

WorkerFactory = Callable[[Extractor, IndexConfig], AbstractContextManager[Workers]]
"""Factory for the extraction workers of an extractor and its settings; closes them on exit."""

MonitorFactory = Callable[[Sequence[photo_source.Source], FeatureCache, Extractor], Measure]
"""Photos, features of the training photos, and the network -> what measures a benchmark after each round."""


def build(
    sources: Sequence[photo_source.Source],
    path: Path,
    *,
    passed_over: int = 0,
    config: IndexConfig,
    weights: Path | None = None,
    rpn: Path | None = None,
    device: str = "auto",
    monitor: MonitorFactory | None = None,
    hire: WorkerFactory | None = None,
    trainer: Trainer = train,
    progress: Progress = silent,
) -> None:
    """Build a collection of photos at ``path``.

    Args:
        sources: the photos, in the order of names.
        path: the collection to make; nothing may be there yet.
        passed_over: files that are no photos.
        config: what to build it with.
        weights: a file of weights for the backbone.
        rpn: a file of the region proposal network.
        device: ``auto``, ``cpu`` or ``cuda``.
        monitor: measures a benchmark after every round of training; does not influence it.
        hire: extraction worker factory; in-process if None.
        trainer: runs algorithm 1.
        progress: called for each photo.
    """
    extractor = Extractor(config.images, config.features, weights=weights, rpn=rpn, device=device).proposing()
    given = {"weights": files.fingerprint(weights), "rpn": files.fingerprint(rpn)}
    with (
        CollectionBuilder(path, fingerprint=fingerprint(sources, config, extractor, given)) as writer,
        nullcontext(LocalWorkers(extractor)) if hire is None else hire(extractor, config) as workforce,
    ):
        build = _Build(sources, range(len(sources)), writer, extractor, workforce, config, progress)
        broken = build.run(monitor, trainer)
        writer.commit(config, given=given, broken=broken, next_id=len(sources), passed_over=passed_over)


def rebuild(
    path: Path,
    *,
    config: IndexConfig,
    device: str = "auto",
    monitor: MonitorFactory | None = None,
    progress: Progress = silent,
) -> None:
    """Train an existing collection anew on its photos as they are now, and encode them anew, in its place.

    Until the last step, which is atomic, the collection stays as it was.

    Args:
        path: the collection.
        config: what to build it with.
        device: ``auto``, ``cpu`` or ``cuda``.
        monitor: measures a benchmark after every round of training; does not influence it.
        progress: called for each photo.

    Raises:
        InputError: photos are gone.
        CollectionError: a file of weights that it was built with is gone.
    """
    manifest = manifests.read_manifest(path)
    held = segments.read_living(path, manifest)
    sources = [photo_source.Source(image.name, image.path) for image in held]
    gone = [source.path for source in sources if not source.path.is_file()]
    if gone:
        raise InputError(
            f"{path}: {len(gone)} of its {len(sources)} photos are gone, '{gone[0]}' first; put them back: "
            "no features are kept, so that photos must be looked at again"
        )
    if not sources:
        raise InputError(f"{path}: holds no photos, so that there is nothing to train on; add some first")
    given = dict(manifest.given)
    if "rpn" not in config.features.proposals:
        given["rpn"] = None  # regions come from elsewhere now
    weights, rpn = (manifests.given_file(given, name) for name in ("weights", "rpn"))
    extractor = Extractor(config.images, config.features, weights=weights, rpn=rpn, device=device).proposing()
    same = fingerprint(sources, config, extractor, given, manifest.document["sha256"])
    with CollectionBuilder(path, fingerprint=same, replaces=manifest) as writer:
        ids = [image.id for image in held]
        found = _Build(sources, ids, writer, extractor, LocalWorkers(extractor), config, progress).run(monitor)
        broken = [*manifest.broken, *found]
        writer.commit(
            config,
            given=given,
            broken=broken,
            next_id=manifest.next_id,
            passed_over=manifest.document["passed_over"],
        )


@dataclass(frozen=True, eq=False)
class _Build:
    """Sample, fit, encode: the phases of a build, each of which skips what an earlier run finished.

    Attributes:
        sources: the photos.
        ids: their ids, ascending.
        writer: receives the model and the segments.
        extractor: the network.
        workforce: extracts and encodes photos with such a network.
        config: settings.
        progress: called for each photo.
    """

    sources: Sequence[photo_source.Source]
    ids: Sequence[int]
    writer: CollectionBuilder
    extractor: Extractor
    workforce: Workers
    config: IndexConfig
    progress: Progress

    def run(self, monitor: MonitorFactory | None = None, trainer: Trainer = train) -> list[dict[str, str]]:
        """Fit a model to a sample of the photos and encode all of them; return the photos that could not be read."""
        if not self.writer.has_model:
            self._fit(monitor, trainer)
        return self._encode()

    @cached_property
    def _training(self) -> list[int]:
        """Indices of the training photos."""
        return training_sample(len(self.sources), self.config.sample)

    def _spool(self, name: str) -> FeatureCache:
        """Return the kept features of the training photos, in a scratch folder of that name."""
        return FeatureCache(
            self.writer.scratch / name, [self.sources[i] for i in self._training], self.workforce.extract
        )

    @cached_property
    def _first(self) -> FeatureCache:
        """Features by the network as it is before training."""
        return self._spool("photos")

    @cached_property
    def _again(self) -> FeatureCache:
        """Features by the network with trained convolutions."""
        return self._spool("photos-again")

    def _sample(self, spool: FeatureCache, stage: str) -> Sample:
        """Extract the training photos, and draw the regions that the model is fitted to."""
        count = len(self._training)
        with self.progress(stage, count) as step, self._gpu_memory():
            return draw(tracked(spool.fill(), step), count, self.config.sample)

    def _fit(self, monitor: MonitorFactory | None, trainer: Trainer) -> None:
        """Train the head, fit the quantizer, and write both."""
        measure = None if monitor is None else monitor(self.sources, self._first, self.extractor)
        sample = self._sample(self._first, "looking at photos")
        if not len(sample.features):
            self.writer.abandon()
            raise ImageError(_all_broken(self._first.broken))
        trained = self._train(sample, measure, trainer)
        if trained.convolutions:
            self.workforce.load(trained.convolutions)
            sample = self._sample(self._again, "looking again, with trained convolutions")
        with self.progress("fitting codes", None):
            fitted = fitting.encoder(sample, trained, self.config)
        history = trained.history() if self.config.training.enabled else None
        self.writer.put_model(fitted, training=history, backbone=trained.convolutions)

    def _train(self, sample: Sample, measure: Measure | None, trainer: Trainer) -> Trained:
        """Run algorithm 1 on the sample; end to end, on its photos."""
        pooled = None
        if self.config.training.enabled and self.config.training.end_to_end:
            trunk = Trunk(self.config.features, weights=self.extractor.weights, device=self.extractor.device)
            pooled = EndToEnd(trunk, self._first.sources, sample.images, sample.regions, self.config.images)
        return fitting.learn(
            sample,
            self.config,
            self.extractor.device,
            self.progress,
            pooled=pooled,
            checkpoint=FileCheckpoint(self.writer.scratch / "training.npz"),
            measure=measure,
            trainer=trainer,
        )

    def _encode(self) -> list[dict[str, str]]:
        """Encode every photo that is not written yet; return all that could not be read."""
        spool, fitted = self._first, self.writer.read_model()
        if convolutions := self.writer.read_backbone():
            self.workforce.load(convolutions)
            spool = self._again
        with self.progress("encoding photos", len(self.sources)) as step, self._gpu_memory():
            for _ in range(self.writer.done):
                step()
            return _put(tracked(self._encoded(fitted, spool), step), fitted.quantizer.codewords, self.writer)

    def _encoded(self, fitted: Model, spool: FeatureCache) -> Iterator[Seen]:
        """Yield the photos that are not written yet in order: training photos from kept features, others extracted."""
        training = set(self._training)
        left = range(self.writer.done, len(self.sources))
        kept = spool.drain(skip=sum(i < self.writer.done for i in self._training))
        rest = ((self.ids[i], self.sources[i]) for i in left if i not in training)
        fresh = self.workforce.encode(rest, fitted)
        for i in left:
            yield seen(next(kept), self.ids[i], fitted) if i in training else next(fresh)

    def _gpu_memory(self) -> AbstractContextManager[None]:
        return in_gpu_memory(SCALE.format(self.config.images.longer))


def _put(photos: Iterable[Seen], codewords: int, writer: CollectionBuilder) -> list[dict[str, str]]:
    """Write the photos that are still to do in segments; return all that are broken."""
    done, broken = writer.done, writer.broken
    whole: list[StoredPhoto] = []
    for photo in photos:
        done += 1
        if isinstance(photo, StoredPhoto):
            whole.append(photo)
        else:
            broken.append(photo)
        if len(whole) == segments.PHOTOS:
            writer.put_segment(whole, codewords=codewords, done=done, broken=broken)
            whole = []
    if whole:
        writer.put_segment(whole, codewords=codewords, done=done, broken=broken)
    return broken


def _all_broken(broken: Sequence[str]) -> str:
    listed = "; ".join(broken[:3])
    more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
    return f"none of {len(broken)} photos could be read: {listed}{more}"


def fingerprint(
    sources: Sequence[photo_source.Source],
    config: IndexConfig,
    extractor: Extractor,
    given: Mapping[str, files.Fingerprint | None],
    replaces: str | None = None,
) -> str:
    """Return a checksum of all that a build's codes depend on.

    Args:
        sources: the photos.
        config: what to build with.
        extractor: where and how precisely the network computes.
        given: the user's own files of weights.
        replaces: checksum of the collection that the build replaces.
    """
    facts = [__version__, extractor.engine.facts(), config.to_dict(), dict(given), replaces]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sources:
        # Bytes of a name that are no text are lone surrogates, which pass as they are.
        found.update(f"{source.name}\0{source.place}\0{source.state()}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()
