"""Photos: find them, decode them as a viewer shows them, and bring them to the scale the network sees.

A photo comes out as RGB with EXIF orientation applied, transparency laid on white, the first frame of an
animation, 16-bit levels brought to 8 bits. What cannot be decoded raises ImageError with a reason in one line.
A decoder that crashes takes its process along: what reads photos of strangers in bulk does it by ``decode``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from udq.common.text import shown
from udq.errors import InputError
from udq.photos.boxes import check_box, listed
from udq.photos.source import MAX_PIXELS, image_error, open_file, read
from udq.types import Box

# Boxes are kept as uint16 pixels; it is JPEG's own limit too.
MAX_SIDE = 65_535
# Pixels of a scaled photo's side at least: of less, a network of stride 32 has nothing left. A panorama longer than 14
# times its height is stretched to it, which boxes do not notice: they are kept in pixels of the photo.
_THINNEST = 32
# Rows of a photo of 16 or 32 bits that are brought to 8 bits at a time.
_ROWS = 256

# Formats of the suffixes above, whatever a file's name says: the fewer decoders strangers' files reach the better,
# and Pillow's for PostScript runs another program. The decoders of others are not even imported, which takes longer.
_PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "GIF": "Gif",
    "TIFF": "Tiff",
    "PPM": "Ppm",
    "JPEG2000": "Jpeg2K",
    "AVIF": "Avif",
}
for _plugin in _PLUGINS.values():
    with contextlib.suppress(ImportError):  # an older Pillow has none of AVIF
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
_FORMATS = tuple(name for name in _PLUGINS if name in Image.OPEN)

# Our own limit above is stricter than Pillow's error and does not print to a user's terminal.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Photo:
    """A decoded photo, scaled for the network.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, after scaling.
        width, height: pixels of the photo as a viewer shows it, before scaling.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int

    def mirrored(self) -> Photo:
        """Return the photo with left and right exchanged."""
        return Photo(self.pixels[:, ::-1], self.width, self.height)


@dataclass(frozen=True)
class Crop:
    """A decoded part of a photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, after scaling.
        window: which part of the photo they show, x1, y1, x2, y2 in pixels of it.
        width, height: pixels of the whole photo as a viewer shows it.
    """

    pixels: NDArray[np.uint8]
    window: Box
    width: int
    height: int


LoadCrop = Callable[..., tuple[Photo, Box]]
"""Decodes the inside of a box: ``load_crop``, or the method of a ``Decoder`` of that name."""


def scale_for(width: float, height: float, *, shorter: int, longer: int) -> float:
    """Return the factor that brings the shorter side to ``shorter`` but the longer to at most ``longer`` (sec. 4.2)."""
    return min(shorter / min(width, height), longer / max(width, height))


def load(path: Path, *, shorter: int, longer: int) -> Photo:
    """Decode a photo and scale it (sec. 4.2); raises ImageError where that is not possible."""
    return decode(read(path)[0], path, shorter=shorter, longer=longer)


def decode(data: bytes, path: Path, *, shorter: int, longer: int) -> Photo:
    """Decode the bytes of a photo and scale it (sec. 4.2); raises ImageError, which names ``path``, where it cannot."""
    try:
        with _open(io.BytesIO(data)) as opened:
            (width, height), turned = _shown_size(opened)
            scale = scale_for(width, height, shorter=shorter, longer=longer)
            size = _scaled_size(width, height, scale, thinnest=min(shorter, _THINNEST))
            # A JPEG decodes straight to 1/2, 1/4 or 1/8: large photos cost little more than small ones.
            opened.draft("RGB", size[::-1] if turned else size)
            picture = _as_shown(opened)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    except Exception as error:
        raise image_error(path, error) from error
    return Photo(pixels, width, height)


def shown_size(path: Path) -> tuple[int, int]:
    """Return width and height of a photo as a viewer shows it; raises ImageError where that is not possible.

    The header is enough but for a PNG, which may keep its orientation behind its pixels and is decoded: damage
    further on is left to ``load``.
    """
    try:
        with open_file(path) as file, _open(file) as opened:
            return _shown_size(opened)[0]
    except Exception as error:
        raise image_error(path, error) from error


