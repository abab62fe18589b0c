"""Photo files -> pixels: decoded as a viewer shows them, at the scale of the network.

A photo is decoded to sRGB: EXIF orientation applied, colours converted by the ICC profile (``colour``), more than 8
bits scaled to 8 (``formats.levels``), transparency laid on white, the first frame of an animation (``scaling``). A file
that cannot be decoded raises UnreadableError with the reason in one line.

These functions decode in the calling process, which ends if a decoder crashes. ``sandbox.Decoder`` decodes untrusted
photos, and photos in bulk, in processes of their own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.common.files import open_regular
from udq.common.text import shown
from udq.config import MAX_MEGAPIXELS
from udq.errors import InputError
from udq.photos import scaling
from udq.photos.boxes import check_box, listed, pixels_of
from udq.photos.formats import opening
from udq.photos.formats.opening import MAX_SIDE, Opened
from udq.photos.pyramid import LEAST, scale_for
from udq.photos.pyramid import levels as levels_of
from udq.photos.source import Content, check_unchanged, max_bytes, read, unreadable
from udq.types import Box

__all__ = ("MAX_SIDE", "Crop", "Photo", "load", "load_crop", "load_full", "load_window", "shown_size")


@dataclass(frozen=True)
class Photo:
    """A decoded photo, scaled for the network.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, after scaling.
        width, height: size in pixels as a viewer shows the photo, before scaling.
        content: what the file holds; None for a part of a photo.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    content: Content | None = None

    def mirrored(self) -> Photo:
        """Return the photo with left and right exchanged."""
        return replace(self, pixels=self.pixels[:, ::-1])


@dataclass(frozen=True)
class Crop:
    """A decoded part of a photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, after scaling.
        window: the part, x1, y1, x2, y2 in pixels of the photo.
        width, height: size of the whole photo in pixels as a viewer shows it.
    """

    pixels: NDArray[np.uint8]
    window: Box
    width: int
    height: int


def load(path: Path, *, shorter: int, longer: int, smallest: float = 0, limit: int = MAX_MEGAPIXELS) -> Photo:
    """Decode a photo and scale it (sec. 4.2), to the finest of its views (``pyramid.levels``).

    A panorama longer than 14 times its height is stretched, which does not affect boxes: they are in pixels of the
    photo.

    Args:
        path: the file.
        shorter: pixels of the shorter side of the coarse view.
        longer: limit of its longer side, which takes precedence.
        smallest: side of the smallest objects, in percent of the shorter side; 0 for the coarse view.
        limit: the largest number of megapixels, before scaling.

    Raises:
        UnreadableError: the photo cannot be read or decoded.
    """
    with _reading(path, limit) as (opened, content):
        (width, height), transposed = opening.shown_size(opened)
        scale = scale_for(width, height, shorter=shorter, longer=longer)
        scale *= levels_of(width, height, shorter=shorter, longer=longer, smallest=smallest)[-1]
        size = _scaled_size(width, height, scale, least=min(shorter, LEAST))
        drafted = opening.draft(opened, size[::-1] if transposed else size)
        picture, span = scaling.drawn(drafted, size)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=span, reducing_gap=3.0))
    return Photo(pixels, width, height, content)


def shown_size(path: Path, *, limit: int = MAX_MEGAPIXELS) -> tuple[int, int]:
    """Return width and height of a photo as a viewer shows it; raises UnreadableError if that is not possible.

    Reads the header alone, except for a PNG, whose orientation may follow the pixels: damage in the pixels of other
    formats is only found by ``load``.
    """
    try:
        with (
            open_regular(path, limit=max_bytes(limit), follow=True) as file,
            opening.identify(file, limit) as opened,
        ):
            return opening.shown_size(opened)[0]
    except Exception as error:
        raise unreadable(path, error) from error


