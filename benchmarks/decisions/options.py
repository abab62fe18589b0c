"""What was tried beyond the paper's training and search: mAP of each option beside the default.

    python benchmarks/decisions/options.py --collection NAME PHOTOS TRUTH [--collection ...] [--seeds 3] [--only ROW...]
                                 [--json OUT]

It takes two hours on one thread: what OUT holds already is not measured again, and OUT names every run.

TRUTH is a CSV of the dataset ``boxes``, or ``places``: each photo asks for the others of its folder. Rows of ``ASKED``
change how the default's collection is searched, those of ``TRAINED`` what it is trained on. An option that udq does
not have wraps its parts here. Rows of one seed share all that they do not change, so that they are compared in pairs;
a row whose codes lose more than 0.005 on any collection, which is how far seeds lie apart, gets no further seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import places
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from training import Benchmark

from udq.common.provenance import provenance
from udq.config import IndexConfig, TrainConfig
from udq.datasets import Query
from udq.features.extractor import ExtractedPhoto, Extractor
from udq.photos import decoding
from udq.quantization import model
from udq.quantization.model import Model
from udq.training import algorithm, fitting, losses, refinement, sampling
from udq.training.algorithm import Supervision, TrainingJob
from udq.training.pooled_features import CachedFeatures
from udq.training.sampling import Sample
from udq.types import Box, Codes, Features, Regions

Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]

DEFAULT = "default"
CPU = torch.device("cpu")
CONFIG = IndexConfig()
# Factors of the scale at which a query's crop is seen.
SCALES = (0.5**0.5, 1.0, 2**0.5)
# How far the view of other colours turns brightness, contrast and saturation up or down.
COLOURS = 0.4
# Of a photo's size, for the view that shows its objects smaller.
SMALLER = 0.7
# A loss of mAP that no other seed would make good.
LOST = 0.005
# Regions a photo that are cut out: each of them goes through the network on its own.
CUT = 4


def see(extractor: Extractor, pixels: Pixels, boxes: Vectors, width: float, height: float) -> Vectors:
    """Return the features (R, D) of boxes (R, 4), in the units of ``width`` and ``height``, which pixels span."""
    with torch.inference_mode():
        seen = extractor.trunk(torch.tensor(pixels.copy()), torch.tensor(boxes), width=width, height=height)
        features: Vectors = seen.cpu().numpy()
    return features


def resized(pixels: Pixels, scale: float) -> Pixels:
    """Scale pixels (H, W, 3)."""
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def recoloured(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast and saturation of pixels (H, W, 3)."""
    picture = Image.fromarray(pixels)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(1 - COLOURS, 1 + COLOURS))
    return np.asarray(picture)


def mirrored(boxes: Vectors, width: float) -> Vectors:
    """Return where boxes (R, 4) of a photo lie in its mirror image."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


class Options(Benchmark):
    """Pooled features of all photos, and of all queries at several scales.

    Attributes:
        scaled: (Q, S, 2, D) pooled features of each query's crop, at each of ``SCALES``, as it is and mirrored.
    """

    def __init__(self, folder: Path, truth: tuple[Query, ...]) -> None:
        super().__init__(folder, truth)
        self.scaled = np.stack([self._scaled(folder / query.image, query.box) for query in truth])

    def _scaled(self, path: Path, box: Box | None) -> Vectors:
        found = []
        for scale in SCALES:
            sides = {name: round(scale * getattr(CONFIG.images, name)) for name in ("shorter", "longer", "least")}
            crop, _ = decoding.load_crop(path, box, **sides)
            whole = np.array([[0, 0, crop.width, crop.height]], np.float32)
            for pixels in (crop.pixels, crop.pixels[:, ::-1]):
                found.append(see(self.extractor, pixels, whole, crop.width, crop.height)[0])
        return np.stack(found).reshape(len(SCALES), 2, -1)


class Seen(CachedFeatures):
    """Each region of a batch is used as it is or through one of its views, drawn every time.

    Labels and targets are those of the region as it is.
    """

    def __init__(self, features: Features, views: list[Vectors], seed: int) -> None:
        super().__init__(features, CPU, parts=1)  # one after the other: each draws random numbers
        self._seen = [features.vectors, *views]
        self._rng = np.random.default_rng(seed)

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one part."""
        drawn = self._rng.integers(len(self._seen), size=len(rows))
        return torch.from_numpy(np.stack([self._seen[v][row] for v, row in zip(drawn, rows.tolist(), strict=True)]))


