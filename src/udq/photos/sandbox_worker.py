"""What a process that decodes photos runs: takes paths from its standard input, sends pixels to its standard output.

``decode`` starts it and says what goes through the pipes. It ends when its input does, so that none is left behind,
and by an alarm when a photo takes too long and nobody is left to kill it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import features

from udq.errors import ImageError, InputError
from udq.photos import decoding, source
from udq.photos.sandbox import BOXED, HAS_CONTENT, HAS_PHOTO, READY, REPLY, REQUEST, WHOLE, WRONG_INPUT

# Of address space. The largest photos take 3 GiB (WebP and JPEG 2000; benchmarks/robustness/mutated_photos.py --largest), those of
# JPEG 2000 with transparency 3.7 GiB by their growth up to 16 megapixels, and the file itself up to half of one.
MEMORY = 5 * 2**30
# Seconds that the parent has to kill this process before it does so itself.
_GRACE = 5


def main() -> None:
    """Answer requests until there are no more."""
    requests = sys.stdin.buffer
    # What a library prints must not get between the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _limit()
    replies.write(READY)
    replies.flush()
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        what, shorter, longer, least, *box, seconds, name_bytes = REQUEST.unpack(header)
        path = Path(os.fsdecode(requests.read(name_bytes)))
        _alarm(math.ceil(seconds) + _GRACE)
        if what == WHOLE:
            _answer(replies, path, shorter, longer)
        else:
            _answer_crop(replies, path, box if what == BOXED else None, shorter, longer, least)
        _alarm(0)


def _answer(replies: BinaryIO, path: Path, shorter: int, longer: int) -> None:
    content: source.Content | None = None
    try:
        data, content = source.read(path)
        photo = decoding.decode(data, path, shorter=shorter, longer=longer)
    except ImageError as error:
        _send(replies, content, None, str(error))
    else:
        _send(replies, content, photo, "")


def _answer_crop(
    replies: BinaryIO, path: Path, box: Sequence[float] | None, shorter: int, longer: int, least: int
) -> None:
    try:
        photo, _ = decoding.load_crop(path, box, shorter=shorter, longer=longer, least=least)
    except (ImageError, InputError) as error:
        _send(replies, None, None, str(error), asked_wrongly=isinstance(error, InputError))
    else:
        _send(replies, None, photo, "")


def _send(
    replies: BinaryIO,
    content: source.Content | None,
    photo: decoding.Photo | None,
    reason: str,
    *,
    asked_wrongly: bool = False,
) -> None:
    told = reason.encode("utf-8", "backslashreplace")
    flags = HAS_CONTENT * (content is not None) + HAS_PHOTO * (photo is not None) + WRONG_INPUT * asked_wrongly
    size, modified, digest = (content.size, content.modified, content.digest) if content else (0, 0, b"")
    pixels: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8) if photo is None else photo.pixels
    rows, columns = pixels.shape[:2]
    width, height = (photo.width, photo.height) if photo else (0, 0)
    replies.write(REPLY.pack(flags, size, modified, digest, width, height, columns, rows, len(told)))
    replies.write(told)
    replies.write(np.ascontiguousarray(pixels).data)
    replies.flush()


def _limit() -> None:
    """Keep what a hostile file can make of this process small."""
    if features.check("avif"):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for limit, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(limit, (most, most))
        except (ValueError, OSError):  # macOS knows the limit of address space and refuses to set it
            continue


def _alarm(seconds: int) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent has gone
        os._exit(0)
