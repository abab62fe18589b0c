"""The views of a photo: the whole of it at the coarse scale, then finer scales in overlapping tiles.

A network recognises objects of some range of sizes in pixels. Scaled to one size, a photo of 12 megapixels shows small
objects too small to be recognised; in a finer view they have the pixels that a large object has in the coarse one. The
scale of each level is twice that of the level before, as in an image pyramid, up to the scale at which the smallest
objects that are wanted have ``VISIBLE`` pixels, or up to the photo's own pixels. Tiles bound the memory that a level
takes. Parts of a photo without contrast, such as sky and blank walls, are left out of the finer views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from udq.config import ImageConfig
from udq.types import Box

VISIBLE = 134.4
"""Side in pixels from which on an object is recognised: two fifths of the shorter side of the default coarse view."""

# Each level enlarges the one before by this factor. The last one may enlarge less, but not by less than ``_WORTH``: it
# would show hardly more, for more than twice the time.
_STEP = 2.0
_WORTH = 1.5
# Longest side of a tile in pixels, and by how many neighbours overlap: objects up to that size, which is 1.4 times
# ``VISIBLE``, are whole in one of them. Of one of twice ``VISIBLE``, which the level before shows large enough, 85 % of
# each side are.
_TILE, _OVERLAP = 1024, 192
# Contrast is measured in cells of the coarse view of this side in pixels. A cell is blank if its brightness, of 0..255,
# varies by less than ``_BLANK``: the noise of a sky is below that.
_CELL = 16
_BLANK = 16
# Smallest side of a view in pixels: a network of stride 32 has no cell for less.
LEAST = 32


@dataclass(frozen=True)
class View:
    """A part of a photo at one scale.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        window: the part, x1, y1, x2, y2 in pixels of the photo.
        factor: scale of the level, relative to the coarse view.
        area: number of pixels, relative to the coarse view of the whole photo.
        photo: width and height of the whole photo in its own pixels.
    """

    pixels: NDArray[np.uint8]
    window: Box
    factor: float
    area: float
    photo: tuple[int, int]

    @property
    def width(self) -> float:
        """Width of the window in pixels of the photo."""
        return self.window[2] - self.window[0]

    @property
    def height(self) -> float:
        """Height of the window in pixels of the photo."""
        return self.window[3] - self.window[1]


def scale_for(width: float, height: float, *, shorter: int, longer: int) -> float:
    """Return the factor that brings the shorter side to ``shorter``, the longer to at most ``longer`` (sec. 4.2)."""
    return min(shorter / min(width, height), longer / max(width, height))


def levels(width: int, height: int, *, shorter: int, longer: int, smallest: float) -> tuple[float, ...]:
    """Return the scales of the views of a photo, relative to the coarse view: 1, 2, 4, ...

    The last one shows the smallest objects at ``VISIBLE`` pixels, or the photo at its own pixels if it has fewer. It
    is left out if it would be less than 1.5 times the one before.

    Args:
        width, height: size of the photo in pixels.
        shorter, longer: of the coarse view, as in ``scale_for``.
        smallest: side of the smallest objects, in percent of the shorter side of the photo; 0 for the coarse view
            alone.
    """
    found = [1.0]
    if not smallest:
        return tuple(found)
    wanted = min(1.0, VISIBLE / (smallest / 100 * min(width, height)))
    # Rounding keeps a photo of twice the size of the coarse view from missing that level.
    most = round(wanted / scale_for(width, height, shorter=shorter, longer=longer), 2)
    while most >= found[-1] * _STEP:
        found.append(found[-1] * _STEP)
    if most >= found[-1] * _WORTH:
        found.append(most)
    return tuple(found)


def smallest_seen(*, shorter: int, smallest: float) -> float:
    """Return the side of the smallest objects that are recognised, in percent of the shorter side of a large photo.

    In a photo of few pixels they are larger: an object of less than ``VISIBLE`` pixels may be missed in any photo.

    Args:
        shorter, smallest: as in ``levels``.
    """
    in_coarse_view = 100 * VISIBLE / shorter
    return min(smallest, in_coarse_view) if smallest else in_coarse_view


def views_of(pixels: NDArray[np.uint8], size: tuple[int, int], image: ImageConfig) -> Iterator[View]:
    """Yield the views of a photo that was decoded by these settings; ``pixels`` and ``size`` as in ``views``."""
    scales = levels(*size, shorter=image.shorter, longer=image.longer, smallest=image.smallest)
    return views(pixels, size, scales)


def views(pixels: NDArray[np.uint8], size: tuple[int, int], scales: Sequence[float]) -> Iterator[View]:
    """Yield the views of a photo, coarse to fine; the first is the whole photo.

    Args:
        pixels: (h, w, 3) uint8 RGB, the photo at the scale of the last level.
        size: width and height of the photo in its own pixels.
        scales: of the levels, as ``levels`` returns them.
    """
    fine = Image.fromarray(pixels)
    coarse = _scaled(fine, scales[0] / scales[-1])
    whole = 0.0, 0.0, float(size[0]), float(size[1])
    yield View(np.asarray(coarse), whole, 1.0, 1.0, size)
    if len(scales) == 1:
        return
    busy = _busy(coarse)
    for factor in scales[1:]:
        level = np.asarray(_scaled(fine, factor / scales[-1]))
        height, width = level.shape[:2]
        ratio = np.array([size[0] / width, size[1] / height] * 2)
        for tile in _tiles((width, height)):
            part = _shrunk(tile, (width, height), busy)
            if part is not None:
                left, top, right, bottom = part
                x1, y1, x2, y2 = (ratio * part).tolist()
                area = (right - left) * (bottom - top) / (coarse.width * coarse.height)
                yield View(level[top:bottom, left:right], (x1, y1, x2, y2), factor, area, size)


def reduced(pixels: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Return a picture (h, w, 3), uint8 RGB, at a scale smaller by a factor, but no side below ``LEAST``."""
    return np.asarray(_scaled(Image.fromarray(pixels), 1 / factor))


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    """Return a picture at a smaller scale; itself for a factor of 1."""
    if factor == 1:
        return picture
    size = max(LEAST, round(picture.width * factor)), max(LEAST, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _tiles(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return the tiles of a level, x1, y1, x2, y2 in its pixels: few, of equal size, with enough overlap."""
    across, down = (_spans(extent) for extent in size)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _spans(extent: int) -> list[tuple[int, int]]:
    """Divide a side into overlapping spans of equal length."""
    count = max(1, math.ceil((extent - _OVERLAP) / (_TILE - _OVERLAP)))
    length = math.ceil((extent + (count - 1) * _OVERLAP) / count)
    starts = np.linspace(0, extent - length, count).round().astype(int).tolist()
    return [(start, start + length) for start in starts]


def _busy(coarse: Image.Image) -> NDArray[np.bool_]:
    """Return which cells of the coarse view have contrast (rows, columns), and those beside them."""
    grey = np.asarray(coarse.convert("L"))
    rows, columns = (-(-side // _CELL) for side in grey.shape)
    padded = np.pad(grey, ((0, rows * _CELL - grey.shape[0]), (0, columns * _CELL - grey.shape[1])), mode="edge")
    cells = padded.reshape(rows, _CELL, columns, _CELL)
    busy = np.pad(cells.max(axis=(1, 3)).astype(int) - cells.min(axis=(1, 3)) >= _BLANK, 1)
    near = np.zeros((rows, columns), bool)
    for down in range(3):
        for across in range(3):
            near |= busy[down : down + rows, across : across + columns]
    return near


def _shrunk(
    tile: tuple[int, int, int, int], size: tuple[int, int], busy: NDArray[np.bool_]
) -> tuple[int, int, int, int] | None:
    """Return the smallest part of a tile that has all its contrast; None if it is blank.

    A sliver that is too thin for a network is None, too: it is the rim of what the neighbouring tile shows whole.
    """
    rows, columns = busy.shape
    across, down = columns / size[0], rows / size[1]
    left, top = math.floor(tile[0] * across), math.floor(tile[1] * down)
    inside = busy[top : math.ceil(tile[3] * down), left : math.ceil(tile[2] * across)]
    if not inside.any():
        return None
    y, x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    edges = (left + x[0]) / across, (top + y[0]) / down, (left + x[-1] + 1) / across, (top + y[-1] + 1) / down
    x1, y1 = max(tile[0], math.floor(edges[0])), max(tile[1], math.floor(edges[1]))
    x2, y2 = min(tile[2], math.ceil(edges[2])), min(tile[3], math.ceil(edges[3]))
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= LEAST else None
