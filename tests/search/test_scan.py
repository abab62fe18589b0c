"""The scan against brute force in NumPy, bit for bit, with every kernel: distances, regions, ties, images, threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.errors import InputError
from udq.search.scan import exhaustive, kernels, numba_kernels
from udq.search.scan.exhaustive import (
    BestRegions,
    Part,
    best_regions,
    distances,
    image_order,
    nearest_images,
    nearest_images_batch,
)
from udq.search.scan.inverted import InvertedIndex

SUBSPACES = (1, 2, 3, 4, 8, 16)  # numba compiles each for each dtype: words, half words, single codes
KERNELS = kernels.kernels()
CODEWORDS = [(16, np.uint8), (200, np.uint8), (256, np.uint8), (257, np.uint16), (512, np.uint16)]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Run the test with each kernel that this machine has."""
    monkeypatch.setenv("UDQ_SCAN_KERNEL", request.param)
    return request.param


@contextmanager
def using(name):
    """Use a kernel within a context, which hypothesis can enter for every example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDQ_SCAN_KERNEL", name)
        yield


def brute_force(lookup, codes, offsets):
    """Eq. 5 for every region in the documented order, then the first minimum of each image (eq. 1)."""
    d = lookup[0, codes[:, 0]].copy()
    for m in range(1, codes.shape[1]):
        d += lookup[m, codes[:, m]]
    distance = np.full(len(offsets) - 1, np.inf, np.float32)
    region = np.full(len(offsets) - 1, -1, np.int64)
    for i, (begin, end) in enumerate(pairwise(offsets)):
        if begin < end:
            region[i] = begin + d[begin:end].argmin()
            distance[i] = d[region[i]]
    return distance, region


def assert_equals_brute_force(lookup, codes, offsets, **options):
    best = best_regions(lookup, codes, offsets, **options)
    distance, region = brute_force(lookup, codes, offsets)
    np.testing.assert_array_equal(best.distance.view(np.uint32), distance.view(np.uint32))
    np.testing.assert_array_equal(best.region, region)
    every = distances(lookup, codes)
    assert every.dtype == np.float32
    assert every.shape == (len(codes),)
    nearest = [every[begin:end].min(initial=np.inf) for begin, end in pairwise(offsets)]
    np.testing.assert_array_equal(np.array(nearest, np.float32).view(np.uint32), distance.view(np.uint32))


def random_scan(seed, *, subspaces, codewords, dtype, counts, distinct=None):
    """A lookup of terms of very different size (so that the order of the sum matters), codes and offsets."""
    rng = np.random.default_rng(seed)
    lookup = (rng.random((subspaces, codewords)) * 10.0 ** rng.integers(-3, 6, (subspaces, 1))).astype(np.float32)
    regions = sum(counts)
    codes = rng.integers(0, codewords, (regions, subspaces)).astype(dtype)
    if distinct is not None and regions:  # few distinct codes: ties within images and between them
        codes = codes[rng.integers(0, min(distinct, regions), regions)]
    return lookup, codes, np.cumsum([0, *counts])


@given(
    seed=st.integers(0, 2**32 - 1),
    subspaces=st.sampled_from(SUBSPACES),
    codewords=st.sampled_from(CODEWORDS),
    counts=st.lists(st.integers(0, 9), max_size=12),
    distinct=st.one_of(st.none(), st.integers(1, 4)),
    threads=st.sampled_from([1, 2, 3]),
    kernel=st.sampled_from(["portable", "numba"]),  # the other kernels only search for the nearest images
)
@settings(max_examples=200, deadline=None)
def test_equals_brute_force(seed, subspaces, codewords, counts, distinct, threads, kernel):
    codewords, dtype = codewords
    case = random_scan(seed, subspaces=subspaces, codewords=codewords, dtype=dtype, counts=counts, distinct=distinct)
    with using(kernel if kernel in KERNELS else "numba"):
        assert_equals_brute_force(*case, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3, None])
@pytest.mark.parametrize(("codewords", "dtype"), [(256, np.uint8), (512, np.uint16)])
def test_equals_brute_force_at_size(kernel, codewords, dtype, threads):
    counts = np.random.default_rng(0).integers(0, 200, 1500).tolist()  # enough regions for None to take 2 threads
    case = random_scan(1, subspaces=8, codewords=codewords, dtype=dtype, counts=counts)
    assert_equals_brute_force(*case, threads=threads)


def test_by_hand():
    lookup = np.array([[0, 1, 4], [2, 0, 8]], np.float32)
    codes = np.array([[2, 0], [1, 1], [0, 2], [0, 0], [1, 1]], np.uint8)  # 6, 1 | 8, 2, 1
    best = best_regions(lookup, codes, np.array([0, 2, 2, 5]))
    assert best.distance.tolist() == [1, np.inf, 1]
    assert best.region.tolist() == [1, -1, 4]
    assert image_order(best).tolist() == [0, 2, 1]


def test_sum_runs_from_the_first_subspace():
    lookup = np.array([[2**24], [1], [1], [1]], np.float32)
    codes = np.zeros((1, 4), np.uint8)
    # 2**24 + 1 rounds to 2**24 each time; any other order would come to 2**24 + 2 or more.
    assert best_regions(lookup, codes, np.array([0, 1])).distance.tolist() == [2**24]
    assert distances(lookup, codes).tolist() == [2**24]


@pytest.mark.parametrize("threads", [1, 3])
def test_lowest_row_wins_a_tie(threads):
    codes = np.full((90, 8), 3, np.uint8)
    best = best_regions(np.ones((8, 256), np.float32), codes, np.arange(0, 91, 30), threads=threads)
    assert best.region.tolist() == [0, 30, 60]
    assert image_order(best).tolist() == [0, 1, 2]


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0], [0, 5, 0]])
def test_images_without_regions(counts):
    case = random_scan(2, subspaces=8, codewords=256, dtype=np.uint8, counts=counts)
    assert_equals_brute_force(*case, threads=2)


def test_memory_map_and_odd_address(tmp_path):
    lookup, codes, offsets = random_scan(3, subspaces=8, codewords=256, dtype=np.uint8, counts=[40] * 20)
    np.save(tmp_path / "codes.npy", codes)
    assert_equals_brute_force(lookup, np.load(tmp_path / "codes.npy", mmap_mode="r"), offsets)
    shifted = np.empty(codes.size + 1, np.uint8)[1:].reshape(codes.shape)
    shifted[:] = codes
    assert_equals_brute_force(lookup, shifted, offsets)


def test_searches_at_the_same_time():
    cases = [random_scan(s, subspaces=8, codewords=256, dtype=np.uint8, counts=[100] * 100) for s in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda case: assert_equals_brute_force(*case, threads=2), cases))


def test_result_is_frozen():
    best = best_regions(np.ones((8, 256), np.float32), np.zeros((2, 8), np.uint8), np.array([0, 2]))
    for array in (best.distance, best.region, image_order(best)):
        assert array.dtype in (np.float32, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        best.distance[0] = 0
    with pytest.raises(AttributeError):
        best.region = best.region


# --- the nearest images ---


def assert_nearest(lookup, parts, k, *, search=nearest_images, **options):
    """The first k of all kept images by (distance, number), from brute force."""
    distance, region = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for part in parts:
        for found, its in zip((distance, region), brute_force(lookup, part.codes, part.offsets), strict=True):
            found.append(its)
    distance, region = np.concatenate(distance), np.concatenate(region)
    keep = np.concatenate([np.empty(0, bool), *(np.ones(len(p), bool) if p.keep is None else p.keep for p in parts)])
    kept = np.flatnonzero(keep)
    order = kept[np.argsort(distance[kept], kind="stable")][:k]
    nearest = search(lookup, parts, k, **options)
    np.testing.assert_array_equal(nearest.image, order)
    np.testing.assert_array_equal(nearest.distance.view(np.uint32), distance[order].view(np.uint32))
    np.testing.assert_array_equal(nearest.region, region[order])


def in_a_batch(lookup, parts, k, **options):
    """``nearest_images`` for the second of three queries in a batch."""
    others = np.random.default_rng(0).permutation(lookup.ravel()).reshape(lookup.shape), lookup[::-1]
    first, found, _ = nearest_images_batch(np.stack([others[0], lookup, others[1]]), parts, k, **options)
    alone = nearest_images(others[0], parts, k, **options)
    np.testing.assert_array_equal(first.image, alone.image)
    return found


def by_an_index(lookup, parts, k, **options):
    """``nearest_images`` by an inverted index, if one can be built."""
    if len(KERNELS) == 1 or not parts:
        return nearest_images(lookup, parts, k, **options)
    return InvertedIndex.build(parts, lookup.shape[1]).nearest_images(lookup, k, **options)


def spread(rng, shape, kind):
    """Tables that are hard cases for a bound of 8 bits."""
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    if kind == "equal":
        return np.full(shape, rng.choice([0.1, 1e-30, -3.0, 1e30]), np.float32)
    if kind == "whole":  # ties of sums of different codes
        return rng.integers(0, 3, shape).astype(np.float32)
    if kind == "wide":
        return (10.0 ** rng.uniform(-30, 30, shape)).astype(np.float32)
    if kind == "offset":  # differences of the size of float32 rounding errors
        return (1e6 + rng.random(shape)).astype(np.float32)
    if kind == "signed":
        return rng.normal(0, 10.0 ** rng.integers(-3, 3, (shape[0], 1)), shape).astype(np.float32)
    if kind == "huge":  # sums overflow, both ways
        return rng.choice([-3e38, -1e38, 0, 1e38, 3e38], shape).astype(np.float32)
    if kind == "tiny":  # subnormal numbers
        return (rng.random(shape) * 1e-42).astype(np.float32)
    return (rng.random(shape) ** 4 * 10.0 ** rng.integers(-3, 6, (shape[0], 1))).astype(np.float32)


KINDS = ("usual", "zeros", "equal", "whole", "wide", "offset", "signed", "huge", "tiny")


@given(
    seed=st.integers(0, 2**32 - 1),
    subspaces=st.sampled_from((*SUBSPACES, 7, 9, 64)),
    codewords=st.sampled_from(CODEWORDS),
    kind=st.sampled_from(KINDS),
    regions=st.sampled_from([0, 1, 3, 40, 200]),  # at most, per image: an image spans several blocks, or is part of one
    images=st.lists(st.integers(0, 30), max_size=4),
    removed=st.sampled_from([0.0, 0.2, 1.0]),
    distinct=st.one_of(st.none(), st.integers(1, 40)),
    k=st.sampled_from([0, 1, 2, 5, 20, 1000]),
    threads=st.sampled_from([1, 2, 3, 4]),
)
@settings(max_examples=400, deadline=None)
def test_nearest_images(seed, subspaces, codewords, kind, regions, images, removed, distinct, k, threads):
    (codewords, dtype), rng = codewords, np.random.default_rng(seed)
    lookup = spread(rng, (subspaces, codewords), kind)
    parts = []
    for n in images:
        counts = rng.integers(0, regions + 1, n).tolist()
        _, codes, offsets = random_scan(
            seed, subspaces=subspaces, codewords=codewords, dtype=dtype, counts=counts, distinct=distinct
        )
        parts.append(Part(codes, offsets, None if removed == 0 else rng.random(n) >= removed))
    for name in KERNELS:
        if name != "numba" or subspaces in SUBSPACES:  # numba compiles for each number of subspaces
            with using(name):
                assert_nearest(lookup, parts, k, threads=threads)
                assert_nearest(lookup, parts, k, threads=threads, search=in_a_batch)
                assert_nearest(lookup, parts, k, threads=threads, search=by_an_index)


@pytest.mark.parametrize("threads", [1, 2, 4, None])
@pytest.mark.parametrize(
    ("subspaces", "codewords", "dtype"), [(8, 256, np.uint8), (5, 100, np.uint8), (8, 512, np.uint16)]
)
def test_nearest_images_at_size(kernel, subspaces, codewords, dtype, threads):
    rng = np.random.default_rng(5)
    parts = []
    for seed in range(3):
        counts = rng.integers(0, 60, 1500).tolist()
        _, codes, offsets = random_scan(seed, subspaces=subspaces, codewords=codewords, dtype=dtype, counts=counts)
        parts.append(Part(codes, offsets, rng.random(1500) < 0.9))
    for kind in ("usual", "whole", "signed"):
        lookup = spread(rng, (subspaces, codewords), kind)
        for k in (1, 20, 700):
            for search in (nearest_images, in_a_batch, by_an_index):
                assert_nearest(lookup, parts, k, threads=threads, search=search)


@pytest.mark.skipif(len(KERNELS) == 1, reason="the extension was not built")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("codewords", [16, 256])
def test_an_index_that_scans_some_of_the_codes_finds_true_distances_only(codewords, threads):
    rng = np.random.default_rng(8)
    counts = rng.integers(1, 60, 2000).tolist()
    lookup, codes, offsets = random_scan(3, subspaces=8, codewords=codewords, dtype=np.uint8, counts=counts)
    lookup = rng.random(lookup.shape, np.float32)
    index = InvertedIndex.build([Part(codes, offsets)], codewords)
    exact = nearest_images(lookup, [Part(codes, offsets)], 20)
    every = distances(lookup, codes)
    kept = []
    for looked_at in (0.001, 0.3, 0.9, 1.0):
        found = index.nearest_images(lookup, 20, looked_at=looked_at, threads=threads)
        np.testing.assert_array_equal(found.distance, every[found.region])
        np.testing.assert_array_equal(np.searchsorted(offsets, found.region, side="right") - 1, found.image)
        assert len(np.unique(found.image)) == 20
        assert (found.distance >= exact.distance).all()
        kept.append(len(np.intersect1d(found.image, exact.image)))
    assert kept[-1] == 20
    assert kept == sorted(kept)
    for looked_at in (0, 1.1, float("nan")):
        with pytest.raises(InputError, match="looked_at: expected a share of the codes above 0 and at most 1"):
            index.nearest_images(lookup, 20, looked_at=looked_at)


@pytest.mark.skipif(len(KERNELS) == 1, reason="the extension was not built")
def test_an_index_of_codes_out_of_range_or_of_two_dtypes_is_an_error():
    with pytest.raises(InputError, match="below the 16 codewords, found 16 in row 2, subspace 1"):
        InvertedIndex.build([Part(np.array([[0, 0], [1, 2], [3, 16]], np.uint8), np.arange(4))], 16)
    kinds = [Part(np.zeros((2, 4), dtype), np.arange(3)) for dtype in (np.uint8, np.uint16)]
    with pytest.raises(InputError, match=r"codes of one dtype and M, found 4 of 2 kinds"):
        InvertedIndex.build(kinds, 16)
    with pytest.raises(InputError, match="one dtype in all parts"):
        nearest_images(np.ones((4, 16), np.float32), kinds, 3)


@pytest.mark.parametrize("order", [1, -1])
def test_nearest_images_of_a_sorted_collection(kernel, order):
    """Every image is nearer than all images before it, or farther."""
    lookup = np.arange(8 * 256, dtype=np.float32).reshape(8, 256)
    codes = np.repeat(np.arange(256, dtype=np.uint8)[::order], 16).reshape(-1, 1).repeat(8, axis=1)
    for k in (1, 10, 300):
        for search in (nearest_images, in_a_batch, by_an_index):
            assert_nearest(lookup, [Part(np.ascontiguousarray(codes), np.arange(len(codes) + 1))], k, search=search)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("subspaces", [1, 5, 8, 24])
def test_nearest_images_each_a_little_nearer(kernel, subspaces, k):
    """Each is nearer by less than a bound of 8 bits can resolve, and 8 bits hold all entries but one exactly."""
    lookup = np.zeros((subspaces, 256), np.float32)
    lookup[0, 1:] = 1 + 1e-6 * np.arange(255, 0, -1, dtype=np.float32)
    lookup[0, 255] = 2
    codes = np.zeros((2, 700, subspaces), np.uint8)
    codes[..., 0] = 255  # far, so that the nearest are not among the last, which are scanned without a bound
    codes[:, :508, 0] = np.repeat(np.arange(1, 255), 4).reshape(2, 508)
    halves = [Part(half, np.arange(701)) for half in codes]
    for search in (nearest_images, in_a_batch, by_an_index):
        assert_nearest(lookup, halves, k, search=search)


@pytest.mark.parametrize("subspaces", [8, 64])
def test_nearest_images_by_sums_that_are_mostly_rounding(kernel, subspaces):
    rng = np.random.default_rng(6)
    for _ in range(20):
        lookup = (1e6 + rng.random((subspaces, 256))).astype(np.float32)
        codes = rng.integers(0, 256, (2000, subspaces), np.uint8)
        for search in (nearest_images, in_a_batch, by_an_index):
            assert_nearest(lookup, [Part(codes, np.arange(0, 2001, 2))], 20, search=search)


def test_nearest_images_by_sums_that_overflow_on_the_way(kernel):
    lookup = np.zeros((8, 256), np.float32)
    lookup[:, 0] = [-1, 0, 0, 0, 0, 0, 0, 0]
    lookup[:, 1] = [-3e38, -3e38, 3.3e38, 3.3e38, 0, 0, 0, 0]  # -inf, and stays so; the real sum is positive
    codes = np.zeros((200, 8), np.uint8)
    codes[150] = 1
    with np.errstate(over="ignore"):
        for search in (nearest_images, in_a_batch, by_an_index):
            assert_nearest(lookup, [Part(codes, np.arange(201))], 1, search=search)


def test_nearest_images_all_equal(kernel):
    codes = np.full((900, 8), 3, np.uint8)
    part = Part(codes, np.arange(0, 901, 30))
    found = nearest_images(np.ones((8, 256), np.float32), [part, part], 40, threads=2)
    assert found.image.tolist() == list(range(40))
    assert found.region.tolist() == [30 * (i % 30) for i in range(40)]
    assert found.distance.tolist() == [8] * 40


def test_nearest_images_of_a_read_only_map(kernel, tmp_path):
    lookup, codes, offsets = random_scan(3, subspaces=8, codewords=256, dtype=np.uint8, counts=[40] * 20)
    np.save(tmp_path / "codes.npy", codes)
    assert_nearest(lookup, [Part(np.load(tmp_path / "codes.npy", mmap_mode="r"), offsets)], 5)
    for dtype in (np.uint8, np.uint16):
        shifted = np.empty(codes.size * dtype().itemsize + 1, np.uint8)[1:].view(dtype).reshape(codes.shape)
        shifted[:] = codes
        assert_nearest(lookup, [Part(shifted, offsets)], 5)


def test_nearest_images_at_the_same_time(kernel):
    cases = [random_scan(s, subspaces=8, codewords=256, dtype=np.uint8, counts=[100] * 100) for s in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda case: assert_nearest(case[0], [Part(*case[1:])], 7, threads=2), cases))


def test_nearest_images_of_nothing(kernel):
    assert len(nearest_images(np.ones((8, 256), np.float32), [], 5)) == 0
    with pytest.raises(InputError, match="at least 0, found -1"):
        nearest_images(np.ones((8, 256), np.float32), [], -1)
    with pytest.raises(InputError, match=r"keep bool \(6\), found bool \(2,\)"):
        Part(np.ones((6, 8), np.uint8), np.arange(7), np.ones(2, bool))


def test_kernels():
    assert kernels.kernel() == KERNELS[0] == "numba" if len(KERNELS) == 1 else "portable" in KERNELS
    with using("gpu"), pytest.raises(InputError, match=f"UDQ_SCAN_KERNEL to be one of {', '.join(KERNELS)}, found gpu"):
        kernels.kernel()


@pytest.mark.skipif(len(KERNELS) == 1, reason="the extension was not built")
def test_the_extension_needs_no_numba():
    script = (
        "import sys, numpy as np\n"
        "from udq.search.scan.exhaustive import Part, best_regions, image_order, nearest_images\n"
        "lookup, codes, offsets = np.ones((8, 256), np.float32), np.zeros((9, 8), np.uint8), np.arange(10)\n"
        "image_order(best_regions(lookup, codes, offsets)), nearest_images(lookup, [Part(codes, offsets)], 3)\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- ranking ---


@given(
    distances=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 1.0000001, 2.5, np.inf, -1e-7, -2e-7, 1e-45, 3e38]), max_size=60
    ),
    k=st.one_of(st.none(), st.integers(0, 70)),
    select=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_rank_orders_by_distance_then_image(distances, k, select):
    best = BestRegions(np.array(distances, np.float32), np.zeros(len(distances), np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhaustive, "IMAGES_TO_SELECT", 0 if select else len(distances))
        order = image_order(best, k)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(order, np.argsort(best.distance, kind="stable")[:k])


def test_rank_at_size(kernel):
    rng = np.random.default_rng(4)
    distance = rng.integers(0, 50_000, exhaustive.IMAGES_TO_SELECT + 1).astype(np.float32)  # many ties
    best = BestRegions(distance, np.zeros(len(distance), np.int64))
    expected = np.argsort(distance, kind="stable")
    for k in (None, 1, 20, 1000, len(distance) // 2):
        np.testing.assert_array_equal(image_order(best, k), expected[:k])


# --- errors ---

GOOD = {
    "lookup": np.ones((8, 200), np.float32),
    "codes": np.zeros((6, 8), np.uint8),
    "offsets": np.array([0, 2, 6]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lookup": np.ones((8, 200))}, r"lookup float32 \(\*, \*\), found float64 \(8, 200\)"),
        ({"lookup": np.ones(8, np.float32)}, r"found float32 \(8,\)"),
        ({"lookup": np.ones((8, 0), np.float32)}, "at least 1"),
        ({"lookup": np.ones((8, 257), np.float32)}, "at most 256 codewords for codes of 1 bytes, found 257"),
        ({"lookup": np.full((8, 200), np.nan, np.float32)}, "finite"),
        ({"lookup": np.ones((4, 200), np.float32)}, r"codes uint8 \(\*, 4\), found uint8 \(6, 8\)"),
        ({"codes": np.zeros((6, 8), np.int64)}, "found int64"),
        ({"codes": np.zeros((6, 8), np.int8)}, "found int8"),
        ({"codes": np.zeros(48, np.uint8)}, r"found uint8 \(48,\)"),
        ({"codes": np.zeros((8, 6), np.uint8).T}, "C-contiguous"),
        ({"offsets": np.array([0, 2, 6], np.int32)}, "offsets int64"),
        ({"offsets": np.array([], np.int64)}, "N [+] 1 offsets"),
        ({"offsets": np.array([1, 2, 6])}, "from 0 to 6"),
        ({"offsets": np.array([0, 2, 7])}, "from 0 to 6"),
        ({"offsets": np.array([0, 4, 2, 6])}, "non-decreasing offsets, found one that decreases"),
        ({"threads": 0}, "at least 1 thread, found 0"),
    ],
)
def test_input_errors(change, message):
    with pytest.raises(InputError, match=message):
        best_regions(**(GOOD | change))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("codewords", "dtype", "code"),
    [
        (200, np.uint8, 200),
        (200, np.uint8, 255),
        (300, np.uint16, 300),
        (512, np.uint16, 512),
        (512, np.uint16, 65535),
    ],
)
@pytest.mark.parametrize("subspaces", [3, 8])
def test_code_out_of_range(kernel, subspaces, codewords, dtype, code, threads):
    lookup, codes, offsets = random_scan(5, subspaces=subspaces, codewords=codewords, dtype=dtype, counts=[50] * 4)
    codes[170, 2] = code
    with pytest.raises(InputError, match=f"below the {codewords} codewords, found {code} in row 170, subspace 2"):
        best_regions(lookup, codes, offsets, threads=threads)
    for keep in (None, np.array([True, True, True, False])):  # images that may not be found are checked too
        with pytest.raises(InputError, match=f"below the {codewords} codewords, found {code} in row 170, subspace 2"):
            nearest_images(lookup, [Part(codes, offsets, keep)], 2, threads=threads)
    with pytest.raises(InputError, match=f"below the {codewords} codewords, found {code} in row 170, subspace 2"):
        distances(lookup, codes)


def test_a_sum_too_large_for_float32_is_no_error(kernel):
    lookup = np.full((8, 256), 3e38, np.float32)
    best = best_regions(lookup, np.zeros((3, 8), np.uint8), np.array([0, 0, 3]))
    assert best.distance.tolist() == [np.inf, np.inf]
    assert best.region.tolist() == [-1, 0]


def test_rank_errors():
    best = BestRegions(np.ones(2, np.float32), np.zeros(2, np.int64))
    with pytest.raises(InputError, match="at least 0, found -1"):
        image_order(best, -1)
    with pytest.raises(InputError, match=r"region int64 \(2\), found int64 \(3,\)"):
        BestRegions(np.ones(2, np.float32), np.zeros(3, np.int64))


def test_compiles_where_no_cache_can_be_written(monkeypatch):
    njit = numba_kernels.numba.njit

    def without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba_kernels.numba, "njit", without_cache)
    assert numba_kernels.compiled(lambda a, b: a + b)(1, 2) == 3
