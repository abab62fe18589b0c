"""Build a collection: photos -> regions -> features -> model -> codes -> disk, in one stream.

A sample of the photos is looked at first and the model is fitted to it; their pooled features wait in scratch
files, so that no photo goes through the network twice. Then every photo is encoded in turn. Memory depends on
the size of the sample and of a segment, not on the number of photos. What is done is kept: a build that was killed
goes on from there, and ends with the same codes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from udq import __version__, evaluate, images, model, segments, storage, watch
from udq.config import IndexConfig, SampleConfig
from udq.datasets import GroundTruth
from udq.durable import write_whole
from udq.encode import Here, Seen, Workforce, seen
from udq.end_to_end import EndToEnd
from udq.errors import ImageError, InputError
from udq.extract import Extracted, Extractor, in_gpu_memory
from udq.head import Arrays, Head
from udq.progress import Progress, silent
from udq.segments import Indexed
from udq.spool import Spool
from udq.train import Cached, Pooled, State, Trained, train
from udq.trunk import Trunk
from udq.types import Features, Regions
from udq.writer import Writer

_Photo = TypeVar("_Photo")

SCALE = "longer in [images], now {},"
"""What to lower where the GPU's memory does not hold a photo's activations."""


@dataclass(frozen=True)
class Sample:
    """Regions that a model is fitted to.

    Attributes:
        features: (G, D) pooled features.
        regions: G regions.
        images: (G,) int64, which photo each region is of; ascending.
    """

    features: Features
    regions: Regions
    images: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.regions) == len(self.features):
            raise ValueError(
                f"sample: expected as many regions as features, found {len(self.regions)}, "
                f"{len(self.features)} features and {len(self.images)} photos"
            )


# An extractor and its settings -> those who look at photos with such a one, who go home at the end.
Hire = Callable[[Extractor, IndexConfig], AbstractContextManager[Workforce]]


def build(
    sources: Sequence[images.Source],
    path: Path,
    *,
    passed_over: int = 0,
    config: IndexConfig,
    weights: Path | None = None,
    rpn: Path | None = None,
    device: str = "auto",
    truth: GroundTruth | None = None,
    hire: Hire | None = None,
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
        truth: a benchmark to measure after every round of training; nothing goes by it.
        hire: finds those who look at photos; this process does where None.
        progress: is told of each photo.
    """
    if truth is not None:
        evaluate.check_names(truth, {source.name for source in sources}, ())
    extractor = Extractor(config.images, config.features, weights=weights, rpn=rpn, device=device).proposing()
    given = {"weights": storage.fingerprint(weights), "rpn": storage.fingerprint(rpn)}
    with (
        Writer(path, fingerprint=fingerprint(sources, config, extractor, given)) as writer,
        nullcontext(Here(extractor)) if hire is None else hire(extractor, config) as workforce,
    ):
        broken = _write(sources, range(len(sources)), writer, extractor, workforce, config, truth, progress)
        writer.commit(config, given=given, broken=broken, next_id=len(sources), passed_over=passed_over)


def rebuild(
    path: Path,
    *,
    config: IndexConfig,
    device: str = "auto",
    truth: GroundTruth | None = None,
    progress: Progress = silent,
) -> None:
    """Train an existing collection anew on its photos as they are now, and encode them anew, in its place.

    Until the last step, which is atomic, the collection stays as it was.

    Args:
        path: the collection.
        config: what to build it with.
        device: ``auto``, ``cpu`` or ``cuda``.
        truth: a benchmark to measure after every round of training; nothing goes by it.
        progress: is told of each photo.

    Raises:
        InputError: photos are gone.
        CollectionError: a file of weights that it was built with is gone.
    """
    manifest = storage.read_manifest(path)
    held = segments.read_living(path, manifest)
    sources = [images.Source(image.name, image.path) for image in held]
    gone = [source.path for source in sources if not source.path.is_file()]
    if gone:
        raise InputError(
            f"{path}: {len(gone)} of its {len(sources)} photos are gone, '{gone[0]}' first; put them back: "
            "no features are kept, so that photos must be looked at again"
        )
    if not sources:
        raise InputError(f"{path}: holds no photos, so that there is nothing to train on; add some first")
    if truth is not None:
        unread = {entry["image"] for entry in manifest.broken}
        evaluate.check_names(truth, {source.name for source in sources}, unread)
    given = dict(manifest.given)
    if "rpn" not in config.features.proposals:
        given["rpn"] = None  # regions come from elsewhere now
    weights, rpn = (storage.given_file(given, name) for name in ("weights", "rpn"))
    extractor = Extractor(config.images, config.features, weights=weights, rpn=rpn, device=device).proposing()
    same = fingerprint(sources, config, extractor, given, manifest.document["sha256"])
    with Writer(path, fingerprint=same, replaces=manifest) as writer:
        ids = [image.id for image in held]
        found = _write(sources, ids, writer, extractor, Here(extractor), config, truth, progress)
        broken = [*manifest.broken, *found]
        writer.commit(
            config,
            given=given,
            broken=broken,
            next_id=manifest.next_id,
            passed_over=manifest.document["passed_over"],
        )