def load_crop(
    path: Path,
    box: Sequence[float] | None,
    *,
    shorter: int,
    longer: int,
    least: int,
    side: int | None = None,
    limit: int = MAX_MEGAPIXELS,
) -> tuple[Photo, Box]:
    """Decode the part of a photo inside ``box``, at the scale at which ``load`` returns the whole photo, or its own.

    Nothing outside the box enters the crop: the protocol of object instance search forbids context.

    Args:
        path: the photo.
        box: x1, y1, x2, y2 in its pixels; the whole photo if None.
        shorter, longer, limit: as in ``load``.
        least: a crop whose shorter side would be smaller is enlarged to these pixels, within ``longer``.
        side: root of the area of the crop in pixels, whatever the scale of the photo; its longer side is at most
            four times that. None for the scale of the photo.

    Returns:
        The crop, whose width and height are those of the box, and the box (the whole photo for None).

    Raises:
        InputError: there is no such photo, or the box is not inside it.
        UnreadableError: the photo cannot be read or decoded.
    """
    with _reading(_existing(path), limit) as (opened, _):
        (width, height), _ = opening.shown_size(opened)
        found = (0.0, 0.0, float(width), float(height)) if box is None else check_box(box, width, height)
        x1, y1, x2, y2 = part = pixels_of(found, width, height)
        across, down = x2 - x1, y2 - y1
        if side is None:
            scale = scale_for(width, height, shorter=shorter, longer=longer)
            scale = max(scale, min(least / min(across, down), longer / max(across, down)))
        else:
            scale = min(side / math.sqrt(across * down), 4 * side / max(across, down))
        size = _scaled_size(across, down, scale, least=min(shorter, LEAST))
        crop, span = scaling.drawn(opened, size, part)
        pixels = np.asarray(crop.resize(size, Image.Resampling.BICUBIC, box=span, reducing_gap=3.0))
    return Photo(pixels, across, down), found


def load_window(
    path: Path,
    box: Sequence[float] | None,
    *,
    margin: float,
    longer: int,
    enlarged: float,
    most: int,
    limit: int = MAX_MEGAPIXELS,
) -> Crop:
    """Decode the part of a photo in and around ``box``, at a scale of its own.

    Args:
        path: the photo.
        box: x1, y1, x2, y2 in its pixels; parts outside the photo are ignored. The whole photo if None.
        margin: how far the part reaches beyond each side of the box, as a fraction of the box's longer side.
        longer: pixels of the longer side of the part after scaling.
        enlarged: largest factor by which the part is enlarged.
        most: longer side of the whole photo in pixels above which it is decoded at a smaller scale.
        limit: as in ``load``.

    Raises:
        UnreadableError: the photo cannot be read or decoded, or the box is outside it.
    """
    with _reading(path, limit) as (opened, _):
        (width, height), transposed = opening.shown_size(opened)
        x1, y1, x2, y2 = (0.0, 0.0, float(width), float(height)) if box is None else map(float, box)
        around = margin * max(x2 - x1, y2 - y1)
        left, top = max(x1 - around, 0.0), max(y1 - around, 0.0)
        right, bottom = min(x2 + around, float(width)), min(y2 + around, float(height))
        if not (right - left >= 1 and bottom - top >= 1):
            raise ValueError(f"{width} x {height} pixels, and the box {listed((x1, y1, x2, y2))} is outside them")
        scale = min(longer / max(right - left, bottom - top), enlarged * min(1.0, most / max(width, height)))
        coarse = _scaled_size(width, height, min(scale, most / max(width, height)), least=LEAST)
        drafted = opening.draft(opened, coarse[::-1] if transposed else coarse)
        picture, span = scaling.drawn(drafted, _scaled_size(width, height, scale, least=LEAST))
        across, down = (span[2] - span[0]) / width, (span[3] - span[1]) / height
        size = _scaled_size(right - left, bottom - top, scale, least=LEAST)
        part = (
            *(span[0] + left * across, span[1] + top * down),
            *(min(span[0] + right * across, span[2]), min(span[1] + bottom * down, span[3])),
        )
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))
    return Crop(pixels, (left, top, right, bottom), width, height)


def load_full(path: Path, *, limit: int = MAX_MEGAPIXELS) -> Image.Image:
    """Decode a photo at full size, RGB, as a viewer shows it; ``limit`` as in ``load``.

    Raises:
        InputError: there is no such photo.
        UnreadableError: the photo cannot be read or decoded.
    """
    with _reading(_existing(path), limit) as (opened, _):
        picture, _ = scaling.drawn(opened, opening.shown_size(opened)[0])
        return picture.copy() if picture is opened.picture else picture  # which will be closed


@contextmanager
def _reading(path: Path, limit: int) -> Iterator[tuple[Opened, Content]]:
    """Open a photo; errors while the context is open become UnreadableError, but for those of the user's input."""
    file, content = read(path, limit)
    try:
        with file, opening.identify(file, limit) as opened:
            yield opened, content
            check_unchanged(file, content)
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error, content) from error


def _existing(path: Path) -> Path:
    if not os.path.lexists(path):
        raise InputError(f"{shown(str(path))}: no such photo; check the spelling")
    return path


def _scaled_size(width: float, height: float, scale: float, *, least: int) -> tuple[int, int]:
    return max(least, round(width * scale)), max(least, round(height * scale))