class Weighted(CachedFeatures):
    """Regions enter batches as often as their weights (G,) say, which on average weighs their losses."""

    def __init__(self, features: Features, weights: Vectors) -> None:
        super().__init__(features, CPU)
        self._weights = torch.from_numpy(weights)

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch, of as many regions as there are."""
        drawn = torch.multinomial(self._weights, len(self._weights), replacement=True, generator=generator)
        return [[rows] for rows in torch.split(drawn, batch)]


@dataclass(frozen=True)
class Default:
    """Training as it is; options replace one part of it."""

    def sample(self, benchmark: Options, config: IndexConfig) -> Sample:
        """Return the regions that the model is fitted to."""
        return sampling.draw(iter(benchmark.photos), len(benchmark.photos), config.sample)

    def pooled(self, benchmark: Options, sample: Sample, config: IndexConfig) -> CachedFeatures:
        """Return what the fully connected layers are trained on."""
        return CachedFeatures(sample.features, CPU)

    def patched(self) -> AbstractContextManager[None]:
        """Replace parts of training while it runs."""
        return nullcontext()


@dataclass(frozen=True)
class Views(Default):
    """Views of a region are more positives: trained towards its labels and its target."""

    names: tuple[str, ...]

    def pooled(self, benchmark: Options, sample: Sample, config: IndexConfig) -> CachedFeatures:
        """Return the regions and their views."""
        rng = np.random.default_rng(config.sample.seed)
        starts = np.searchsorted(sample.images, np.arange(len(benchmark.photos) + 1))
        views = [sample.features.vectors.copy() for _ in self.names]
        for photo, first, last in zip(benchmark.photos, starts[:-1], starts[1:], strict=True):
            shown = decoding.load(photo.source.path, shorter=CONFIG.images.shorter, longer=CONFIG.images.longer)
            for name, view in zip(self.names, views, strict=True):
                # A region that is not cut out is its own view.
                rows = first + rng.permutation(last - first)[: CUT if name == "cut out" else None]
                view[rows] = self._view(name, benchmark.extractor, shown, sample.regions.boxes[rows], rng)
        return Seen(sample.features, views, config.sample.seed)

    @staticmethod
    def _view(
        name: str, extractor: Extractor, photo: decoding.Photo, boxes: Vectors, rng: np.random.Generator
    ) -> Vectors:
        """Return the features (R, D) of a photo's boxes (R, 4) in one of its views."""
        pixels, width, height = photo.pixels, photo.width, photo.height
        if name == "flipped":
            return see(extractor, pixels[:, ::-1], mirrored(boxes, width), width, height)
        if name == "recoloured":
            return see(extractor, recoloured(pixels, rng), boxes, width, height)
        if name == "smaller":
            return see(extractor, resized(pixels, SMALLER), boxes, width, height)
        found = []
        for x1, y1, x2, y2 in (boxes * (pixels.shape[1] / width)).round().astype(int):
            # Nothing but the region's own pixels, and enlarged where they are few: as queries are seen.
            cut = pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
            cut = resized(cut, max(1.0, CONFIG.images.least / min(cut.shape[:2])))
            whole = np.array([[0, 0, cut.shape[1], cut.shape[0]]], np.float32)
            found.append(see(extractor, cut, whole, cut.shape[1], cut.shape[0]))
        return np.concatenate(found)


