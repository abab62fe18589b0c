"""What small objects cost: photos a second, bytes a photo and query time, against mAP on sets of small objects.

    python benchmarks/speed/detail.py DATA [--cache FOLDER] [--photos 24] [--large 8] [--turns 2] [--json OUT]

DATA holds instre_dev and landmarks, as for benchmarks/accuracy. A row is a value of ``--smallest``, the side of the
smallest objects in percent of a photo's shorter side.

Photos a second are those of extraction, from file to regions and features, with two threads: photos of landmarks,
enlarged to 1 and to 12 megapixels. All rows take turns, so that the machine's noise meets all; figures are medians
over the turns. Other work on the machine reduces them; the processor time of a photo, without that of decoding, in
another process, depends on it less. mAP is that of benchmarks/accuracy on collages of 2 x 2 and 4 x 4 photos and on
composites of 12 and 24 megapixels, with training, seed 0; features and collections are kept in --cache, so an
interrupted run goes on. Query time is that of ``Collection.search`` on the 4 x 4 collages, warm.

Rows whose photos have the same views (``udq.photos.pyramid.levels``) are measured once: a level is left out unless it
is 1.5 times the one before, and no photo is enlarged. So 40 and 28 % give the views of 0, one view, and 8 % gives those
of 10 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for accuracy
sys.path.append(str(Path(__file__).resolve().parents[1] / "decisions"))  # for places, which accuracy needs

from accuracy import sets
from accuracy.measure import Setup, describe, kept, protocol_queries, summary_of

from udq.cli.progress_bar import progress
from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import PRESETS, IndexConfig
from udq.evaluation.benchmark import ProtocolQueries
from udq.features.extractor import Extractor
from udq.photos import pyramid
from udq.photos.sandbox import Decoder
from udq.photos.source import Source, find

PERCENT = (0.0, 20.0, 13.0, 10.0, 6.5, 5.0)
"""Values of ``--smallest`` that give photos of 12 megapixels different views; between them, the views stay the same."""
SIZES = {"1 MP": (1155, 866), "12 MP": (4000, 3000)}
SMALL = {"instre_dev-2x2": (896, 672), "instre_dev-4x4": (1792, 1344), "composites": (4000, 3000)}
"""Sets, and width and height of their photos in pixels; the views of larger composites differ between the same rows."""
SEARCHED = "instre_dev-4x4"
"""The set whose queries are timed."""
THREADS = 2
BOX_BYTES = 8
"""Of a region on disk, besides its code: four edges of two bytes."""
SEARCHES = 24


class Setting(NamedTuple):
    """A row: the value of ``--smallest`` in percent."""

    smallest: float

    @property
    def config(self) -> IndexConfig:
        """The default preset with this change."""
        return IndexConfig().replace({"images": {"smallest": self.smallest}})

    def views(self, size: tuple[int, int]) -> tuple[float, ...]:
        """Return the scales of the views of a photo of this size, which decide the work on it."""
        images = self.config.images
        return pyramid.levels(*size, shorter=images.shorter, longer=images.longer, smallest=images.smallest)


def settings() -> list[Setting]:
    """Return the rows, coarse to fine."""
    return [Setting(percent) for percent in PERCENT]


def enlarged(folder: Path, size: tuple[int, int], count: int, into: Path) -> list[Source]:
    """Write photos of a folder at another size; return them."""
    sources, _ = find([folder])
    into.mkdir()
    for source in sources[:: max(1, len(sources) // count)][:count]:
        with Image.open(source.path) as photo:
            upright = size if photo.width >= photo.height else size[::-1]
            grown = photo.convert("RGB").resize(upright, Image.Resampling.LANCZOS)
            grown.save(into / f"{source.path.parent.name}-{source.path.stem}.jpg", quality=90)
    return find([into])[0]


def rates(photos: Mapping[str, Sequence[Source]], rows: Sequence[Setting], turns: int) -> dict[str, dict[str, Any]]:
    """Return for each row and size, as ``key``, photos a second and processor seconds a photo, and regions a photo."""
    extractors: dict[str, Extractor] = {}
    for size in photos:
        for row in rows:
            if key(row, size) not in extractors:
                config = row.config
                made = Extractor(config.images, config.features, device="cpu", threads=THREADS).proposing()
                extractors[key(row, size)] = made
                deque(made.extract(photos[size][:2]), maxlen=0)  # warm up
    found: dict[str, dict[str, Any]] = {name: {"turns": [], "processor": []} for name in extractors}
    with Decoder() as decoder:
        for turn in range(turns):
            for name, extractor in extractors.items():
                some = photos[name.split(":")[0]]
                started, used = time.perf_counter(), time.process_time()
                regions = [len(photo.regions) for photo in extractor.extract(some, decoder)]
                found[name]["turns"].append(round(len(some) / (time.perf_counter() - started), 3))
                found[name]["processor"].append(round((time.process_time() - used) / len(some), 4))
                found[name]["regions"] = round(statistics.fmean(regions), 1)
                print(f"turn {turn}: {name}: {found[name]['turns'][-1]:.2f} photos/s", file=sys.stderr, flush=True)
    for each in found.values():
        each["photos_per_second"] = round(statistics.median(each["turns"]), 2)
        each["processor_seconds"] = round(statistics.median(each["processor"]), 3)
    return found


def key(row: Setting, size: str) -> str:
    """Return a name of the work that a row means for photos of a size of ``SIZES``: rows of the same work share it."""
    return f"{size}: views {row.views(SIZES[size])}"


def query_times(collection: Collection, queries: ProtocolQueries) -> dict[str, float]:
    """Return the median milliseconds of a warm search, and of its scan, for boxed queries of a set."""
    pairs = [
        (queries.paths[query.image], box)
        for query, box in zip(queries.truth.queries, queries.boxes, strict=True)
    ][:SEARCHES]  # fmt: skip
    for path, box in pairs[:5]:  # warm up
        collection.search(path, box, rerank=[])
    took = [collection.search(path, box, rerank=[]).elapsed_ms for path, box in pairs]
    return {name: round(statistics.median(each[name] for each in took), 2) for name in ("total", "encode", "scan")}


def accuracies(data: Path, rows: Sequence[Setting], cache: Path) -> Iterator[tuple[str, Setting, dict[str, Any]]]:
    """Yield set, row and figures of each row on each set of ``SMALL``; rows of the same views share them."""
    default = Setup(IndexConfig(), (), None, None, "cpu", cache / "features")
    for found in sets.load(data, list(SMALL), cache / "sets"):
        collection, workers = kept(found, default, cache / "collections", seed=0, progress=progress)
        # A query is described the same way in all rows, which differ in the views of photos only.
        features = describe(workers, protocol_queries(found, collection), progress)
        done: dict[tuple[float, ...], dict[str, Any]] = {}
        for row in rows:
            views = row.views(SMALL[found.name])
            if views not in done:
                setup = replace(default, config=row.config)
                collection, _ = kept(found, setup, cache / "collections", seed=0, progress=progress)
                queries = protocol_queries(found, collection)
                figures = summary_of(collection, queries, features)
                done[views] = {
                    "mAP": round(figures["mAP"], 4),
                    "mean_iou": round(figures["localisation"]["top_20"]["mean_iou"], 4),
                    "regions": round(collection.regions / len(collection), 1),
                    "milliseconds": query_times(collection, queries) if found.name == SEARCHED else None,
                }
                print(f"{found.name}: {row}: mAP {done[views]['mAP']:.3f}", file=sys.stderr, flush=True)
            yield found.name, row, done[views]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument(
        "--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--photos", type=int, default=24, help="of 1 megapixel; default: %(default)s")
    parser.add_argument("--large", type=int, default=8, help="of 12 megapixels; default: %(default)s")
    parser.add_argument("--turns", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def main() -> None:
    """Print a table; write JSON where asked."""
    given = arguments()
    rows = settings()
    of_sets: dict[Setting, dict[str, Any]] = {row: {} for row in rows}
    for name, row, figures in accuracies(given.data, rows, given.cache):
        of_sets[row][name] = figures
    with tempfile.TemporaryDirectory(prefix="udq-detail-") as folder:
        places = given.data / sets.PLACES
        counts = {"1 MP": given.photos, "12 MP": given.large}
        photos = {size: enlarged(places, SIZES[size], count, Path(folder, size)) for size, count in counts.items()}
        speeds = rates(photos, rows, given.turns)
    default = IndexConfig()
    bytes_each = default.quantizer.subspaces * (default.quantizer.codewords - 1).bit_length() // 8 + BOX_BYTES
    names = {config.images.smallest: name for name, config in PRESETS.items() if name in ("default", "fine")}
    table = []
    for row in rows:
        found: dict[str, Any] = {"smallest": row.smallest, "preset": names.get(row.smallest)}
        for size in SIZES:
            measured = speeds[key(row, size)]
            found[size] = measured | {"bytes": round(measured["regions"] * bytes_each)}
        found["sets"] = {
            name: figures | {"bytes": round(figures["regions"] * bytes_each)} for name, figures in of_sets[row].items()
        }
        table.append(found)
        print(f"{row.smallest:4g} %: " + ", ".join(
            f"{size} {found[size]['photos_per_second']:.1f}/s {found[size]['bytes'] / 1000:.1f} kB" for size in SIZES
        ) + ", " + ", ".join(f"{name} {each['mAP']:.3f}" for name, each in found["sets"].items()))  # fmt: skip
    if given.json:
        facts = {
            "benchmark": "detail",
            "setting": {
                "threads": THREADS, "turns": given.turns, "photos": {size: len(some) for size, some in photos.items()},
                "bytes_per_region": bytes_each, "searches": SEARCHES, "load": round(os.getloadavg()[0], 1),
            },
            "rows": table,
            "provenance": provenance(seed=0),
        }  # fmt: skip
        given.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