def load_crop(path: Path, box: Sequence[float] | None, *, shorter: int, longer: int, least: int) -> tuple[Photo, Box]:
    """Decode the part of a photo inside ``box``, at the scale at which ``load`` shows the whole photo.

    Nothing outside the box enters the crop: the protocol of object instance search forbids context.
    A crop whose shorter side would fall under ``least`` pixels is enlarged to it.

    Returns:
        The crop, whose width and height are those of the box, and the box (the whole photo for None).
    """
    picture = load_full(path)
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    found = whole if box is None else check_box(box, picture.width, picture.height)
    x1, y1, x2, y2 = (round(side) for side in found)
    cut = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
    if cut[2] > picture.width or cut[3] > picture.height:
        cut = (min(x1, picture.width - 1), min(y1, picture.height - 1), picture.width, picture.height)
    crop = picture.crop(cut)
    scale = scale_for(picture.width, picture.height, shorter=shorter, longer=longer)
    scale = max(scale, min(least / min(crop.size), longer / max(crop.size)))
    size = _scaled_size(*crop.size, scale, thinnest=min(shorter, _THINNEST))
    pixels = np.asarray(crop.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    return Photo(pixels, *crop.size), found


def load_window(
    path: Path, box: Sequence[float] | None, *, margin: float, longer: int, enlarged: float, most: int
) -> Crop:
    """Decode the part of a photo in and around ``box``, at a scale of its own.

    Args:
        path: the photo.
        box: x1, y1, x2, y2 in its pixels; what lies outside the photo is left out. The whole photo where None.
        margin: how far the part reaches beyond the box on each side, in parts of the box's longer side.
        longer: pixels of the longer side of the part once scaled.
        enlarged: it is enlarged so many times at most.
        most: pixels of the whole photo's longer side from which on it is decoded at a smaller scale.

    Raises:
        ImageError: the photo cannot be decoded, or nothing of the box is in it.
    """
    data, _ = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            (width, height), turned = _shown_size(opened)
            x1, y1, x2, y2 = (0.0, 0.0, float(width), float(height)) if box is None else map(float, box)
            around = margin * max(x2 - x1, y2 - y1)
            left, top = max(x1 - around, 0.0), max(y1 - around, 0.0)
            right, bottom = min(x2 + around, float(width)), min(y2 + around, float(height))
            if not (right - left >= 1 and bottom - top >= 1):
                raise ValueError(f"{width} x {height} pixels, and the box {listed((x1, y1, x2, y2))} is outside them")
            scale = min(longer / max(right - left, bottom - top), enlarged * min(1.0, most / max(width, height)))
            coarse = _scaled_size(width, height, min(scale, most / max(width, height)), thinnest=_THINNEST)
            opened.draft("RGB", coarse[::-1] if turned else coarse)
            picture = _as_shown(opened)
            across, down = picture.width / width, picture.height / height
            size = _scaled_size(right - left, bottom - top, scale, thinnest=_THINNEST)
            part = (left * across, top * down, right * across, bottom * down)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))
    except Exception as error:
        raise image_error(path, error) from error
    return Crop(pixels, (left, top, right, bottom), width, height)


def load_full(path: Path) -> Image.Image:
    """Decode a photo in full, RGB, as a viewer shows it; raises ImageError where that is not possible."""
    if not os.path.lexists(path):
        raise InputError(f"{shown(str(path))}: no such photo; check the spelling")
    data, _ = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            return _as_shown(opened)
    except Exception as error:
        raise image_error(path, error) from error


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    if not file.read(1):
        raise ValueError("empty file")
    opened = Image.open(file, formats=_FORMATS)
    width, height = opened.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        opened.close()
        raise ValueError(
            f"{width} x {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels "
            f"and {MAX_SIDE} a side; scale it down"
        )
    return opened


def _shown_size(opened: ImageFile.ImageFile) -> tuple[tuple[int, int], bool]:
    """Return width and height as a viewer shows them, and whether the file holds them the other way round."""
    width, height = opened.size
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        # Pillow has turned the size of a TIFF already, but not that of other formats.
        width, height = opened.tag_v2[TiffImagePlugin.IMAGEWIDTH], opened.tag_v2[TiffImagePlugin.IMAGELENGTH]
    turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return ((height, width) if turned else (width, height)), turned


def _as_shown(opened: ImageFile.ImageFile) -> Image.Image:
    """Apply orientation and bring any colour mode to 8-bit RGB, with no more copies than that takes."""
    opened.load()  # a PNG may say its orientation behind its pixels
    turned = opened.getexif().get(0x0112, 1) != 1
    picture: Image.Image = ImageOps.exif_transpose(opened) if turned else opened
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        if picture.mode != "RGBA":
            picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture)
    highest = levels.max(initial=0)
    # 16-bit greys span 0..65535; Pillow's own conversion would clip them at 255.
    top = 65535.0 if picture.mode.startswith("I") and highest > 255 else 255.0
    if picture.mode == "F" and highest <= 1.0:
        top = 1.0
    grey = np.empty(levels.shape, np.uint8)
    for start in range(0, len(levels), _ROWS):
        rows = slice(start, start + _ROWS)
        exact = np.nan_to_num(levels[rows].astype(np.float64)) * (255.0 / top)
        grey[rows] = np.clip(exact, 0, 255).round()
    return Image.fromarray(grey)


def _scaled_size(width: float, height: float, scale: float, *, thinnest: int) -> tuple[int, int]:
    return max(thinnest, round(width * scale)), max(thinnest, round(height * scale))
