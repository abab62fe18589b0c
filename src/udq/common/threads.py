"""The number of threads that numerical libraries compute with: limited during work, and restored after it.

Photos and searches run one per core. Within each, every call of BLAS, OpenCV or torch should compute on the thread that
makes it: the calls are too small to share, and idle threads of these libraries wait in busy loops. The settings belong
to the user's process, so each limit ends with the work that needs it:

- BLAS (of NumPy, SciPy and faiss) and OpenCV have one setting for the whole process.
- torch has one for each thread, and a default that every new thread starts with.

torch and OpenCV are not imported here: a library that is not loaded has no setting to change.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_users = 0  # of one_core_each, at the moment
_before: dict[str, tuple[int, Callable[[int], object]]] = {}  # limited setting -> its value before, and how to set it


def available() -> int:
    """Return the number of threads that torch gives to a new thread of this process, any limit of udq aside.

    The same on every thread. If torch is not loaded, the number of cores that the process may use.
    """
    with _lock:
        if "torch" in _before:
            return _before["torch"][0]
        torch = _loaded("torch", "get_num_threads")
        if torch is not None:
            return int(_in_new_thread(torch.get_num_threads))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
def one_core() -> Iterator[None]:
    """Have torch compute on the calling thread alone; other threads keep their settings."""
    torch = _loaded("torch", "get_num_threads")
    own = torch.get_num_threads() if torch is not None else 1
    set_for_this_thread(1)
    try:
        yield
    finally:
        set_for_this_thread(own)


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


def _limit_all() -> None:
    """Set everything that is loaded and not limited yet to one thread."""
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        _limit(library.filepath, library.num_threads, library.set_num_threads)
    cv2 = _loaded("cv2", "setNumThreads")
    if cv2 is not None:
        _limit("cv2", cv2.getNumThreads(), cv2.setNumThreads)
    torch = _loaded("torch", "set_num_threads")
    if torch is not None:
        _limit("torch", _in_new_thread(torch.get_num_threads), partial(_in_new_thread, torch.set_num_threads))


def _limit(name: str, count: int, setter: Callable[[int], object]) -> None:
    if name not in _before:
        _before[name] = count, setter
        setter(1)


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
