"""Photo files -> pixels: decoded as a viewer shows them, at the scale of the network.

A photo is decoded to sRGB: EXIF orientation applied, colours converted by the ICC profile (``colour``), more than 8
bits scaled to 8 (``levels``), transparency laid on white, the first frame of an animation. A file that cannot be
decoded raises UnreadableError with the reason in one line.

These functions decode in the calling process, which ends if a decoder crashes. ``sandbox.Decoder`` decodes untrusted
photos, and photos in bulk, in processes of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from udq.common.files import open_regular
from udq.common.text import shown
from udq.errors import InputError
from udq.photos import colour, levels
from udq.photos.boxes import check_box, listed, pixels_of
from udq.photos.pyramid import LEAST, scale_for
from udq.photos.pyramid import levels as levels_of
from udq.photos.source import MAX_BYTES, MAX_PIXELS, Content, read, unreadable
from udq.types import Box

# Boxes are stored as uint16 pixels. It is also JPEG's own limit.
MAX_SIDE = 65_535

# Pillow's format and plugin for each suffix in ``source.SUFFIXES`` but those of HEIF. Files are identified by their
# content, whatever their name. Other decoders stay out of reach of untrusted files (that of PostScript runs another
# program), and not importing them saves time.
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
# Major brands of HEIF files; those of "mif1" and "msf1" may hold AVIF as well, which is tried first.
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
# Opens a file, given its name; whether the first 16 bytes may be of the format (a str is a reason why not).
_Codec: TypeAlias = tuple[Callable[[IO[bytes], str | bytes], ImageFile.ImageFile], Callable[[bytes], bool | str] | None]


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


@dataclass(frozen=True)
class _Opened:
    """A photo whose header was read; a context that closes it.

    Attributes:
        file: the file, which can be read again.
        picture: reads the pixels.
        raw: raw mode of 16-bit colours, of which Pillow reads the upper bytes; None for any other photo.
    """

    file: IO[bytes]
    picture: ImageFile.ImageFile
    raw: str | None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.picture.__exit__(*failure)


def load(path: Path, *, shorter: int, longer: int, smallest: float = 0) -> Photo:
    """Decode a photo and scale it (sec. 4.2), to the finest of its views (``pyramid.levels``).

    A panorama longer than 14 times its height is stretched, which does not affect boxes: they are in pixels of the
    photo.

    Args:
        path: the file.
        shorter: pixels of the shorter side of the coarse view.
        longer: limit of its longer side, which takes precedence.
        smallest: side of the smallest objects, in percent of the shorter side; 0 for the coarse view.

    Raises:
        UnreadableError: the photo cannot be read or decoded.
    """
    data, content = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            (width, height), transposed = _shown_size(opened)
            scale = scale_for(width, height, shorter=shorter, longer=longer)
            scale *= levels_of(width, height, shorter=shorter, longer=longer, smallest=smallest)[-1]
            size = _scaled_size(width, height, scale, least=min(shorter, LEAST))
            _draft(opened, size[::-1] if transposed else size)
            picture = _as_shown(opened)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    except Exception as error:
        raise unreadable(path, error, content) from error
    return Photo(pixels, width, height, content)


def shown_size(path: Path) -> tuple[int, int]:
    """Return width and height of a photo as a viewer shows it; raises UnreadableError if that is not possible.

    Reads the header alone, except for a PNG, whose orientation may follow the pixels: damage in the pixels of other
    formats is only found by ``load``.
    """
    try:
        with open_regular(path, limit=MAX_BYTES, follow=True) as file, _open(file) as opened:
            return _shown_size(opened)[0]
    except Exception as error:
        raise unreadable(path, error) from error


def load_crop(
    path: Path, box: Sequence[float] | None, *, shorter: int, longer: int, least: int, side: int | None = None
) -> tuple[Photo, Box]:
    """Decode the part of a photo inside ``box``, at the scale at which ``load`` returns the whole photo, or its own.

    Nothing outside the box enters the crop: the protocol of object instance search forbids context.

    Args:
        path: the photo.
        box: x1, y1, x2, y2 in its pixels; the whole photo if None.
        shorter, longer: as in ``load``.
        least: a crop whose shorter side would be smaller is enlarged to these pixels, within ``longer``.
        side: root of the area of the crop in pixels, whatever the scale of the photo; its longer side is at most
            four times that. None for the scale of the photo.

    Returns:
        The crop, whose width and height are those of the box, and the box (the whole photo for None).

    Raises:
        InputError: there is no such photo, or the box is not inside it.
        UnreadableError: the photo cannot be read or decoded.
    """
    picture = load_full(path)
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    found = whole if box is None else check_box(box, picture.width, picture.height)
    crop = _cropped(picture, pixels_of(found, picture.width, picture.height))
    if side is None:
        scale = scale_for(picture.width, picture.height, shorter=shorter, longer=longer)
        scale = max(scale, min(least / min(crop.size), longer / max(crop.size)))
    else:
        scale = min(side / math.sqrt(crop.width * crop.height), 4 * side / max(crop.size))
    size = _scaled_size(*crop.size, scale, least=min(shorter, LEAST))
    pixels = np.asarray(crop.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    return Photo(pixels, *crop.size), found


def load_window(
    path: Path, box: Sequence[float] | None, *, margin: float, longer: int, enlarged: float, most: int
) -> Crop:
    """Decode the part of a photo in and around ``box``, at a scale of its own.

    Args:
        path: the photo.
        box: x1, y1, x2, y2 in its pixels; parts outside the photo are ignored. The whole photo if None.
        margin: how far the part reaches beyond each side of the box, as a fraction of the box's longer side.
        longer: pixels of the longer side of the part after scaling.
        enlarged: largest factor by which the part is enlarged.
        most: longer side of the whole photo in pixels above which it is decoded at a smaller scale.

    Raises:
        UnreadableError: the photo cannot be read or decoded, or the box is outside it.
    """
    data, content = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            (width, height), transposed = _shown_size(opened)
            x1, y1, x2, y2 = (0.0, 0.0, float(width), float(height)) if box is None else map(float, box)
            around = margin * max(x2 - x1, y2 - y1)
            left, top = max(x1 - around, 0.0), max(y1 - around, 0.0)
            right, bottom = min(x2 + around, float(width)), min(y2 + around, float(height))
            if not (right - left >= 1 and bottom - top >= 1):
                raise ValueError(f"{width} x {height} pixels, and the box {listed((x1, y1, x2, y2))} is outside them")
            scale = min(longer / max(right - left, bottom - top), enlarged * min(1.0, most / max(width, height)))
            coarse = _scaled_size(width, height, min(scale, most / max(width, height)), least=LEAST)
            _draft(opened, coarse[::-1] if transposed else coarse)
            picture = _as_shown(opened)
            across, down = picture.width / width, picture.height / height
            size = _scaled_size(right - left, bottom - top, scale, least=LEAST)
            part = (left * across, top * down, right * across, bottom * down)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))
    except Exception as error:
        raise unreadable(path, error, content) from error
    return Crop(pixels, (left, top, right, bottom), width, height)


def load_full(path: Path) -> Image.Image:
    """Decode a photo at full size, RGB, as a viewer shows it.

    Raises:
        InputError: there is no such photo.
        UnreadableError: the photo cannot be read or decoded.
    """
    if not os.path.lexists(path):
        raise InputError(f"{shown(str(path))}: no such photo; check the spelling")
    data, content = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            picture = _as_shown(opened)
            return picture.copy() if picture is opened.picture else picture  # which will be closed
    except Exception as error:
        raise unreadable(path, error, content) from error


@cache
def _codecs() -> tuple[_Codec, ...]:
    """Import Pillow's plugins for our formats, and return how each opens a file."""
    for plugin in _PLUGINS.values():
        with contextlib.suppress(ImportError):  # older versions of Pillow have no AVIF
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return (*(Image.OPEN[name] for name in _PLUGINS if name in Image.OPEN), (_open_heif, _is_heif))


