"""The same photos, seed and machine with other numbers of threads: which stages are equal to the last bit.

    python benchmarks/robustness/thread_counts.py PHOTOS [--photos 60] [--threads 1 2 4] [--float32] [--end-to-end]
        [--quick] [--json OUT]

Each number of threads is a process of its own, and so is a second one with the first number (not with ``--quick``). All
that a collection and its searches are made of is compared with the first: decoded pixels, regions, pooled and local
features, the sample's projection, verified pairs, trained layers, quantizer, codes, queries, distances and the first 20
photos of rankings.

Exits 1 if a stage differs that must not. Features of queries may differ by 1e-6, and distances by 1e-5: above three
threads, each view of a query is computed on several (docs/performance.md). With ``--end-to-end``, nothing must be equal
after training; the table says how much differs. ``--float32`` computes as on a CPU without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from robustness_common import take

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.features import device
from udq.features.extractor import Extractor
from udq.photos import sandbox
from udq.photos.source import find
from udq.quantization import model
from udq.store import manifest
from udq.training import sampling, verified_pairs

TOLERANCE = {"features of queries": 1e-6, "distances": 1e-5}
QUERIES, FIRST = 10, 20
QUICK = {
    "images": {"shorter": 96, "longer": 128, "smallest": 70.0},
    "quantizer": {"dimensions": 64, "iterations": 1},
    "training": {"iterations": 0, "epochs": 1, "refine_from": 0},
}
Stages = dict[str, NDArray[Any]]


def settings(arguments: argparse.Namespace) -> IndexConfig:
    """Return the settings of the collection; without early stopping, so that what training changed is compared."""
    config = IndexConfig().replace({"training": {"stop_early": False}})
    config = config.replace(QUICK) if arguments.quick else config
    if arguments.end_to_end:
        config = config.replace({"training": {"end_to_end": True, "iterations": 0, "epochs": 1}})
    return config


def stages(folder: Path, scratch: Path, config: IndexConfig, threads: int) -> Stages:
    """Build a collection, search it, and return what each stage made."""
    sources = find([folder])[0]
    extractor = Extractor(config.images, config.features, config.keypoints, device="cpu", threads=threads).proposing()
    scale = {"shorter": config.images.shorter, "longer": config.images.longer, "smallest": config.images.smallest}
    decoded = [sandbox.shared().decode(source.path, **scale).pixels.ravel() for source in sources]
    extracted = list(extractor.extract(sources))
    sample = sampling.draw(iter(extracted), len(extracted), config.sample)
    head = model.start(sample.features, config.supervision(), threads=threads)
    found = {
        "pixels": np.concatenate(decoded),
        "regions": np.concatenate([photo.regions.boxes for photo in extracted]),
        "pooled features": np.concatenate([photo.features.vectors for photo in extracted]),
        "local features": np.concatenate([photo.points for photo in extracted]),
        "sample": sample.features.vectors,
        "projection": head.layers[-1].weight,
        "verified pairs": verified_pairs.find(sample, head.apply(sample.features), threads=threads).rows,
    }
    made = Collection.build(folder, scratch / "x.udq", config=config, device="cpu", threads=threads)
    fitted = made.model
    layers = [*fitted.head.arrays().values(), *manifest.read_backbone(made.path, made.manifest).values()]
    found |= {
        "trained layers": np.concatenate([layer.ravel() for layer in layers]),
        "rotation": fitted.quantizer.rotation,
        "codebooks": fitted.quantizer.codebooks,
        "codes": np.concatenate([segment.codes for segment in made.segments]),
    }
    return found | searched(made, threads)


def searched(made: Collection, threads: int) -> Stages:
    """Return queries with the middle of some photos, their distances, and their first photos in three ways."""
    names = made.names
    asked = [made.images[place] for place in range(0, len(names), max(1, len(names) // QUERIES))][:QUERIES]
    boxes = [(photo.width // 4, photo.height // 4, photo.width * 3 // 4, photo.height * 3 // 4) for photo in asked]
    some = Collection.open(made.path, device="cpu", threads=threads, looked_at=0.05)
    vectors, distances, rankings = [], [], dict[str, list[list[int]]]()
    for photo, box in zip(asked, boxes, strict=True):
        vector = made.extractor.describe(photo.path, box)[1]
        vectors.append(vector)
        distances.append(made.database.distances(made.model.lookup_tables(vector)))
        for way, collection, stages in (
            ("ranking by codes", made, []),
            ("ranking by 5 % of the codes", some, []),
            ("ranking by default", made, None),
        ):
            matches = collection.search(photo.path, box, k=FIRST, rerank=stages).matches
            places = [names.index(match.image) for match in matches]
            rankings.setdefault(way, []).append(places + [-1] * (FIRST - len(places)))
    found = {way: np.array(places) for way, places in rankings.items()}
    return {"features of queries": np.array(vectors), "distances": np.array(distances)} | found


def compared(name: str, first: NDArray[Any], other: NDArray[Any], end_to_end: bool) -> dict[str, Any]:
    """Return how much a stage differs from the first run's, and whether it may."""
    if first.shape != other.shape:
        return {"equal": False, "differing": 1.0, "largest": None, "allowed": end_to_end}
    apart = np.abs(first.astype(np.float64) - other.astype(np.float64))
    largest = float(apart.max(initial=0))
    allowed = end_to_end or largest <= TOLERANCE.get(name, 0)
    return {
        "equal": largest == 0,
        "differing": float((apart > 0).sum() / max(apart.size, 1)),
        "largest": largest,
        "allowed": allowed,
    }