@dataclass(frozen=True)
class Drawn(Default):
    """Regions are drawn by a weight that is not their area.

    Attributes:
        weight: takes the sides (R, 2) of a photo's regions, the most likely object first, to weights (R,).
    """

    weight: Callable[[Vectors], Vectors]

    def sample(self, benchmark: Options, config: IndexConfig) -> Sample:
        """Return regions drawn by the weight: it takes the place of the area of their boxes."""
        return sampling.draw(map(self._weighted, benchmark.photos), len(benchmark.photos), config.sample)

    def _weighted(self, photo: ExtractedPhoto) -> ExtractedPhoto:
        weights = self.weight(photo.regions.boxes[:, 2:] - photo.regions.boxes[:, :2])
        boxes = np.tile(np.array([0, 0, 0, 1], np.float32), (len(weights), 1))
        boxes[:, 2] = weights
        return replace(photo, regions=Regions(boxes))


@dataclass(frozen=True)
class Alike(Default):
    """The loss is weighted by how near a region's nearest regions of other photos are, from nearly 0 to 1 by rank.

    Attributes:
        lonely: the other way round, 1 where they are furthest: background looks like other background.
    """

    lonely: bool = False

    def pooled(self, benchmark: Options, sample: Sample, config: IndexConfig) -> CachedFeatures:
        """Return the regions, with their weights."""
        features = model.start(sample.features, config.supervision()).apply(sample.features)
        nearest = refinement.neighbours(features, sample.images, count=config.training.neighbours, elsewhere=True)
        near = np.mean([(features.vectors * features.vectors[column]).sum(axis=1) for column in nearest.T], axis=0)
        rank = (np.argsort(np.argsort(near)) + 0.5) / len(near)
        return Weighted(sample.features, (1 - rank if self.lonely else rank).astype(np.float32))


