"""The process that decodes photos for ``sandbox.Decoder``: paths come on its standard input, pixels go to its output.

``sandbox`` starts it and defines the protocol. It ends when its input ends, so that it never outlives the parent, and
by an alarm if a photo takes too long and there is no parent left to kill it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, features

from udq.config import LARGEST_MEGAPIXELS, MAX_MEGAPIXELS
from udq.errors import InputError
from udq.photos import decoding
from udq.photos.decoding import Photo
from udq.photos.sandbox import CROP, HAS_CONTENT, HAS_PHOTO, READY, REPLY, REQUEST, WHOLE, WRONG_INPUT
from udq.photos.source import Content, UnreadableError
from udq.types import Box

# Limit of address space in bytes for the default limit of megapixels. The largest photos take 3 GiB (HEIC, WebP and
# JPEG 2000), those of JPEG 2000 with transparency 3.7 GiB, extrapolated from 16 megapixels, and the file itself up to
# half a GiB more (benchmarks/robustness/mutated_photos.py --largest).
MEMORY = 5 * 2**30
_NO_WINDOW = (0.0, 0.0, 0.0, 0.0)
# Seconds that the parent has to kill this process before it ends itself.
_GRACE = 5


def main() -> None:
    """Answer requests until the input ends."""
    requests = sys.stdin.buffer
    # What a library prints must not get between the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _limit_resources()
    replies.write(READY)
    replies.flush()
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        what, has_box, limit, *measures, seconds, name_bytes = REQUEST.unpack(header)
        path = Path(os.fsdecode(requests.read(name_bytes)))
        _set_alarm(math.ceil(seconds) + _GRACE)
        _limit_memory(memory(limit))
        _answer(replies, partial(_decode, path, what, has_box, limit, *measures))
        _set_alarm(0)


def _decode(
    path: Path,
    what: int,
    has_box: bool,
    limit: int,
    shorter: int,
    longer: int,
    least: int,
    most: int,
    side: int,
    smallest: float,
    *measures: float,
) -> tuple[Photo, Box]:
    """Return what a request asks for, and the window that it shows; ``measures`` are box, margin and enlarged."""
    *sides, margin, enlarged = measures
    box = sides if has_box else None
    if what == WHOLE:
        return decoding.load(path, shorter=shorter, longer=longer, smallest=smallest, limit=limit), _NO_WINDOW
    if what == CROP:
        scale = {"shorter": shorter, "longer": longer, "least": least}
        return decoding.load_crop(path, box, **scale, side=side or None, limit=limit)[0], _NO_WINDOW
    crop = decoding.load_window(path, box, margin=margin, longer=longer, enlarged=enlarged, most=most, limit=limit)
    return Photo(crop.pixels, crop.width, crop.height), crop.window


def _answer(replies: BinaryIO, decode: Callable[[], tuple[Photo, Box]]) -> None:
    try:
        photo, window = decode()
    except InputError as error:
        _send(replies, None, message=str(error), wrong_input=True)
    except UnreadableError as error:
        _send(replies, error.content, message=str(error))
    else:
        _send(replies, photo.content, photo, window)


def _send(
    replies: BinaryIO,
    content: Content | None,
    photo: Photo | None = None,
    window: Box = _NO_WINDOW,
    *,
    message: str = "",
    wrong_input: bool = False,
) -> None:
    encoded = message.encode("utf-8", "backslashreplace")
    flags = HAS_CONTENT * (content is not None) + HAS_PHOTO * (photo is not None) + WRONG_INPUT * wrong_input
    file = (content.size, content.modified, content.digest) if content else (0, 0, b"")
    pixels: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8) if photo is None else photo.pixels
    rows, columns = pixels.shape[:2]
    width, height = (photo.width, photo.height) if photo else (0, 0)
    replies.write(REPLY.pack(flags, *file, width, height, columns, rows, *window, len(encoded)))
    replies.write(encoded)
    replies.write(np.ascontiguousarray(pixels).data)
    replies.flush()


def _limit_resources() -> None:
    """Limit the memory and threads that a hostile file can make this process use."""
    if features.check("avif"):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.options.DECODE_THREADS = 1
    # Not Pillow's limit of pixels, but ours.
    Image.MAX_IMAGE_PIXELS = None
    _limit_memory(MEMORY)
    _set_limit("RLIMIT_CORE", 0, 0)


def memory(limit: int) -> int:
    """Return the limit of address space in bytes for a limit of megapixels."""
    return MEMORY * max(limit, MAX_MEGAPIXELS) // MAX_MEGAPIXELS


def _limit_memory(most: int) -> None:
    """Limit the address space of a request; the hard limit, which stays, is that of the largest photos ever allowed."""
    _set_limit("RLIMIT_AS", most, memory(LARGEST_MEGAPIXELS))


def _set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit of this process, within those that it was started with."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    limit = getattr(resource, name)
    _, present = resource.getrlimit(limit)
    hard = hard if present == resource.RLIM_INFINITY else min(hard, present)
    with contextlib.suppress(ValueError, OSError):  # macOS has the limit of address space but refuses to set it
        resource.setrlimit(limit, (min(soft, hard), hard))


def _set_alarm(seconds: int) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent has ended
        os._exit(0)
