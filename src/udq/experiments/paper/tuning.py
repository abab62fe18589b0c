"""Fine-tuning of a data set's network on its queries, resumed from a file (``udq.training.query_tuning``)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from udq.common.files import MAX_FEATURES, read_regular, reason, write_whole
from udq.common.progress import Progress
from udq.config import ImageConfig, IndexConfig
from udq.datasets import GroundTruth, Query
from udq.errors import UdqError
from udq.evaluation.benchmark import ProtocolQueries
from udq.features.device import SCALE, in_gpu_memory
from udq.features.extractor import Extractor
from udq.features.trunk import Trunk
from udq.photos import sandbox
from udq.photos.source import Source
from udq.training import sampling
from udq.training.query_tuning import QueryTuning, TuningPhoto
from udq.types import Arrays, Box

# Data sets whose labels or photos are landmarks with a number.
_LANDMARKS = "oxford5k", "paris6k", "roxford5k", "rparis6k"
# Steps after which the state is saved: some minutes of work at most.
_SAVED = 100


def tuned(
    extractor: Extractor, queries: ProtocolQueries, config: IndexConfig, file: Path, progress: Progress, *, photos: int
) -> Arrays:
    """Return the convolutions after fine-tuning on the queries' photos, as ``Trunk.state``; empty without steps.

    Args:
        extractor: the network before; proposes regions.
        queries: photos with boxes, and labels of their objects.
        config: scale of photos, features and training.
        file: where the state is saved, and read from if an earlier run was interrupted.
        progress: called for each step.
        photos: number of photos of the database, whose sample must fit into memory after hours of fine-tuning.

    Raises:
        UdqError: a query photo cannot be read, the file is damaged, or the sample would not fit into memory.
    """
    steps = config.training.query_steps
    if not steps:
        return {}
    trunk = Trunk(config.features, weights=extractor.weights, device=extractor.device)
    sampled = len(sampling.training_sample(photos, config.sample))
    shown = _photos(extractor, queries, config.images, partial(sampling.check_memory, config.sample, sampled))
    tuning = QueryTuning(trunk, shown, rate=config.training.convolutions_rate, seed=config.sample.seed)
    if os.path.lexists(file):
        try:
            tuning.load(read_regular(file, limit=MAX_FEATURES))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UdqError(
                f"{file}: expected the state of fine-tuning, found a damaged file ({reason(error)}); delete it, and "
                "fine-tuning starts from the beginning"
            ) from error
    with progress("fine-tuning on the queries", steps) as step, in_gpu_memory(SCALE.format(config.images.longer)):
        for _ in range(tuning.done):
            step()
        while tuning.done < steps:
            tuning.step()
            if not np.isfinite(tuning.losses[-1]) or (tuning.done == steps and not tuning.finite()):
                raise UdqError(
                    f"fine-tuning on the queries: step {tuning.done} led to values that are no numbers; lower "
                    "convolutions_rate in [training]"
                )
            if tuning.done % _SAVED == 0 or tuning.done == steps:
                write_whole(file, tuning.to_bytes())
            step()
    return tuning.state()


def _photos(
    extractor: Extractor, queries: ProtocolQueries, scale: ImageConfig, check: Callable[[int], None]
) -> list[TuningPhoto]:
    """Return the queries' photos, each once, with proposals and the boxes of all queries in it.

    ``check`` is called with the bytes of the features of each photo.
    """
    of_photo: dict[str, list[tuple[Query, Box]]] = defaultdict(list)
    for query, box in zip(queries.truth.queries, queries.boxes, strict=True):
        if box is not None:
            of_photo[query.image].append((query, box))
    if not of_photo:
        raise UdqError("fine-tuning on the queries: no query has a box; set query_steps = 0 in [training]")
    classes = classes_of(queries.truth)
    photos = []
    for found in extractor.extract(Source(name, queries.paths[name]) for name in of_photo):
        if found.broken is not None:
            raise UdqError(f"fine-tuning on the queries: {found.broken}")
        check(found.features.vectors.nbytes)
        asked = of_photo[found.source.name]
        photos.append(
            TuningPhoto(
                partial(_pixels, found.source.path, scale),
                found.width,
                found.height,
                found.regions.boxes,
                np.array([box for _, box in asked], np.float32),
                np.array([classes[_name(query)] for query, _ in asked], np.int64),
            )
        )
    return photos


def classes_of(truth: GroundTruth) -> dict[str, int]:
    """Return the class of each query by its label or photo, from 1.

    Queries of the same label are one class. The labels and photos of Oxford and Paris end in a number: the five queries
    of a landmark, ``all_souls_1`` to ``all_souls_5``, are one.
    """
    landmarks = truth.dataset in _LANDMARKS
    names = [_name(query) for query in truth.queries]
    of_name = {name: re.sub(r"_\d+$", "", PurePath(name).stem) if landmarks else name for name in names}
    numbers = {each: number for number, each in enumerate(sorted(set(of_name.values())), start=1)}
    return {name: numbers[each] for name, each in of_name.items()}


def _name(query: Query) -> str:
    return query.label or query.image


def _pixels(path: Path, scale: ImageConfig) -> NDArray[np.uint8]:
    decoder = sandbox.shared().limited(scale.max_megapixels)
    return decoder.decode(path, shorter=scale.shorter, longer=scale.longer, smallest=0.0).pixels
