"""How long one query takes to find the nearest images of a collection: our kernels, faiss and NumPy, in one process.

    python benchmarks/speed/scan.py [--codes 1000000 21000000] [--json OUT]

All start from the query vector and the same product quantizer (M = 8, K = 256, 100 regions an image) and end with the
100 nearest images by their best region, or with all of them ranked. faiss has no best region of an image: its route
is IndexPQ.search for the nearest 10,000 regions, then the first region of each image among them. Beyond the first
million, codes are repeated with one of the eight values redrawn in each. "read" is the lower bound of any scan:
NumPy's maximum of the same bytes.

The contenders take turns, so that noise of the machine meets all of them; "x ours" is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

SUBSPACES, CODEWORDS, DIMENSIONS, REGIONS_PER_IMAGE = 8, 256, 64, 100
WANTED = 100
"""Images to find."""
NEAREST = 10_000
"""Regions that faiss returns: enough for those images, not for a ranking of all."""
BUILT = 1_000_000
"""Codes that are of features; beyond, they are repeated."""
NUMPY_UP_TO = 1_000_000
"""Codes that NumPy is asked for: it takes tens of nanoseconds each."""

READ, ALL, ALL_NUMBA, THREADS_2 = "read", "all images", "all images, numba", "2 threads"
FAISS, FAISS_1, NUMPY = "faiss", "faiss, k=1", "numpy, all images"
MEANING = {
    THREADS_2: "the first with 2 threads",
    ALL: "all images ranked, best region of each",
    ALL_NUMBA: "the same without the extension",
    FAISS: f"k={NEAREST} regions, grouped into images",
    FAISS_1: "the single nearest region only: the bare scan",
    NUMPY: "all images ranked, best region of each",
    READ: "every byte of the codes read once",
}

Floats = NDArray[np.float32]
Ranking = tuple[NDArray[np.int64], Floats]
"""Image ids, nearest first, and the squared distances of their best regions."""


def features(images: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Regions (n, d) of some images at a time: each image shows a few of 2,000 objects."""
    centres = rng.standard_normal((2000, DIMENSIONS), dtype=np.float32)
    for start in range(0, images, 1000):
        n = min(1000, images - start)
        shown = rng.integers(0, len(centres), (n, 10))
        which = np.take_along_axis(shown, rng.integers(0, 10, (n, REGIONS_PER_IMAGE)), axis=1).ravel()
        yield centres[which] + 0.5 * rng.standard_normal((len(which), DIMENSIONS), dtype=np.float32)


