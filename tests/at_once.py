"""A call that must not wait: for files that could block a reader for ever."""

from __future__ import annotations

import threading


def at_once(work, seconds=20):
    """Return what ``work`` returns or raises, and fail if it takes longer than ``seconds``."""
    result = []

    def run():
        try:
            result.append((work(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert result, f"not done within {seconds} seconds"
    value, error = result[0]
    if error is not None:
        raise error
    return value
