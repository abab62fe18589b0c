"""What the parts of ``robustness.py`` share: small collections, and answers that tell one state from another."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from udq.collection import Collection
from udq.config import IndexConfig
from udq.features import cache
from udq.features.extractor import Extractor
from udq.indexing import update
from udq.photos.source import find
from udq.search.ranking import ranking_by_feature
from udq.store import segments

QUICK = IndexConfig().replace(
    {
        "images": {"shorter": 96, "longer": 128},
        "sample": {"regions": 1500},
        "quantizer": {"dimensions": 64, "iterations": 1},
        "training": {"enabled": False, "iterations": 0, "epochs": 1},
    }
)
"""A collection that builds in seconds; tests compare its results for equality, not for accuracy."""

SMALL = {"segments.PHOTOS": 16, "update._BATCH": 6, "cache._PHOTOS": 16}
"""Sizes for small collections: several segments, several commits a change."""

_MODULES = {"segments": segments, "update": update, "cache": cache}
_BOXES = 10
QUERIES = 4


@contextlib.contextmanager
def small_pieces() -> Iterator[None]:
    """Write and commit small pieces, so that a small collection has several."""
    before = {name: _piece(name) for name in SMALL}
    _set(SMALL)
    try:
        yield
    finally:
        _set(before)


def _piece(name: str) -> int:
    module, attribute = name.split(".")
    return int(getattr(_MODULES[module], attribute))


def _set(pieces: dict[str, int]) -> None:
    for name, photos in pieces.items():
        module, attribute = name.split(".")
        setattr(_MODULES[module], attribute, photos)


def take(photos: Path, count: int, into: Path, *, skip: int = 0) -> list[Path]:
    """Copy some of the photos, drawn with a fixed seed, into a folder, and return them."""
    sources, _ = find([photos])
    order = np.random.default_rng(0).permutation(len(sources))[skip : skip + count]
    if len(order) < count:
        sys.exit(f"{photos}: expected {skip + count} photos or more, found {len(sources)}")
    into.mkdir(parents=True)
    copies = [into / f"{skip + i:05d}{sources[place].path.suffix.lower()}" for i, place in enumerate(order)]
    for place, copy in zip(order, copies, strict=True):
        shutil.copy(sources[place].path, copy)
    return copies


def warmed(config: IndexConfig = QUICK) -> Extractor:
    """Return an extractor that processes forked from here share: on one thread, which is what makes that safe."""
    torch.set_num_threads(1)
    return Extractor(config.images, config.features, device="cpu").proposing()


def opened(path: Path, extractor: Extractor | None = None) -> Collection:
    """Open a collection, with a network that is loaded already where one is given."""
    collection = Collection.open(path, device="cpu")
    if extractor is not None:
        collection._extractor = collection.network_checksum, extractor
    return collection


def queries(collection: Collection) -> NDArray[np.float32]:
    """Return fixed pooled features (n, D), each of a few strong channels, as those of photos are."""
    width = collection.model.head.layers[0].weight.shape[1]
    vectors = np.random.default_rng(0).standard_exponential((QUERIES, width)).astype(np.float32) ** 3
    normalised: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


def answers(collection: Collection) -> str:
    """Return a checksum of what fixed queries find: ids and names in order, every distance, the first ones' boxes."""
    images, found = collection.images, hashlib.sha256()
    for query in queries(collection):
        ranking = ranking_by_feature(collection.database, query)
        listed = [(images[i].id, images[i].name, images[i].width, images[i].height) for i in ranking.order.tolist()]
        found.update(repr(listed).encode("utf-8", "surrogatepass"))
        found.update(ranking.distance[ranking.order].tobytes())
        found.update(repr([ranking.box(i) for i in ranking.order[:_BOXES].tolist()]).encode())
    return found.hexdigest()[:32]


def fork(work: Callable[[], object], *, quiet: bool = False) -> int:
    """Run something in a process of its own and return its id at once."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            if not quiet:
                traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """Wait for a process; return its exit status, the negative signal where one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(work: Callable[[], object]) -> None:
    """Run something in a process of its own, to its end."""
    if status := ended(fork(work)):
        raise RuntimeError(f"a process of its own ended with {status}")


def build(photos: Sequence[Path] | Path, path: Path, config: IndexConfig = QUICK) -> Path:
    """Build a collection in a process of its own and return its path."""
    forked(lambda: Collection.build(photos, path, config=config, device="cpu"))
    return path


def command(*words: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``udq`` as a user does."""
    script = f"{prelude}\nfrom udq.cli.main import main; main()"
    line = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def complaint(done: subprocess.CompletedProcess[str]) -> tuple[bool, str]:
    """Return whether a command failed as it should, and its last line: one line that says what to do, no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return done.returncode in (1, 2) and last.startswith("udq: ") and "Traceback" not in done.stderr, last


def small_prelude() -> str:
    """What a command runs first to work in small pieces."""
    modules = "from udq.features import cache; from udq.indexing import update; from udq.store import segments; "
    return modules + "; ".join(f"{name} = {n}" for name, n in SMALL.items())


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Return median and each of some seconds."""
    return {"median": round(float(np.median(samples)), 3), "each": [round(sample, 3) for sample in samples]}
