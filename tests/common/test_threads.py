"""Limits on the threads of numerical libraries, and that nothing udq does outlives them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import faiss
import pytest
import torch
from threadpoolctl import ThreadpoolController

from udq.common import threads
from udq.common.cores import cores
from udq.errors import InputError


def blas():
    """Number of threads of each BLAS library with a setting for the whole process."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library.num_threads for library in libraries if getattr(library, "threading_layer", None) != "openmp"]


def openmp():
    """Number of threads of each library with a setting for each thread, here; faiss has two: its own and its BLAS."""
    libraries = ThreadpoolController().lib_controllers
    counts = [
        library.num_threads
        for library in libraries
        if "openmp" in (library.user_api, getattr(library, "threading_layer", None))
    ]
    return [faiss.omp_get_max_threads(), *counts]


def new_thread():
    """Number of threads that torch computes with on a new thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def settings():
    """Everything that a limit may change."""
    return torch.get_num_threads(), new_thread(), cv2.getNumThreads(), *openmp(), *blas()


@pytest.fixture
def three(monkeypatch):
    """Set every library to three threads, which no machine has by default, for a test."""
    # Generators of other tests may be waiting for the garbage collector inside a limit.
    monkeypatch.setattr(threads, "_users", 0)
    monkeypatch.setattr(threads, "_before", {})
    before, found = torch.get_num_threads(), cv2.getNumThreads()
    libraries = ThreadpoolController()
    torch.set_num_threads(3)
    cv2.setNumThreads(3)
    with libraries.limit(limits=3):
        yield
    torch.set_num_threads(before)
    cv2.setNumThreads(found)


def test_one_core_each_limits_everything_and_restores_it(three):
    assert set(settings()) == {3}
    with threads.one_core_each():
        assert (new_thread(), cv2.getNumThreads(), set(blas())) == (1, 1, {1})
        assert torch.get_num_threads() == 3  # of the thread that is not limited
        assert threads.count() == min(3, cores())
    assert set(settings()) == {3}


def test_contexts_that_overlap_restore_what_was_before_the_first(three):
    first, second = threads.one_core_each(), threads.one_core_each()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (new_thread(), cv2.getNumThreads(), set(blas())) == (1, 1, {1})
    second.__exit__(None, None, None)

    assert set(settings()) == {3}


def test_a_limit_ends_with_an_error(three):
    with pytest.raises(KeyError), threads.one_core_each():
        raise KeyError
    with pytest.raises(KeyError), threads.limit_this_thread():
        raise KeyError

    assert set(settings()) == {3}


def test_a_limit_of_this_thread_is_of_no_other(three):
    with threads.limit_this_thread():
        assert torch.get_num_threads() == 1
        assert (new_thread(), cv2.getNumThreads(), set(blas())) == (3, 3, {3})
        with threads.one_core_each():
            assert (torch.get_num_threads(), new_thread()) == (1, 1)
        assert (torch.get_num_threads(), new_thread()) == (1, 3)

    assert set(settings()) == {3}


def test_a_limit_of_this_thread_inside_one_of_all_leaves_that_in_place(three):
    with threads.one_core_each():
        with threads.limit_this_thread():
            assert torch.get_num_threads() == 1
        assert (torch.get_num_threads(), new_thread()) == (3, 1)

    assert set(settings()) == {3}


def test_a_worker_has_threads_of_its_own(three):
    with ThreadPoolExecutor(1, initializer=threads.set_for_this_thread, initargs=(2,)) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
        assert pool.submit(threads.count).result() == min(3, cores())
    assert set(settings()) == {3}


def test_many_threads_limit_and_restore_at_the_same_time(three):
    together = threading.Barrier(8)

    def work(number):
        together.wait()
        for _ in range(5):
            with threads.one_core_each() if number % 2 else threads.limit_this_thread():
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert set(settings()) == {3}


@pytest.mark.parametrize("number", [1, 2])
def test_in_a_pool_every_library_computes_on_one_thread(three, number):
    together = threading.Barrier(number)

    def piece(_):
        together.wait(timeout=30)  # so that each thread of the pool takes a piece
        return settings()

    with threads.pool(number) as workers:
        assert workers.count == number
        for found in (settings(), *workers.map(piece, range(number))):
            assert set(found) == {1}, list(found)

    assert set(settings()) == {3}


@pytest.mark.parametrize("number", [1, 3])
def test_a_pool_returns_results_in_order_and_takes_pieces_as_they_are_needed(number):
    taken = []

    def pieces():
        for piece in range(100):
            taken.append(piece)
            yield piece

    with threads.pool(number) as workers:
        results = workers.map(lambda one, other: one * other, pieces(), range(100))
        assert next(results) == 0
        assert len(taken) <= 2 * number + 1
        assert [0, *results] == [piece**2 for piece in range(100)]


def test_an_error_in_a_pool_cancels_the_other_pieces_and_ends_its_limits(three):
    done, stop = [], threading.Event()

    def piece(number):
        if number == 0:
            raise KeyError(number)
        stop.wait(timeout=30)
        done.append(number)

    def fail():
        with threads.pool(2) as workers:
            try:
                list(workers.map(piece, range(100)))
            finally:
                stop.set()

    with pytest.raises(KeyError):
        fail()

    assert len(done) < 5
    assert set(settings()) == {3}


def test_fewer_than_one_thread_is_refused():
    with pytest.raises(InputError, match="threads: expected 1 or more, found 0"), threads.pool(0):
        pass


SCRIPT = """
import importlib, pkgutil, sys
from pathlib import Path
import cv2, torch
from concurrent.futures import ThreadPoolExecutor
from threadpoolctl import ThreadpoolController
torch.set_num_threads(3)
cv2.setNumThreads(3)

