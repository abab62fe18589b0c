"""How the cost of a search grows with the collection, from 100,000 codes to 200 million: scan, batch, index.

    python benchmarks/speed/growth.py PHOTOS [--codes 100000 ... 200000000] [--json OUT]

Codes are those of a collection of PHOTOS, built without training, and beyond their number copies of them with each of
the eight codewords redrawn among the 64 nearest to it: other regions, of a kind with the real ones, so that a
query's object is in the real photos alone and the 20 nearest reach into those that do not show it. They lie in
segments as `udq index` writes them. Queries are the middles of some photos, half as wide and half as high, and
everything starts from their lookup tables.

``scan`` compares every code; ``16 queries`` is the time a query when 16 share the pass; ``exact index`` is the
inverted index, whose answers are compared with the scan's, bit for bit; ``index`` is the same when it scans the
least part of the codes, of some, with which it finds 0.99 of the scan's photos. Contenders take turns; figures are
medians over queries.

    --peer-up-to N    also faiss, up to N codes: IndexPQ (every code) and IndexIVFPQ with the fewest probes that keep
                      0.99 of IndexPQ's 20 nearest photos; both asked for the 10,000 nearest regions, then grouped
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udq.collection import Collection
from udq.common.provenance import provenance
from udq.config import IndexConfig
from udq.search.scan import exhaustive, kernels
from udq.search.scan.exhaustive import Part
from udq.search.scan.inverted import InvertedIndex
from udq.types import Features

SIZES = [100_000, 1_000_000, 10_000_000, 21_000_000, 50_000_000, 100_000_000, 200_000_000]
WANTED, BATCH, AMONG, NEAREST = 20, 16, 64, 10_000
PHOTOS_A_PART = 4096
PARTS_LOOKED_AT = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
KEPT = 0.99
"""Share of the 20 nearest photos that an index is to find."""

Floats = NDArray[np.float32]
Search = Callable[[int], Any]


class Codes:
    """The codes of a real collection, and as many more of their kind as are wanted."""

    def __init__(self, photos: Path, queries: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = IndexConfig().replace({"training": {"enabled": False}})
            collection = Collection.build(photos, Path(folder, "photos.udq"), config=config)
            every = len(collection.images) // queries or 1
            self.features = [
                collection.extractor.describe(image.path, middle(image.width, image.height))[1]
                for image in collection.images[::every][:queries]
            ]
            self.model = collection.model
            self.codes = np.concatenate([segment.codes for segment in collection.segments])
            self.counts = np.concatenate([np.diff(segment.offsets) for segment in collection.segments])
        self.lookups = np.stack([self.model.lookup_tables(feature) for feature in self.features])
        apart = [((book[:, None] - book[None]) ** 2).sum(-1) for book in self.model.quantizer.codebooks]
        self._near = np.stack([np.argsort(each, axis=1, kind="stable")[:, 1 : 1 + AMONG] for each in apart])
        self._rng = np.random.default_rng(0)

    def parts(self, wanted: int) -> list[Part]:
        """Parts of ``wanted`` codes, or up to one photo fewer."""
        parts: list[Part] = []
        held = 0
        while held < wanted:
            codes, counts = (self.codes, self.counts) if not parts else (self._others(), self.counts)
            fit = np.searchsorted(np.cumsum(counts), wanted - held, side="right")
            if fit == 0:
                break
            offsets = np.concatenate([[0], np.cumsum(counts[:fit])])
            parts.append(Part(np.ascontiguousarray(codes[: offsets[-1]]), offsets))
            held += int(offsets[-1])
        return joined(parts)

    def _others(self) -> NDArray[np.uint8]:
        columns = np.arange(self.codes.shape[1])
        which = self._rng.integers(0, AMONG, self.codes.shape, np.uint8)
        return self._near[columns, self.codes, which].astype(np.uint8)


def middle(width: int, height: int) -> tuple[float, float, float, float]:
    return width / 4, height / 4, 3 * width / 4, 3 * height / 4


def joined(parts: list[Part]) -> list[Part]:
    """Parts of about as many photos as segments have."""
    found, waiting = [], []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= PHOTOS_A_PART or part is parts[-1]:
            counts = np.concatenate([np.diff(each.offsets) for each in waiting])
            codes = np.concatenate([each.codes for each in waiting])
            found.append(Part(codes, np.concatenate([[0], np.cumsum(counts)])))
            waiting = []
    return found


def contenders(parts: list[Part], lookups: Floats, index: InvertedIndex, looked_at: float) -> dict[str, Search]:
    def batch(query: int, threads: int) -> None:
        chosen = lookups[np.arange(query, query + BATCH) % len(lookups)]
        exhaustive.nearest_images_batch(chosen, parts, WANTED, threads=threads)

    found: dict[str, Search] = {}
    for threads in (1, 2):
        found |= {
            f"scan, {threads}": lambda q, n=threads: exhaustive.nearest_images(lookups[q], parts, WANTED, threads=n),
            f"{BATCH} queries, {threads}": lambda q, n=threads: batch(q, n),
            f"exact index, {threads}": lambda q, n=threads: index.nearest_images(lookups[q], WANTED, threads=n),
            f"index, {threads}": lambda q, n=threads: index.nearest_images(
                lookups[q], WANTED, looked_at=looked_at, threads=n
            ),
        }
    return found


def visited(index: InvertedIndex, lookup: Floats, farthest: float) -> float:
    """Share of the codes in cells that a bound does not rule out for the k-th distance."""
    bound = lookup[0][:, None] + lookup[1][None] + lookup[2:].min(axis=1).sum()
    return float(np.diff(index.starts)[bound.ravel() <= farthest].sum() / len(index.codes))


def with_faiss(codes: Codes, parts: list[Part], turns: int) -> dict[str, Any]:
    """faiss on the same codes, one thread."""
    quantizer = codes.model.quantizer
    books = quantizer.codebooks
    m, k, width = books.shape
    rows = np.concatenate([part.codes for part in parts])
    image = np.repeat(np.arange(sum(map(len, parts))), np.concatenate([np.diff(part.offsets) for part in parts]))
    queries = quantizer.rotate(codes.model.head.apply(Features(np.stack(codes.features)))).vectors

    def grouped(index: Any, query: int) -> NDArray[np.int64]:
        _, region = index.search(queries[query : query + 1], NEAREST)
        found = image[region[0][region[0] >= 0]]
        _, first = np.unique(found, return_index=True)
        return found[np.sort(first)]

    flat = faiss.IndexPQ(m * width, m, int(np.log2(k)))
    faiss.copy_array_to_vector(books.astype(np.float32).ravel(), flat.pq.centroids)
    flat.is_trained = True
    flat.add_sa_codes(rows)
    lists = 1024
    coarse = faiss.IndexFlatL2(m * width)
    inverted = faiss.IndexIVFPQ(coarse, m * width, lists, m, int(np.log2(k)))
    inverted.by_residual = False
    sample = codes.codes[:: max(1, len(codes.codes) // 50_000)]
    decode = lambda c: books[np.arange(m), c].reshape(len(c), -1).astype(np.float32)  # noqa: E731
    inverted.train(decode(sample))
    faiss.copy_array_to_vector(books.astype(np.float32).ravel(), inverted.pq.centroids)
    inverted.precompute_table()
    for start in range(0, len(rows), 1 << 20):
        inverted.add(decode(rows[start : start + (1 << 20)]))
    faiss.omp_set_num_threads(1)
    exact = [set(grouped(flat, q)[:WANTED].tolist()) for q in range(len(queries))]
    for probes in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        inverted.nprobe = probes
        kept = [
            len(exact[q] & set(grouped(inverted, q)[:WANTED].tolist())) / len(exact[q]) for q in range(len(queries))
        ]
        if np.mean(kept) >= 0.99:
            break
    took: dict[str, list[float]] = {"faiss IndexPQ": [], "faiss IndexIVFPQ": []}
    for turn in range(turns):
        for name, index in (("faiss IndexPQ", flat), ("faiss IndexIVFPQ", inverted)):
            start = time.perf_counter()
            grouped(index, turn % len(queries))
            took[name].append(1e3 * (time.perf_counter() - start))
    ms = {name: round(float(np.median(values)), 3) for name, values in took.items()}
    return {"median_ms": ms, "probes": probes, "lists": lists, "recall": round(float(np.mean(kept)), 4)}


def measure(codes: Codes, wanted: int, turns: int, peer: bool) -> dict[str, Any]:
    parts = codes.parts(wanted)
    lookups = codes.lookups
    start = time.perf_counter()
    index = InvertedIndex.build(parts, lookups.shape[2])
    sorting = time.perf_counter() - start
    answers, shares = [], []
    for lookup in lookups:
        exact, found = exhaustive.nearest_images(lookup, parts, WANTED), index.nearest_images(lookup, WANTED)
        for name in ("image", "distance", "region"):
            np.testing.assert_array_equal(getattr(exact, name), getattr(found, name))
        answers.append(exact.image)
        shares.append(visited(index, lookup, float(exact.distance[-1])))
    for looked_at in PARTS_LOOKED_AT:
        found = [index.nearest_images(lookup, WANTED, looked_at=looked_at).image for lookup in lookups]
        recall = np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(answers, found, strict=True)])
        if recall >= KEPT:
            break
    searches = contenders(parts, lookups, index, looked_at)
    took: dict[str, list[float]] = {name: [] for name in searches}
    for turn in range(turns):
        for name, search in searches.items():
            start = time.perf_counter()
            search(turn % len(lookups))
            per = BATCH if name.startswith(str(BATCH)) else 1
            took[name].append(1e3 * (time.perf_counter() - start) / per)
    held = sum(len(part.codes) for part in parts)
    figures = {
        "codes": held,
        "photos": sum(map(len, parts)),
        "parts": len(parts),
        "median_ms": {name: round(float(np.median(values)), 3) for name, values in took.items()},
        "slowest_ms": {name: round(max(values), 3) for name, values in took.items()},
        "index": {
            "seconds_to_build": round(sorting, 2),
            "bytes": index.codes.nbytes + index.regions.nbytes + index.starts.nbytes,
            "looked_at": looked_at,
            "recall": round(float(recall), 4),
            "share_of_codes_to_be_exact": {
                "median": round(float(np.median(shares)), 4),
                "90 %": round(float(np.percentile(shares, 90)), 4),
            },
        },
    }
    del index, searches
    if peer:
        figures["faiss"] = with_faiss(codes, parts, turns)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTOS", type=Path)
    parser.add_argument("--codes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--peer-up-to", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    codes = Codes(options.photos, options.queries)
    sizes = []
    for wanted in options.codes:
        sizes.append(measure(codes, wanted, options.turns, wanted <= options.peer_up_to))
        print(json.dumps(sizes[-1]), flush=True)
    result = {
        "benchmark": "growth",
        **provenance(seed=0),
        "setting": {
            "wanted": WANTED, "batch": BATCH, "among": AMONG, "kept": KEPT,
            "queries": options.queries, "turns": options.turns, "kernel": kernels.kernel(),
        },
        "sizes": sizes,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