def _is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _open_heif(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
    """Open a HEIF photo, whose size is as shown and whose pixels will be: libheif applies the orientation."""
    from pillow_heif import HeifImageFile  # here, since few collections need it

    return HeifImageFile(file, name)  # type: ignore[no-untyped-call, no-any-return]


def _open(file: IO[bytes]) -> _Opened:
    """Identify a photo by its first bytes and read its header; raises ValueError if it exceeds a limit.

    ``Image.open`` is not used because it warns of photos above 89 megapixels, which we allow. A filter for the warning
    would be one of the whole process: that is up to the application.
    """
    start = file.read(16)
    if not start:
        raise ValueError("empty file")
    for open_as, accepts in _codecs():
        if accepts is not None and accepts(start) is not True:
            continue
        file.seek(0)
        try:
            picture = open_as(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # not this format, as ``Image.open`` has it
            continue
        width, height = picture.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            picture.close()
            raise ValueError(
                f"{width} x {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels "
                f"and {MAX_SIDE} a side; scale it down"
            )
        levels.repair(picture)
        return _Opened(file, picture, levels.sixteen_bits(picture))
    raise UnidentifiedImageError


def _shown_size(opened: _Opened) -> tuple[tuple[int, int], bool]:
    """Return width and height as a viewer shows them, and whether they are exchanged in the file."""
    picture = opened.picture
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # Pillow has applied the orientation to the size of a TIFF, but not to that of other formats.
        width, height = picture.tag_v2[TiffImagePlugin.IMAGEWIDTH], picture.tag_v2[TiffImagePlugin.IMAGELENGTH]
    transposed = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return ((height, width) if transposed else (width, height)), transposed


def _draft(opened: _Opened, size: tuple[int, int]) -> None:
    """Let a JPEG be decoded directly to 1/2, 1/4 or 1/8: large photos cost little more than small ones.

    Drafts of HEIF are other pictures, thumbnails that editors may have left as they were.
    """
    if isinstance(opened.picture, JpegImagePlugin.JpegImageFile):
        opened.picture.draft("RGB", size)


def _as_shown(opened: _Opened) -> Image.Image:
    """Apply the orientation and convert any colour mode to 8-bit sRGB, with as few copies as possible."""
    picture = _turned(opened.picture)
    if levels.is_deep(picture):
        picture = levels.grey(picture, levels.samples(opened.picture))
    elif opened.raw is not None and levels.is_dark(picture):
        picture = levels.joined(picture, _lower_bytes(opened), opened.raw)
    picture = colour.ink(picture, opened.picture)
    profile = opened.picture.info.get("icc_profile")
    if picture.has_transparency_data:
        if picture.mode not in ("LA", "RGBA"):
            picture = picture.convert("RGBA")
        picture = colour.to_srgb(picture, profile)
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return colour.to_srgb(picture, profile)


def _lower_bytes(opened: _Opened) -> Image.Image | None:
    """Read a photo of 16-bit colours again, for the lower byte of each sample; None if Pillow cannot read it."""
    if levels.hides_lower_bytes(opened.picture):
        return None
    opened.file.seek(0)
    with _open(opened.file) as again:
        levels.read_lower_bytes(again.picture)
        return _turned(again.picture)


def _turned(opened: ImageFile.ImageFile) -> Image.Image:
    """Read the pixels, and apply the orientation."""
    size = opened.size
    opened.load()  # the orientation of a PNG may follow its pixels
    if opened.format == "HEIF" and opened.size != size:
        raise ValueError("damaged: its pixels are {} x {}, its header says {} x {}".format(*opened.size, *size))
    turned = opened.getexif().get(0x0112, 1) != 1
    return ImageOps.exif_transpose(opened) if turned else opened


def _cropped(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return what ``Image.crop`` does, without its warning about crops above 89 megapixels."""
    return picture.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST, box=box)


def _scaled_size(width: float, height: float, scale: float, *, least: int) -> tuple[int, int]:
    return max(least, round(width * scale)), max(least, round(height * scale))
