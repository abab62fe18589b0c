"""Build a collection: photos -> regions -> features -> model -> codes -> disk, in one stream.

A sample of the photos is looked at first and the model is fitted to it; their pooled features wait in a scratch
file, so that no photo goes through the network twice. Then every photo is encoded in turn. Memory depends on
the size of the sample and of a segment, not on the number of photos.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udq import images, model
from udq.config import IndexConfig, SampleConfig
from udq.errors import ImageError
from udq.extract import Extracted, Extractor
from udq.progress import Progress, silent
from udq.storage import Image, Writer
from udq.train import Sample, train
from udq.types import Codes, Features, Regions

# Photos a segment: some 450,000 regions of the grid, 7 MB of codes and boxes in memory until it is written.
_SEGMENT_PHOTOS = 4096


def build(
    arguments: Sequence[str | os.PathLike[str]],
    path: Path,
    *,
    config: IndexConfig,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> None:
    """Build a collection of the photos that files and folders name, at ``path``.

    Args:
        arguments: files and folders.
        path: the collection to make; nothing may be there yet.
        config: what to build it with.
        weights: a file of weights for the backbone.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: is told of each photo.
    """
    sources, passed_over = images.find(arguments)
    with Writer(path) as writer:
        extractor = Extractor(config.images, config.features, weights=weights, device=device)
        training = _training_sample(len(sources), config.sample)
        spool = _Spool(writer.scratch("features"), extractor.channels)
        with progress("looking at photos", len(training)) as step:
            first = _counted(extractor.extract(sources[i] for i in training), step)
            sample = draw(spool.fill(first), len(training), config.sample)
        if not len(sample.features):
            raise ImageError(_all_broken(spool.broken))
        fitted, history = fit(sample, config, extractor.device, progress)
        del sample
        writer.put_model(fitted)
        chosen = set(training)
        rest = extractor.extract(source for i, source in enumerate(sources) if i not in chosen)
        photos = _in_order(len(sources), chosen, spool.drain(), rest)
        with progress("encoding photos", len(sources)) as step:
            broken = _encode(_counted(photos, step), fitted, writer)
        writer.commit(config, weights=fingerprint(weights), training=history, broken=broken, passed_over=passed_over)


class _Spool:
    """What was extracted from the training photos, waiting to be encoded: their features on disk."""

    def __init__(self, path: Path, channels: int) -> None:
        self._path = path
        self._channels = channels
        self._photos: list[Extracted] = []

    def fill(self, photos: Iterable[Extracted]) -> Iterator[Extracted]:
        """Keep photos as they pass through."""
        nothing = Features(np.empty((0, self._channels), np.float32))
        with self._path.open("xb") as file:
            for photo in photos:
                file.write(photo.features.vectors.data)
                self._photos.append(dataclasses.replace(photo, features=nothing))
                yield photo

    @property
    def broken(self) -> list[str]:
        """Why photos could not be read."""
        return [photo.broken for photo in self._photos if photo.broken is not None]

    def drain(self) -> Iterator[Extracted]:
        """Yield the photos again, in the same order."""
        with self._path.open("rb") as file:
            for photo in self._photos:
                vectors = np.fromfile(file, np.float32, len(photo.regions) * self._channels)
                yield dataclasses.replace(photo, features=Features(vectors.reshape(-1, self._channels)))


def fit(
    sample: Sample, config: IndexConfig, device: torch.device, progress: Progress
) -> tuple[model.Model, dict[str, Any] | None]:
    """Train the head, unless training is off, and fit the quantizer to its features.

    Returns:
        The model, and how training went, JSON-serialisable; None where it is off.
    """
    head = model.start(sample.features, config.quantizer)
    history = None
    if config.training.enabled:
        trained = train(
            sample,
            head,
            training=config.training,
            quantizer=config.quantizer,
            codewords=model.codewords(len(sample.features), config.quantizer),
            seed=config.sample.seed,
            device=device,
            progress=progress,
        )
        head, history = trained.head, trained.history()
    with progress("fitting codes", None):
        fitted = model.fit(
            sample.features, head, config.quantizer, seed=config.sample.seed, trained=config.training.enabled
        )
    return fitted, history


def _training_sample(photos: int, settings: SampleConfig) -> list[int]:
    """Return which photos the model is fitted to: all of a small collection, a fixed number of a large one."""
    shuffled = np.random.default_rng(settings.seed).permutation(photos)
    return sorted(int(i) for i in shuffled[: settings.photos])


def draw(photos: Iterator[Extracted], expected: int, settings: SampleConfig) -> Sample:
    """Return random regions of the training photos, ``regions`` at most, as many of each photo.

    A region is drawn with a probability in proportion to its area. Half of a grid's windows are of its smallest
    scale, most of them background: drawn evenly, they would be what the model learns (docs/training.md).
    """
    rng = np.random.default_rng(settings.seed)
    share = max(1, settings.regions // expected)
    kept, images_ = [], []
    for i, photo in enumerate(photos):
        sides = photo.regions.boxes[:, 2:] - photo.regions.boxes[:, :2]
        # The first of exponential waiting times are a weighted sample without replacement.
        waiting = rng.standard_exponential(len(sides)) / sides.prod(axis=1)
        rows = np.sort(np.argsort(waiting)[:share])
        kept.append(photo.features.vectors[rows])
        images_.append(np.full(len(rows), i))
    return Sample(Features(np.concatenate(kept)), np.concatenate(images_))


def _in_order(
    photos: int, chosen: Collection[int], first: Iterator[Extracted], rest: Iterator[Extracted]
) -> Iterator[Extracted]:
    """Merge training photos and the rest in the order of image ids."""
    for i in range(photos):
        yield next(first) if i in chosen else next(rest)


def _counted(photos: Iterable[Extracted], step: Callable[[], None]) -> Iterator[Extracted]:
    for photo in photos:
        step()
        yield photo


def _encode(photos: Iterable[Extracted], fitted: model.Model, writer: Writer) -> list[dict[str, str]]:
    """Encode photos into segments; return those that are broken."""
    broken = []
    whole: list[tuple[Image, Regions, Codes]] = []
    for photo in photos:
        if photo.broken is not None:
            broken.append({"image": photo.source.name, "reason": photo.broken})
            continue
        whole.append((_image(photo), photo.regions, fitted.encode(photo.features)))
        if len(whole) == _SEGMENT_PHOTOS:
            _put(whole, writer)
            whole = []
    if whole:
        _put(whole, writer)
    return broken


def _put(whole: Sequence[tuple[Image, Regions, Codes]], writer: Writer) -> None:
    images_, regions, codes = zip(*whole, strict=True)
    writer.put_segment(
        Codes(np.concatenate([code.values for code in codes]), codes[0].codewords),
        Regions(np.concatenate([region.boxes for region in regions])),
        [len(region) for region in regions],
        images_,
    )


def _image(photo: Extracted) -> Image:
    # Not resolved: a link to a photo is found by its own name.
    path = photo.source.path.absolute().as_posix()
    return Image(photo.source.name, path.removesuffix(photo.source.name), photo.width, photo.height)


def _all_broken(broken: Sequence[str]) -> str:
    listed = "; ".join(broken[:3])
    more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
    return f"none of {len(broken)} photos could be read: {listed}{more}"


def fingerprint(weights: Path | None) -> dict[str, str] | None:
    """Return path and sha256 of a weights file, so that a search never runs with another network."""
    if weights is None:
        return None
    with weights.open("rb") as file:
        return {"path": str(weights.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