def run(arguments: argparse.Namespace, photos: Path, output: Path, threads: int) -> Stages:
    """Compute all stages in a process of its own, whose libraries are set to nothing."""
    options = ["--end-to-end"] * arguments.end_to_end + ["--quick"] * arguments.quick
    options += ["--float32"] * arguments.float32
    command = [sys.executable, __file__, str(photos), "--stages", str(output), "--threads", str(threads), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    with np.load(output) as archive:
        return dict(archive)


def measure(arguments: argparse.Namespace, photos: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return for each further run how each stage compares with the first."""
    first_count, *others = arguments.threads
    first = run(arguments, photos, scratch / "first.npz", first_count)
    found: dict[str, dict[str, Any]] = {}
    again = {} if arguments.quick else {f"{first_count}, again": first_count}
    for name, threads in {**again, **{str(count): count for count in others}}.items():
        other = run(arguments, photos, scratch / "other.npz", threads)
        found[name] = {
            stage: compared(stage, array, other[stage], arguments.end_to_end) for stage, array in first.items()
        }
    return found


def shown(cell: dict[str, Any]) -> str:
    """Return a cell of the table."""
    if cell["equal"]:
        return "equal"
    largest = "other sizes" if cell["largest"] is None else f"by up to {cell['largest']:.2g}"
    return f"{cell['differing']:.2%} differ, {largest}"


def main() -> None:
    """Measure and print a table; exit 1 if a stage differs that must not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--photos", type=int, default=60, dest="count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    for flag in ("--float32", "--end-to-end", "--quick"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)  # of a process that ``run`` starts
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="udq-threads-") as folder:
        scratch = Path(folder)
        if arguments.stages:
            if arguments.float32:
                device.fast_precision = lambda place: torch.float32
            made = stages(arguments.photos, scratch, settings(arguments), arguments.threads[0])
            np.savez(arguments.stages, **made)
            return
        take(arguments.photos, arguments.count, scratch / "photos")
        runs = measure(arguments, scratch / "photos", scratch)
    print(f"| stage | {' | '.join(f'threads: {name}' for name in runs)} |\n|---{'|---' * len(runs)}|")
    for stage in next(iter(runs.values())):
        print(f"| {stage} | {' | '.join(shown(each[stage]) for each in runs.values())} |")
    if arguments.json:
        setting = {name: getattr(arguments, name) for name in ("count", "threads", "float32", "end_to_end", "quick")}
        facts = {"setting": setting, "runs": runs, "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    wrong = [f"{stage} with {name}" for name, each in runs.items() for stage in each if not each[stage]["allowed"]]
    if wrong:
        sys.exit(f"not the same for any number of threads: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
