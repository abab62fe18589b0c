"""The one policy of threads: udq divides the work, and every library computes on the thread that calls it.

Work consists of independent pieces: photos, searches, subspaces of a quantizer, parts of a batch. A pool of ``threads``
threads computes them, one per core unless the user says otherwise. Within a piece, BLAS, OpenMP (faiss, torch) and
OpenCV compute on one thread, for two reasons:

- Their own threads meet at a barrier after every product of matrices, and wait for it in a busy loop. Beside another
  busy process, one of them is always paused, and the others burn the cores it needs: fitting took 15 times as long.
- A sum over n threads is rounded in n parts. With pieces that do not depend on the number of threads, results do not
  either.

The settings of the libraries belong to the user's process, so each limit ends with the work that needs it:

- BLAS (of NumPy and SciPy) and OpenCV have one setting for the whole process.
- torch has one for each thread, and a default that every new thread starts with.
- OpenMP, which faiss and its BLAS use, has one for each thread.

A single query is the exception: torch computes it on several threads, because it is one piece, and a person waits for
it. The command line has OpenMP's threads wait without a busy loop (``wait_passively``).

torch, faiss and OpenCV are not imported here: a library that is not loaded has no setting to change.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from udq.common.cores import cores
from udq.errors import InputError

_Result = TypeVar("_Result")

_lock = threading.Lock()
_users = 0  # of one_core_each, at the moment
_before: dict[str, tuple[int, Callable[[int], object]]] = {}  # limited setting -> its value before, and how to set it


def wait_passively() -> None:
    """Have threads of OpenMP sleep while they wait, and BLAS start none, in libraries that are not loaded yet.

    For the process of the command line and those that it starts: libraries read these environment variables once, when
    they are loaded. Those that the user has set stay as they are.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def count(wanted: int | None = None) -> int:
    """Return the number of threads that work is divided among.

    Args:
        wanted: the user's choice; the number of cores if None (``cores``), or what torch is set to if it is less.

    Raises:
        InputError: fewer than one thread.
    """
    if wanted is None:
        return _available()
    if wanted < 1:
        raise InputError(f"threads: expected 1 or more, found {wanted}")
    return wanted


class Pool:
    """Threads for the pieces of some work; within a piece, every library computes on one thread.

    Attributes:
        count: number of threads.
    """

    def __init__(self, count: int, executor: Executor | None) -> None:
        self.count = count
        self._executor = executor

    def map(self, work: Callable[..., _Result], *pieces: Iterable[Any], most: int | None = None) -> Iterator[_Result]:
        """Yield the results of ``work`` for all pieces, in order; the arguments are those of the builtin ``map``.

        Pieces are taken as they are needed: besides the result that the caller has, at most ``most`` are computed or
        wait; two per thread if None.
        """
        if self._executor is None:
            yield from map(work, *pieces)
            return
        waiting: deque[Future[_Result]] = deque()
        most = 2 * self.count if most is None else most
        for piece in zip(*pieces, strict=False):
            waiting.append(self._executor.submit(work, *piece))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


ALONE = Pool(1, None)
"""The calling thread."""


@contextmanager
def pool(wanted: int | None = None) -> Iterator[Pool]:
    """Open a pool, and have this thread compute alone as well, until the end of the context.

    faiss and torch must be imported before, if the work needs them.

    Args:
        wanted: as in ``count``.
    """
    number = count(wanted)
    with (
        limit_this_thread(),
        one_core_each(),
        nullcontext() if number == 1 else ThreadPoolExecutor(number, "udq-pool", initializer=_limit_openmp) as executor,
    ):
        try:
            yield Pool(number, executor)
        except BaseException:
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def one_core_each() -> Iterator[None]:
    """Limit BLAS, OpenCV and threads that start from now on to one core each.

    Contexts may overlap on several threads; the last one to end restores what was set before the first one began.
    torch's setting of the calling thread stays as it is.
    """
    global _users
    with _lock:
        _users += 1
    try:
        with _lock:
            _limit_all()
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _restore_all()


@contextmanager
def limit_this_thread(count: int = 1) -> Iterator[None]:
    """Limit torch and faiss to ``count`` threads when this thread calls them; other threads keep their settings."""
    torch, openmp = _loaded("torch", "get_num_threads"), _openmp()
    of_torch = torch.get_num_threads() if torch is not None else 1
    before = [library.num_threads for library in openmp]
    set_for_this_thread(count)
    for library in openmp:
        library.set_num_threads(count)
    try:
        yield
    finally:
        set_for_this_thread(of_torch)
        for library, own in zip(openmp, before, strict=True):
            library.set_num_threads(own)


def set_for_this_thread(count: int) -> None:
    """Set the number of threads that torch computes with on the calling thread, for instance a worker of a pool.

    ``torch.set_num_threads`` alone would set the default of new threads as well.
    """
    torch = _loaded("torch", "set_num_threads")
    if torch is None:
        return
    with _lock:
        default = _in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # the first call on a thread sets the default, which later ones must not
        torch.set_num_threads(count)
        _in_new_thread(torch.set_num_threads, default)


def _available() -> int:
    """Return the number of cores, or what torch gives to a new thread of this process if it is less.

    Limits of udq do not count: it is the same on every thread.
    """
    with _lock:
        if "torch" in _before:
            return min(cores(), _before["torch"][0])
        torch = _loaded("torch", "get_num_threads")
        return cores() if torch is None else min(cores(), int(_in_new_thread(torch.get_num_threads)))


def _openmp() -> list[Any]:
    """Return the OpenMP libraries: torch and faiss bring one each, and faiss may use both: one itself, one its BLAS."""
    return list(ThreadpoolController().select(user_api="openmp").lib_controllers)


def _limit_openmp() -> None:
    for library in _openmp():
        library.set_num_threads(1)


def _limit_all() -> None:
    """Set everything that is loaded to one thread."""
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if getattr(library, "threading_layer", None) != "openmp":  # otherwise it has the setting of OpenMP
            _limit(library.filepath, library.num_threads, library.set_num_threads)
    cv2 = _loaded("cv2", "setNumThreads")
    if cv2 is not None:
        _limit("cv2", cv2.getNumThreads(), cv2.setNumThreads)
    torch = _loaded("torch", "set_num_threads")
    if torch is not None:
        _limit("torch", _in_new_thread(torch.get_num_threads), partial(_in_new_thread, torch.set_num_threads))


def _limit(name: str, count: int, setter: Callable[[int], object]) -> None:
    _before.setdefault(name, (count, setter))
    setter(1)  # in any case: the user's process may have changed it since the first limit


def _restore_all() -> None:
    if not sys.is_finalizing():  # no thread can be started any more, and no one is left to compute
        for count, setter in _before.values():
            setter(count)
    _before.clear()


def _loaded(name: str, attribute: str) -> Any | None:
    """Return a module if it has been imported, at least as far as the attribute."""
    module = sys.modules.get(name)
    return module if hasattr(module, attribute) else None


def _in_new_thread(function: Callable[..., Any], *arguments: int) -> Any:
    """Call a function on a new thread: there torch says, and sets, the default of new threads and nothing else."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)), name="udq-threads")
    thread.start()
    thread.join()
    return results[0]
