"""How long one query takes to rank every image of a collection: our scan, faiss and NumPy, in one process.

    python benchmarks/scan.py [--codes 1000000] [--json OUT]

All start from the query vector and the same product quantizer (M = 8, K = 256, 100 regions an image) and end
with images ranked by their best region. faiss has no best region of an image: its route is IndexPQ.search for
the nearest 10,000 regions, then the first region of each image among them; other images stay unranked. The
contenders take turns, so that noise of the machine meets all of them; "x ours" is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

SUBSPACES, CODEWORDS, DIMENSIONS, REGIONS_PER_IMAGE = 8, 256, 64, 100
NEAREST = 10_000
"""Regions that faiss returns: enough for a first page of results, not for a ranking of all images."""

OURS, OURS_2, FAISS, FAISS_1, NUMPY = "ours", "ours, 2 threads", "faiss", "faiss, k=1", "numpy"
MEANING = {
    OURS: "all images ranked, best region of each",
    OURS_2: "the same with 2 threads",
    FAISS: f"k={NEAREST} regions, grouped into images",
    FAISS_1: "the single nearest region only: the bare scan",
    NUMPY: "all images ranked, best region of each",
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


def contenders(index: faiss.IndexPQ) -> dict[str, Callable[[Floats], Ranking]]:
    """Each takes a query vector (d,) to a ranking of images."""
    from udq.scan import best_regions, rank

    codes = faiss.vector_to_array(index.codes).reshape(-1, SUBSPACES)
    codebooks = faiss.vector_to_array(index.pq.centroids).reshape(SUBSPACES, CODEWORDS, -1)
    offsets = np.arange(0, len(codes) + 1, REGIONS_PER_IMAGE)
    images = len(offsets) - 1

    def lookup(query: Floats) -> Floats:
        difference = codebooks - query.reshape(SUBSPACES, 1, -1)
        return np.asarray(np.einsum("mkd,mkd->mk", difference, difference))

    def ours(query: Floats, threads: int = 1) -> Ranking:
        best = best_regions(lookup(query), codes, offsets, threads=threads)
        order = rank(best)
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

    return {
        OURS: ours,
        OURS_2: lambda query: ours(query, threads=2),
        FAISS: with_faiss,
        FAISS_1: lambda query: with_faiss(query, 1),
        NUMPY: with_numpy,
    }


def agreement(rank_images: dict[str, Callable[[Floats], Ranking]], queries: Floats) -> dict[str, object]:
    """Hold ours to NumPy exactly, and faiss to both as far as its own order of the sum lets it."""
    ranked, top, top20 = [], 0, 0
    for query in queries:
        order, distance = rank_images[NUMPY](query)
        for name in (OURS, OURS_2):
            for ours, exact in zip(rank_images[name](query), (order, distance), strict=True):
                np.testing.assert_array_equal(ours, exact)
        faiss_order, faiss_distance = rank_images[FAISS](query)
        # faiss rounds otherwise: images may change places only where their distances are equal up to that.
        np.testing.assert_allclose(faiss_distance[:20], distance[:20], rtol=1e-5)
        ranked.append(len(faiss_order))
        top += int(faiss_order[0] == order[0])
        top20 += int(set(faiss_order[:20]) == set(order[:20]))
    return {
        "ours equals numpy, all images, bit for bit": True,
        "queries where faiss has the same top image": top,
        "queries where faiss has the same top 20 images": top20,
        "images that faiss ranks, median over queries": int(np.median(ranked)),
    }


def turns(rank_images: dict[str, Callable[[Floats], Ranking]], queries: Floats, repeats: int) -> dict[str, Floats]:
    """Milliseconds (turns,) of each contender, all of them once a turn."""
    times: dict[str, list[float]] = {name: [] for name in rank_images}
    for turn in range(repeats):
        for name, search in rank_images.items():
            start = time.perf_counter()
            search(queries[turn % len(queries)])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values, np.float32) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1_000_000, help="regions in the collection (%(default)s)")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=40, help="turns that are timed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here as well")
    options = parser.parse_args()
    from udq.provenance import provenance

    images = max(1, options.codes // REGIONS_PER_IMAGE)
    index, queries = build(images, options.queries, np.random.default_rng(options.seed))
    faiss.omp_set_num_threads(1)
    rank_images = contenders(index)
    agrees = agreement(rank_images, queries)  # also compiles and warms up
    times = turns(rank_images, queries, options.repeats)

    median = {name: round(float(np.median(t)), 3) for name, t in times.items()}
    fastest = {name: round(float(t.min()), 3) for name, t in times.items()}
    times_ours = {name: round(float(np.median(t / times[OURS])), 2) for name, t in times.items()}
    result = {
        "benchmark": "scan",
        **provenance(seed=options.seed),
        "setting": {
            "codes": int(index.ntotal), "images": images, "regions_per_image": REGIONS_PER_IMAGE,
            "subspaces": SUBSPACES, "codewords": CODEWORDS, "dimensions": DIMENSIONS,
            "queries": options.queries, "turns": options.repeats, "faiss_k": NEAREST,
        },
        "median_ms": median,
        "fastest_ms": fastest,
        "times_ours": times_ours,
        "agreement": agrees,
    }  # fmt: skip

    print(f"{index.ntotal:,} codes of {images:,} images, M={SUBSPACES}, K={CODEWORDS}; one thread unless said")
    print(f"{'':17}{'median ms':>10}{'fastest':>10}{'x ours':>8}")
    for name, meaning in MEANING.items():
        print(f"{name:17}{median[name]:10.2f}{fastest[name]:10.2f}{times_ours[name]:8.2f}  {meaning}")
    for fact, value in agrees.items():
        print(f"{fact}: {value}")
    print("faiss does less here: it leaves images without a region among its k unranked.")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
