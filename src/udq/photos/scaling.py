"""An opened photo -> RGB as a viewer shows it, reduced on the way, so that as little as possible is in memory at once.

A photo passes in bands of rows through colours, transparency and the first step of scaling: the mean of whole blocks,
which is the step that Pillow's ``resize`` with a ``reducing_gap`` begins with, so that its result stays the same. A
large TIFF is read in these bands (``tiff``); any other photo is decoded as a whole before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from PIL import Image, ImageFile, TiffImagePlugin

from udq.photos import colour
from udq.photos.formats import levels, opening, tiff
from udq.photos.formats.opening import Opened
from udq.types import Box

# Blocks are so small that at least this many of them are left for each pixel: as in ``resize``.
_REDUCING_GAP = 3.0
# Pixels of a band of a photo that was decoded as a whole.
_BAND = 2_000_000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientation that undoes another one.
_UNDONE = {6: 8, 8: 6}

_Numbers = TypeVar("_Numbers", tuple[int, int, int, int], tuple[float, float, float, float])
_Pixels: TypeAlias = tuple[int, int, int, int]
# Rows from one to another -> pictures of the full width that hold them, in order, each with its first row.
_Bands: TypeAlias = Callable[[int, int], Iterator[tuple[int, Image.Image]]]


@dataclass(frozen=True)
class _Stored:
    """A photo as it is stored, or a smaller level of it.

    Attributes:
        width, height: pixels of what ``bands`` yields.
        span: where the photo is in them, x1, y1, x2, y2.
        turn: the orientation that is still to be applied.
        bands: reads rows.
    """

    width: int
    height: int
    span: Box
    turn: int
    bands: _Bands


def drawn(opened: Opened, size: tuple[int, int], part: _Pixels | None = None) -> tuple[Image.Image, Box]:
    """Return a photo, or a part of it, in RGB, at a scale between its own and a few times the wanted one.

    Args:
        opened: the photo.
        size: the wanted width and height in pixels, as shown.
        part: x1, y1, x2, y2 in whole pixels of the photo as shown, which must not be drafted; the whole photo if None.

    Returns:
        The picture, and where in it the photo or part is, x1, y1, x2, y2 in its pixels. Scaling that box to ``size``
        by ``resize`` with a ``reducing_gap`` of 3 gives what scaling the whole photo gives.
    """
    stored = _in_bands(opened, None if part else size) or _as_whole(opened)
    whole, turn = (stored.width, stored.height), stored.turn
    inside = _turned(part, _turned_size(whole, turn), _UNDONE.get(turn, turn)) if part else (0, 0, *whole)
    x1, y1, x2, y2 = inside
    left, top, right, bottom = (0.0, 0.0, float(x2 - x1), float(y2 - y1)) if part else stored.span
    columns, rows = _turned_size(size, turn)
    across, down = int((right - left) / columns / _REDUCING_GAP) or 1, int((bottom - top) / rows / _REDUCING_GAP) or 1
    bands = (_rgb(_cut(band, first, inside), opened) for first, band in stored.bands(y1, y2))
    picture = _reduced(bands, (x2 - x1, y2 - y1), (across, down))
    span = left / across, top / down, right / across, bottom / down
    if turn not in _TURNS:
        return picture, span
    return picture.transpose(_TURNS[turn]), _turned(span, picture.size, turn)


def _in_bands(opened: Opened, size: tuple[int, int] | None) -> _Stored | None:
    """Return a large TIFF, to be read in bands, for the size that the whole will be scaled to; None for others."""
    if opened.raw is not None or not isinstance(opened.picture, TiffImagePlugin.TiffImageFile):
        return None
    turn = opening.orientation(opened)
    level = tiff.level_for(opened.picture, opened.file, size and _turned_size(size, turn))
    if level is None:
        return None
    return _Stored(level.width, level.height, (0.0, 0.0, float(level.width), float(level.height)), turn, level.bands)


def _as_whole(opened: Opened) -> _Stored:
    """Decode a photo, or what was drafted of it, to 8 bits."""
    picture = _read(opened.picture)
    if levels.is_deep(picture):
        picture = levels.grey(picture, levels.samples(opened.picture))
    elif opened.raw is not None and levels.is_dark(picture):
        picture = levels.joined(picture, _lower_bytes(opened), opened.raw)
    span = opened.span
    if span is not None:
        picture = _padded(picture)
    width, height = picture.size
    # Below that, or if there is nothing to do but to scale it, one band is as small as several.
    plain = picture.mode == "RGB" and not picture.has_transparency_data and "icc_profile" not in opened.picture.info
    rows = height if plain else max(1, _BAND // width)

    def bands(top: int, bottom: int) -> Iterator[tuple[int, Image.Image]]:
        for first in range(top, bottom, rows):
            last = min(first + rows, bottom)
            yield first, picture if (first, last) == (0, height) else _cropped(picture, (0, first, width, last))

    return _Stored(width, height, span or (0.0, 0.0, float(width), float(height)), opening.orientation(opened), bands)


def _read(opened: ImageFile.ImageFile) -> Image.Image:
    """Read the pixels."""
    size = opened.size
    opened.load()
    if opened.format == "HEIF" and opened.size != size:
        raise ValueError("damaged: its pixels are {} x {}, its header says {} x {}".format(*opened.size, *size))
    return opened


def _lower_bytes(opened: Opened) -> Image.Image | None:
    """Read a photo of 16-bit colours again, for the lower byte of each sample; None if Pillow cannot read it."""
    if levels.hides_lower_bytes(opened.picture):
        return None
    with opened.again() as again:
        levels.read_lower_bytes(again.picture)
        return _read(again.picture)


def _rgb(picture: Image.Image, opened: Opened) -> Image.Image:
    """Convert any colour mode to 8-bit sRGB, on white where it is transparent."""
    picture = colour.ink(picture, opened.picture)
    profile = opened.picture.info.get("icc_profile")
    if picture.has_transparency_data:
        if picture.mode not in ("LA", "RGBA"):
            picture = picture.convert("RGBA")
        picture = colour.to_srgb(picture, profile)
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return colour.to_srgb(picture, profile)


def _cut(band: Image.Image, first: int, inside: _Pixels) -> Image.Image:
    """Return what is inside a box of a band that begins with the row ``first``."""
    x1, y1, x2, y2 = inside
    box = x1, max(y1 - first, 0), x2, min(y2 - first, band.height)
    return band if box == (0, 0, *band.size) else _cropped(band, box)


def _reduced(bands: Iterator[Image.Image], size: tuple[int, int], factor: tuple[int, int]) -> Image.Image:
    """Return bands of RGB put together, as the means of blocks of ``factor`` pixels; those at the end may be smaller.

    Args:
        bands: pictures of the full width, from top to bottom.
        size: width and height in pixels of all of them.
        factor: width and height of a block in pixels.
    """
    width, height = size
    across, down = factor
    found, rest, done = None, None, 0
    for band in bands:
        if rest is not None:
            band = _stacked(rest, band)
        if done + band.height < height:
            whole = band.height // down * down
            rest = _cropped(band, (0, whole, width, band.height)) if whole < band.height else None
        else:
            whole, rest = band.height, None
        if not whole:
            continue
        means = band if factor == (1, 1) else Image.Image.reduce(band, factor, (0, 0, width, whole))
        if whole == height:
            return means
        if found is None:
            found = Image.new("RGB", (-(-width // across), -(-height // down)))
        found.paste(means, (0, done // down))
        done += whole
    assert found is not None
    return found


def _stacked(upper: Image.Image, lower: Image.Image) -> Image.Image:
    both = Image.new("RGB", (lower.width, upper.height + lower.height))
    both.paste(upper, (0, 0))
    both.paste(lower, (0, upper.height))
    return both


def _padded(picture: Image.Image) -> Image.Image:
    """Return a picture with its last column and row repeated."""
    width, height = picture.size
    wider = _cropped(picture, (0, 0, width, height), (width + 1, height + 1))
    wider.paste(picture, (0, 0))
    wider.paste(_cropped(picture, (width - 1, 0, width, height)), (width, 0))
    wider.paste(_cropped(wider, (0, height - 1, width + 1, height)), (0, height))
    return wider


def _cropped(picture: Image.Image, box: _Pixels, size: tuple[int, int] | None = None) -> Image.Image:
    """Return what ``Image.crop`` does, without its warning about crops above 89 megapixels; ``size`` scales it."""
    return picture.resize(size or (box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST, box=box)


def _turned_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    return size[::-1] if turn in (5, 6, 7, 8) else size


def _turned(box: _Numbers, size: tuple[int, int], turn: int) -> _Numbers:
    """Return where a box of a picture of that size is when an orientation has been applied."""
    x1, y1, x2, y2 = box
    width, height = _turned_size(size, turn)
    if turn in (5, 6, 7, 8):
        x1, y1, x2, y2 = y1, x1, y2, x2
    if turn in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2