@dataclass(frozen=True)
class Soft(Default):
    """Labels of eq. 8 are a softmax over codewords: of minus s times their squared distance to the refined feature.

    Attributes:
        sharpness: s.
    """

    sharpness: float

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let a label be the number of a region, and eq. 8 look up what it stands for."""
        refined_features, supervise = algorithm.refined_features, algorithm.supervise
        refined: Features
        parts: Tensor  # (G, M, d/M), refined and rotated
        codebooks: Tensor  # (M, K, d/M)

        def refining(
            features: Features,
            images: NDArray[np.int64],
            training: TrainConfig,
            seed: int,
            *,
            threads: int | None = None,
        ) -> Features:
            nonlocal refined
            refined = refined_features(features, images, training, seed, threads=threads)
            return refined

        def supervising(features: Features, job: TrainingJob, seed: int) -> Supervision:
            nonlocal parts, codebooks
            told = supervise(features, job, seed)
            codebooks = torch.tensor(told.codebooks)
            parts = torch.from_numpy(refined.vectors @ told.rotation).view(len(refined), len(codebooks), -1)
            return replace(told, labels=Codes(np.arange(len(features), dtype=np.uint16)[:, None], 2**16))

        def separability(logits: Tensor, labels: Tensor) -> Tensor:
            distance = torch.cdist(parts[labels[:, 0]].transpose(0, 1), codebooks).square().transpose(0, 1)
            wanted = (-self.sharpness * distance).softmax(dim=2)
            return -(wanted * logits.log_softmax(dim=2)).sum() / len(logits)

        with (
            mock.patch.object(algorithm, "refined_features", refining),
            mock.patch.object(algorithm, "supervise", supervising),
            mock.patch.object(losses, "separability", separability),
        ):
            yield


def order(sides: Vectors) -> Vectors:
    """Return 1 for the region that is most likely an object, and less for each after it."""
    return (1 - np.arange(len(sides)) / len(sides)).astype(np.float32)


TRAINED: dict[str, Default] = {
    DEFAULT: Default(),
    "soft labels, s = 100": Soft(100.0),
    "soft labels, s = 20": Soft(20.0),
    "views: photos flipped, recoloured, smaller": Views(("flipped", "recoloured", "smaller")),
    f"views: {CUT} regions a photo cut out": Views(("cut out",)),
    "weights: no near neighbours": Alike(lonely=True),
    "weights: near neighbours": Alike(),
    "drawn by the proposal network's order": Drawn(order),
}


@dataclass(frozen=True)
class Asked:
    """What a query is the average of.

    Attributes:
        scales: some of ``SCALES``.
        versions: as it is, mirrored, or both.
        after: whether features are averaged after the head, not before it.
    """

    scales: slice
    versions: slice
    after: bool = False

    def features(self, fitted: Model, scaled: Vectors) -> Vectors:
        """Return unit features (Q, d) of queries that were seen at several scales (Q, S, 2, D)."""
        seen = scaled[:, self.scales, self.versions].reshape(len(scaled), -1, scaled.shape[-1])
        if not self.after:
            return fitted.head.apply(Features(seen.mean(axis=1)).unit()).vectors
        each = [fitted.head.apply(Features(np.ascontiguousarray(seen[:, i]))).vectors for i in range(seen.shape[1])]
        return Features(np.mean(each, axis=0)).unit().vectors


ONE, EVERY, PLAIN = slice(1, 2), slice(None), slice(0, 1)
ASKED: dict[str, Asked] = {
    "query: its crop alone, not its mirror image": Asked(ONE, PLAIN),
    "query: three scales, no mirror images": Asked(EVERY, PLAIN),
    "query: three scales and their mirror images": Asked(EVERY, EVERY),
    "query: the same, averaged after the head": Asked(EVERY, EVERY, after=True),
}


def run(benchmark: Options, name: str, seed: int) -> dict[str, dict[str, float]]:
    """Train and encode as `udq index` would but for an option; return the figures of its row, or rows."""
    option, config = TRAINED[name], CONFIG.replace({"sample": {"seed": seed}})
    sample = option.sample(benchmark, config)
    pooled = option.pooled(benchmark, sample, config)
    with option.patched():
        trained = fitting.learn(sample, config, CPU, pooled=pooled)
    fitted = fitting.encoder(sample, trained, config)
    rows = {name: benchmark.accuracy(fitted)}
    if name == DEFAULT:
        for asked, way in ASKED.items():
            rows[asked] = benchmark.accuracy(fitted, way.features(fitted, benchmark.scaled))
    return rows


def main() -> None:
    """Print a row at a time; write JSON where asked, after every one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    places.add_collections(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=TRAINED, help="these beside the default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    benchmarks = {}
    for name, photos, truth in arguments.collections:
        benchmarks[name] = Options(Path(photos), places.read(photos, truth).queries)
    before = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {"runs": []}
    found: dict[str, Any] = before.get("collections") or {
        name: {"photos": len(benchmark.photos), "queries": len(benchmark.truth), "rows": {}}
        for name, benchmark in benchmarks.items()
    }
    for option in TRAINED:
        if arguments.only and option not in (DEFAULT, *arguments.only):
            continue
        for seed in range(arguments.seeds):
            behind = 0.0
            for name, benchmark in benchmarks.items():
                rows = found[name]["rows"]
                if len(rows.get(option, {"codes": []})["codes"]) <= seed:
                    for row, figures in run(benchmark, option, seed).items():
                        for key, values in rows.setdefault(row, {"codes": [], "real_valued": []}).items():
                            values.append(round(figures[key], 4))
                        print("{}  seed {}  codes {codes:.4f}  real-valued {real_valued:.4f}  {}".format(
                            name, seed, row, **figures), flush=True)  # fmt: skip
                behind = max(behind, rows[DEFAULT]["codes"][seed] - rows[option]["codes"][seed])
            if behind > LOST:
                break
        if arguments.json:
            facts = {"collections": found, "runs": [*before["runs"], provenance(seed=0)]}
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