def _write(
    sources: Sequence[images.Source],
    ids: Sequence[int],
    writer: Writer,
    extractor: Extractor,
    workforce: Workforce,
    config: IndexConfig,
    truth: GroundTruth | None,
    progress: Progress,
) -> list[dict[str, str]]:
    """Fit a model to a sample of the photos and encode all of them, or what an earlier try left of that to do.

    Args:
        sources: photos.
        ids: theirs, ascending.
        writer: where they go.
        extractor, config: how.
        workforce: those who look at them, with such an extractor.
        truth: a benchmark to measure after every round of training.
        progress: is told of each photo.

    Returns:
        The photos that could not be read.
    """
    training = training_sample(len(sources), config.sample)
    chosen_sources = [sources[i] for i in training]
    spool = Spool(writer.scratch / "photos", chosen_sources, workforce.extract)
    again = Spool(writer.scratch / "photos-again", chosen_sources, workforce.extract)

    def look(into: Spool, stage: str) -> Sample:
        with progress(stage, len(training)) as step, in_gpu_memory(SCALE.format(config.images.longer)):
            return draw(counted(into.fill(), step), len(training), config.sample)

    if not writer.has_model:
        measure = None if truth is None else _Watch(truth, sources, spool, extractor, config)
        sample = look(spool, "looking at photos")
        if not len(sample.features):
            writer.abandon()
            raise ImageError(_all_broken(spool.broken))
        end_to_end = None
        if config.training.enabled and config.training.end_to_end:
            trunk = Trunk(config.features, weights=extractor.weights, device=extractor.device)
            end_to_end = EndToEnd(trunk, chosen_sources, sample.images, sample.regions, config.images)
        checkpoint = _Checkpoint(writer.scratch / "training.npz")
        trained = learn(
            sample,
            config,
            extractor.device,
            progress,
            pooled=end_to_end,
            checkpoint=checkpoint,
            measure=measure,
            run=workforce.train,
        )
        if trained.convolutions:
            workforce.load(trained.convolutions)
            sample = look(again, "looking again, with trained convolutions")
        with progress("fitting codes", None):
            fitted = encoder(sample, trained, config)
        del sample
        history = trained.history() if config.training.enabled else None
        writer.put_model(fitted, training=history, backbone=trained.convolutions)
    if convolutions := writer.read_backbone():
        workforce.load(convolutions)
        spool = again
    fitted = writer.read_model()
    chosen = set(training)
    left = range(writer.done, len(sources))
    rest = workforce.encode(((ids[i], sources[i]) for i in left if i not in chosen), fitted)
    looked_at = spool.drain(skip=sum(i < writer.done for i in training))
    photos = (seen(next(looked_at), ids[i], fitted) if i in chosen else next(rest) for i in left)
    with progress("encoding photos", len(sources)) as step, in_gpu_memory(SCALE.format(config.images.longer)):
        for _ in range(writer.done):
            step()
        return _put(counted(photos, step), fitted.quantizer.codewords, writer)


class _Watch:
    """The mAP of a benchmark over the training photos, which are all photos of a collection that is not large."""

    def __init__(
        self,
        truth: GroundTruth,
        sources: Sequence[images.Source],
        spool: Spool,
        extractor: Extractor,
        config: IndexConfig,
    ) -> None:
        self._queries = truth.queries
        self._paths = {source.name: source.path for source in sources}
        self._spool = spool
        self._extractor = extractor
        self._config = config

        # Now, so that a query that cannot be read is no surprise after an hour of training.
        self._described = self._describe(extractor)

    def __call__(self, head: Head, convolutions: Arrays) -> float | None:
        config, spool, described = self._config, self._spool, self._described
        if convolutions:
            extractor = Extractor(
                config.images,
                config.features,
                weights=self._extractor.weights,
                rpn=self._extractor.rpn,
                device=self._extractor.device.type,
            )
            extractor.load(convolutions)
            folder = self._spool.folder.with_name("photos-watched")
            spool, described = Spool(folder, self._spool.sources, extractor.extract), self._describe(extractor)
            shutil.rmtree(spool.folder, ignore_errors=True)
        features = draw(spool.fill(), len(spool.sources), config.sample).features
        fitted = model.fit(features, head, config.quantizer, seed=config.sample.seed)
        return watch.mean_average_precision(fitted, self._queries, described, spool.drain(skip=0))

    def _describe(self, extractor: Extractor) -> list[NDArray[np.float32]]:
        return [extractor.describe(self._paths[query.image], query.box)[1] for query in self._queries]


