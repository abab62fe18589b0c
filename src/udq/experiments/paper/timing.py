"""Table 7: time of a query to rank all photos by codes, by hashes, or by real-valued features.

All three start from the query's feature f, compare it with every region of the same photos, and end with the photos
ranked by their best region, on one thread. Their searches alternate, so that noise of the machine affects all of them.
Hashes are as long as the codes; their hyperplanes are random, which does not change the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common.threads import one_core_each
from udq.experiments.paper.codes import Floats
from udq.experiments.paper.workbench import Workbench
from udq.quantization.model import Model
from udq.search.scan import exhaustive
from udq.search.scan.numba_kernels import compiled

_TURNS = 40

Ranking = NDArray[np.int64]


def search_times(workbench: Workbench, model: Model, *, turns: int = _TURNS) -> dict[str, float]:
    """Return the median search time in seconds by kind of scan, with the keys ``tables.TIMES``.

    Args:
        workbench: photos and queries.
        model: the model that encodes them; hashes have its M * log2(K) bits per region.
        turns: number of searches of each kind, cycling through the queries.
    """
    (segment,) = workbench.encode(model).database.segments
    readable = (photo for photo in workbench.photos if photo.broken is None)
    vectors = np.concatenate([model.head.apply(photo.features).vectors for photo in readable])
    scans = contenders(model, segment.codes, segment.offsets, vectors)
    queries = workbench.query_vectors(model)
    with one_core_each():
        for search in scans.values():
            search(queries[0])  # compiles the kernels
        seconds: dict[str, list[float]] = {name: [] for name in scans}
        for turn in range(turns):
            for name, search in scans.items():
                started = time.perf_counter()
                search(queries[turn % len(queries)])
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def contenders(
    model: Model, codes: NDArray[Any], offsets: NDArray[np.int64], vectors: Floats
) -> dict[str, Callable[[Floats], Ranking]]:
    """Return the three scans: functions of a query's unit feature (d,) to the ids of the N photos, best first.

    Args:
        model: the model of the codes.
        codes: (G, M) uint8 or uint16.
        offsets: (N + 1,) int64, strictly increasing from 0 to G.
        vectors: (G, d) unit features of the same regions.
    """
    planes = np.random.default_rng(0).standard_normal((vectors.shape[1], model.quantizer.bits), np.float32)
    hashes = _hashes(vectors, planes)

    def by_codes(query: Floats) -> Ranking:
        return exhaustive.image_order(
            exhaustive.best_regions(model.quantizer.lookup_tables(query), codes, offsets, threads=1)
        )

    def by_hashes(query: Floats) -> Ranking:
        distance = np.empty(len(offsets) - 1, np.int64)
        _least_hamming(hashes, _hashes(query[None], planes)[0], offsets, distance)
        return np.argsort(distance, kind="stable")

    def by_features(query: Floats) -> Ranking:
        # For unit vectors, the least distance is the greatest inner product.
        return np.argsort(-np.maximum.reduceat(vectors @ query, offsets[:-1]), kind="stable")

    return {"seconds_codes": by_codes, "seconds_hashing": by_hashes, "seconds_real_valued": by_features}


def _hashes(vectors: Floats, planes: Floats) -> NDArray[np.uint64]:
    """Return the signs of vectors (G, d) at B hyperplanes (d, B) as bits: (G, ceil(B / 64)) uint64."""
    packed = np.packbits(vectors @ planes > 0, axis=1)
    words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


@compiled
def _least_hamming(
    hashes: NDArray[np.uint64], query: NDArray[np.uint64], offsets: NDArray[np.int64], distance: NDArray[np.int64]
) -> None:
    """Write each photo's least Hamming distance; compiled like the scan of codes."""
    for image in range(len(offsets) - 1):
        least = np.int64(1 << 30)
        for region in range(offsets[image], offsets[image + 1]):
            different = np.int64(0)
            for word in range(hashes.shape[1]):
                # Population count by pairs, nibbles and bytes; LLVM compiles it to one instruction.
                x = hashes[region, word] ^ query[word]
                x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
                x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
                x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
                different += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
            least = min(least, different)
        distance[image] = least