def build(images: int, queries: int, rng: np.random.Generator) -> tuple[faiss.IndexPQ, Floats]:
    """A faiss index of all regions and some queries: regions seen again with noise."""
    index = faiss.IndexPQ(DIMENSIONS, SUBSPACES, int(np.log2(CODEWORDS)))
    seen = []
    for batch in features(images, rng):
        if not index.is_trained:
            index.train(batch[:: max(1, len(batch) // 50_000)])
        index.add(batch)
        seen.append(batch[rng.integers(len(batch))])
    noise = rng.standard_normal((queries, DIMENSIONS), dtype=np.float32)
    return index, np.array(seen)[rng.integers(0, len(seen), queries)] + 0.2 * noise


def enlarge(index: faiss.IndexPQ, codes: int, rng: np.random.Generator) -> None:
    """Repeat the codes of an index until there are ``codes``, each with one of its eight values redrawn."""
    built = faiss.vector_to_array(index.codes).reshape(-1, SUBSPACES)
    while index.ntotal < codes:
        again = built[: codes - index.ntotal].copy()
        which = rng.integers(0, SUBSPACES, len(again))
        again[np.arange(len(again)), which] = rng.integers(0, CODEWORDS, len(again))
        index.add_sa_codes(again)


def contenders(index: faiss.IndexPQ) -> dict[str, Callable[[Floats], Ranking]]:
    """Each takes a query vector (d,) to a ranking of images."""
    from udq.search.scan.exhaustive import Part, best_regions, image_order, nearest_images
    from udq.search.scan.kernels import kernels

    codes = faiss.vector_to_array(index.codes).reshape(-1, SUBSPACES)
    codebooks = faiss.vector_to_array(index.pq.centroids).reshape(SUBSPACES, CODEWORDS, -1)
    offsets = np.arange(0, len(codes) + 1, REGIONS_PER_IMAGE)
    images = len(offsets) - 1
    part = Part(codes, offsets)

    def lookup(query: Floats) -> Floats:
        difference = codebooks - query.reshape(SUBSPACES, 1, -1)
        return np.asarray(np.einsum("mkd,mkd->mk", difference, difference))

    def nearest(query: Floats, kernel: str, threads: int = 1) -> Ranking:
        os.environ["UDQ_SCAN_KERNEL"] = kernel
        found = nearest_images(lookup(query), [part], WANTED, threads=threads)
        return found.image, found.distance

    def every(query: Floats, kernel: str) -> Ranking:
        os.environ["UDQ_SCAN_KERNEL"] = kernel
        best = best_regions(lookup(query), codes, offsets, threads=1)
        order = image_order(best)
        return order, best.distance[order]

    def with_faiss(query: Floats, k: int = NEAREST) -> Ranking:
        distance, region = index.search(query[None], min(k, index.ntotal))
        image = region[0] // REGIONS_PER_IMAGE
        # The first place of an image is its best region; written backwards, it is written last and stays.
        places = np.arange(len(image))
        first = np.full(images, -1)
        first[image[::-1]] = places[::-1]
        kept = first[image] == places
        return image[kept], distance[0][kept]

    def with_numpy(query: Floats) -> Ranking:
        table = lookup(query)
        d = table[0, codes[:, 0]].copy()
        for m in range(1, SUBSPACES):
            d += table[m, codes[:, m]]
        best = d.reshape(images, REGIONS_PER_IMAGE).min(axis=1)
        order = np.argsort(best, kind="stable")
        return order, best[order]

    def read(query: Floats) -> Ranking:
        largest = codes.reshape(-1).view(np.uint64).max()
        return np.array([largest >> np.uint64(1)], np.int64), query[:1]

    ours = {kernel: (lambda query, kernel=kernel: nearest(query, kernel)) for kernel in kernels()}
    others = {
        THREADS_2: lambda query: nearest(query, kernels()[0], threads=2),
        ALL: lambda query: every(query, kernels()[0]),
        ALL_NUMBA: lambda query: every(query, "numba"),
        FAISS: with_faiss,
        FAISS_1: lambda query: with_faiss(query, 1),
        NUMPY: with_numpy,
        READ: read,
    }
    if len(codes) > NUMPY_UP_TO:
        del others[NUMPY]
    return {**ours, **others}


def agreement(rank_images: dict[str, Callable[[Floats], Ranking]], queries: Floats) -> dict[str, object]:
    """Hold all of ours to NumPy, or where that is too slow to each other, and faiss as far as its rounding lets it."""
    ranked, same = [], 0
    exact = NUMPY if NUMPY in rank_images else ALL_NUMBA
    for query in queries:
        order, distance = rank_images[exact](query)
        for name, search in rank_images.items():
            if name not in (FAISS, FAISS_1, READ):
                found = search(query)
                n = len(found[0])
                assert n in (len(order), min(WANTED, len(order))), name
                np.testing.assert_array_equal(found[0], order[:n], err_msg=name)
                np.testing.assert_array_equal(found[1], distance[:n], err_msg=name)
        faiss_order, faiss_distance = rank_images[FAISS](query)
        # faiss rounds otherwise: images may change places only where their distances are equal up to that.
        np.testing.assert_allclose(faiss_distance[:20], distance[:20], rtol=1e-5)
        ranked.append(len(faiss_order))
        same += int(set(faiss_order[:WANTED]) == set(order[:WANTED]))
    return {
        f"all of ours equal {exact}, bit for bit": True,
        f"queries where faiss has the same top {WANTED} images": same,
        "images that faiss ranks, median over queries": int(np.median(ranked)),
    }


def turns(
    rank_images: dict[str, Callable[[Floats], Ranking]], queries: Floats, repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds (turns,) of each contender, all of them once a turn."""
    times: dict[str, list[float]] = {name: [] for name in rank_images}
    for turn in range(repeats):
        for name, search in rank_images.items():
            start = time.perf_counter()
            search(queries[turn % len(queries)])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def measure(index: faiss.IndexPQ, queries: Floats, repeats: int) -> dict[str, Any]:
    """Figures of one number of codes."""
    rank_images = contenders(index)
    agrees = agreement(rank_images, queries)  # also compiles and warms up
    times = turns(rank_images, queries, repeats)
    ours = next(iter(times))
    rows = {
        name: {
            "median_ms": round(float(np.median(t)), 3),
            "fastest_ms": round(float(t.min()), 3),
            "times_ours": round(float(np.median(t / times[ours])), 2),
            "codes_per_second": round(float(index.ntotal / np.median(t) * 1e3), -6),
            "gigabytes_per_second": round(float(index.ntotal * SUBSPACES / np.median(t) / 1e6), 2),
        }
        for name, t in times.items()
    }
    faiss_over = {name: round(float(np.median(times[FAISS] / t)), 2) for name, t in times.items()}
    return {"codes": index.ntotal, "turns": repeats, "rows": rows, "faiss_over": faiss_over, "agreement": agrees}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, nargs="+", default=[1_000_000, 21_000_000], help="rising (%(default)s)")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=40, help="turns that are timed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here as well")
    options = parser.parse_args()
    from udq.common.provenance import provenance
    from udq.search.scan.kernels import kernels

    rng = np.random.default_rng(options.seed)
    index, queries = build(max(1, min(options.codes[0], BUILT) // REGIONS_PER_IMAGE), options.queries, rng)
    faiss.omp_set_num_threads(1)
    sizes = []
    for codes in options.codes:
        enlarge(index, codes, rng)
        figures = measure(index, queries, options.repeats)
        sizes.append(figures)
        print(f"{codes:,} codes of {codes // REGIONS_PER_IMAGE:,} images, M={SUBSPACES}, K={CODEWORDS}; one thread")
        print(f"{'':19}{'median ms':>10}{'fastest':>10}{'x ours':>8}{'1e9 codes/s':>13}{'GB/s':>8}")
        for name, row in figures["rows"].items():
            print(
                f"{name:19}{row['median_ms']:10.2f}{row['fastest_ms']:10.2f}{row['times_ours']:8.2f}"
                f"{row['codes_per_second'] / 1e9:13.2f}{row['gigabytes_per_second']:8.1f}"
                f"  {MEANING.get(name, f'{WANTED} nearest images')}"
            )
        for fact, value in figures["agreement"].items():
            print(f"{fact}: {value}")
    result = {
        "benchmark": "scan",
        **provenance(seed=options.seed),
        "setting": {
            "regions_per_image": REGIONS_PER_IMAGE, "subspaces": SUBSPACES, "codewords": CODEWORDS,
            "dimensions": DIMENSIONS, "queries": options.queries, "wanted": WANTED, "faiss_k": NEAREST,
            "kernels": kernels(),
        },
        "sizes": sizes,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