class Checkpoint(Protocol):
    """Where the state of training is kept after every round."""

    def read(self) -> State | None:
        """Return what an earlier try left."""

    def write(self, state: State) -> None:
        """Keep a state."""


class _Checkpoint:
    """The state of training, on disk after every round."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> State | None:
        """Return what an earlier try left."""
        return State.from_bytes(self._file.read_bytes()) if self._file.exists() else None

    def write(self, state: State) -> None:
        """Keep a state in place of the one before it."""
        write_whole(self._file, state.to_bytes())


def learn(
    sample: Sample,
    config: IndexConfig,
    device: torch.device,
    progress: Progress = silent,
    *,
    pooled: Pooled | None = None,
    checkpoint: Checkpoint | None = None,
    measure: Callable[[Head, Arrays], float | None] | None = None,
    run: Callable[..., Trained] = train,
) -> Trained:
    """Train on a sample, unless training is off.

    Args:
        sample: regions and their features before training.
        config: what to build with.
        device: where the network is optimised.
        progress: is told of each step.
        pooled: where pooled features come from; those of the sample where None.
        checkpoint: where the state of training is kept.
        measure: takes what a round left to the mAP of a benchmark.
        run: ``udq.train.train``, or what does the same elsewhere.
    """
    supervision = config.supervision()
    few = len(np.unique(sample.images)) < config.training.refine_from
    refinement = "none" if few else config.training.refine
    settings = dataclasses.replace(config.training, share=config.share(), refine=refinement)
    head = model.start(sample.features, supervision)
    batch = f"batch in [training], now {config.training.batch},"
    if not config.training.enabled:
        return Trained(head, {}, (), 0, None)
    # End to end, what fills the memory are the activations of one photo, whatever the batch.
    with in_gpu_memory(batch if pooled is None else SCALE.format(config.images.longer)):
        return run(
            pooled or Cached(sample.features, device),
            sample.images,
            head,
            training=settings,
            quantizer=supervision,
            codewords=model.codewords(len(sample.features), supervision),
            seed=config.sample.seed,
            device=device,
            progress=progress,
            resumed=None if checkpoint is None else checkpoint.read(),
            keep=None if checkpoint is None else checkpoint.write,
            measure=measure,
        )


def encoder(sample: Sample, trained: Trained, config: IndexConfig) -> model.Model:
    """Return the model that a trained head and a quantizer fitted to the sample's features make."""
    seed, kept = config.sample.seed, trained.kept > 0
    return model.fit(sample.features, trained.head, config.quantizer, seed=seed, trained=kept)


def training_sample(photos: int, settings: SampleConfig) -> list[int]:
    """Return which photos the model is fitted to: all of a small collection, a fixed number of a large one."""
    shuffled = np.random.default_rng(settings.seed).permutation(photos)
    return sorted(int(i) for i in shuffled[: settings.photos])


def draw(photos: Iterator[Extracted], expected: int, settings: SampleConfig) -> Sample:
    """Return random regions of the training photos, ``regions`` at most, as many of each photo.

    A region is drawn with a probability in proportion to its area. Small regions outnumber large ones, and
    most of them are background: drawn evenly, they would be what the model learns (docs/training.md).
    """
    rng = np.random.default_rng(settings.seed)
    share = max(1, settings.regions // expected)
    kept, boxes, images_ = [], [], []
    for i, photo in enumerate(photos):
        sides = photo.regions.boxes[:, 2:] - photo.regions.boxes[:, :2]
        # The first of exponential waiting times are a weighted sample without replacement.
        waiting = rng.standard_exponential(len(sides)) / sides.prod(axis=1)
        rows = np.sort(np.argsort(waiting)[:share])
        kept.append(photo.features.vectors[rows])
        boxes.append(photo.regions.boxes[rows])
        images_.append(np.full(len(rows), i))
    return Sample(Features(np.concatenate(kept)), Regions(np.concatenate(boxes)), np.concatenate(images_))


def counted(photos: Iterable[_Photo], step: Callable[[], None]) -> Iterator[_Photo]:
    """Yield photos and count them."""
    for photo in photos:
        step()
        yield photo


def _put(photos: Iterable[Seen], codewords: int, writer: Writer) -> list[dict[str, str]]:
    """Write the photos that are still to do in segments; return all that are broken."""
    done, broken = writer.done, writer.broken
    whole: list[Indexed] = []
    for photo in photos:
        done += 1
        if isinstance(photo, Indexed):
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
    sources: Sequence[images.Source],
    config: IndexConfig,
    extractor: Extractor,
    given: Mapping[str, storage.Fingerprint | None],
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