def settings():
    with ThreadPoolExecutor(1) as pool:
        fresh = pool.submit(torch.get_num_threads).result()
    info = {library["filepath"]: library["num_threads"] for library in ThreadpoolController().info()}
    return torch.get_num_threads(), fresh, cv2.getNumThreads(), info

def unchanged(step):
    now, start = settings(), before
    assert now[:3] == start[:3] == (3, 3, 3), (step, now, start)
    # Libraries that were loaded since begin with a number of their own.
    assert all(now[3][path] == count for path, count in start[3].items()), (step, now, start)
    print(step)

import faiss, scipy.linalg, torchvision
ThreadpoolController().limit(limits=3)
before = settings()
import udq
for module in pkgutil.walk_packages(udq.__path__, "udq."):
    if not module.name.endswith("sandbox_worker"):  # limits the memory of its process when it runs
        importlib.import_module(module.name)
unchanged("import")

from udq.config import FeatureConfig, ImageConfig
from udq.features.extractor import Extractor
from udq.photos.source import Source
from udq.search.rerank.verifier import Candidate, Verifier
photos = [Path(path) for path in sys.argv[1:]]
extractor = Extractor(ImageConfig(shorter=96, longer=128), FeatureConfig(), device="cpu")
unchanged("extractor")
from udq.common.cores import cores
assert extractor.engine.threads == min(3, cores())
found = list(extractor.extract([Source(path.name, path) for path in photos]))
assert [photo.broken for photo in found] == [None] * len(photos)
unchanged("extract")
stream = extractor.extract([Source(path.name, path) for path in photos])
next(stream)
stream.close()
unchanged("extract some")
extractor.describe(photos[0], None)
unchanged("describe")
assert Verifier(photos[0]).verify([Candidate(photos[0])]) != [None]
unchanged("verify")

from udq.web.queue import WorkQueue, torch_on_one_core
queue = WorkQueue(2, 2, initializer=torch_on_one_core)
queue.run_on_each(lambda worker: None)
queue.close()
unchanged("queue")
"""


def test_nothing_changes_the_threads_of_the_users_process(photos):
    """In a process of its own: imports happen once."""
    chosen = [str(photos / name) for name in ("coffee.png", "rocket.png", "china.png")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *chosen], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == [
        "import", "extractor", "extract", "extract some", "describe", "verify", "queue",
    ]  # fmt: skip


def test_it_imports_neither_torch_nor_opencv():
    script = (
        "import sys\nfrom udq.common import threads\n"
        "with threads.one_core_each(), threads.limit_this_thread():\n    assert threads.count() >= 1\n"
        "print({'torch', 'cv2'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
