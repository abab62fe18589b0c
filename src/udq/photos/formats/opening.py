"""The header of a photo file: which format it is in, how large the photo is, and how small it can be decoded directly.

The limits of a photo are checked here, before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import IO, Self, TypeAlias

from PIL import Image, ImageFile, Jpeg2KImagePlugin, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from udq.config import LARGEST_MEGAPIXELS
from udq.photos.formats import levels, tiff
from udq.types import Box

# Boxes are stored as uint16 pixels. It is also JPEG's own limit.
MAX_SIDE = 65_535
# A photo that is decoded at a reduced scale has at least this many times the wanted size on each side.
_GAP = 2

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
class Opened:
    """A photo whose header was read; a context that closes it.

    Attributes:
        file: the file, which can be read again.
        limit: the largest number of megapixels.
        picture: reads the pixels.
        raw: raw mode of 16-bit colours, of which Pillow reads the upper bytes; None for any other photo.
        span: where the photo will be in the picture, x1, y1, x2, y2 in its pixels, if it was read at a reduced scale
            whose samples do not lie in the middle of those that they stand for; then the picture was read.
    """

    file: IO[bytes]
    limit: int
    picture: ImageFile.ImageFile
    raw: str | None
    span: Box | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.picture.__exit__(*failure)

    def again(self) -> Opened:
        """Return the photo with its pixels still to be read."""
        self.file.seek(0)
        return identify(self.file, self.limit)


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


def identify(file: IO[bytes], limit: int) -> Opened:
    """Identify a photo by its first bytes and read its header.

    ``Image.open`` is not used because it warns of photos above 89 megapixels, which we allow. A filter for the warning
    would be one of the whole process: that is up to the application.

    Args:
        file: the photo.
        limit: the largest number of megapixels.

    Raises:
        ValueError: it is empty or exceeds a limit.
        UnidentifiedImageError: it is not a photo.
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
        if refusal := _refusal(*picture.size, limit):
            picture.close()
            raise ValueError(refusal)
        levels.repair(picture)
        return Opened(file, limit, picture, levels.sixteen_bits(picture))
    raise UnidentifiedImageError


def _refusal(width: int, height: int, limit: int) -> str | None:
    """Return why a photo of a size is not decoded, and what to do; None if it is."""
    if max(width, height) > MAX_SIDE:
        return f"{width} x {height} pixels, more than the limit of {MAX_SIDE} a side; scale it down"
    megapixels = -(-width * height // 10**6)
    if megapixels <= limit:
        return None
    option = f"index with --max-megapixels {megapixels}, or " if megapixels <= LARGEST_MEGAPIXELS else ""
    return f"{width} x {height} pixels, {megapixels} megapixels, more than the limit of {limit}; {option}scale it down"


def shown_size(opened: Opened) -> tuple[tuple[int, int], bool]:
    """Return width and height as a viewer shows them, and whether they are exchanged in the file."""
    picture = opened.picture
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        # Pillow has applied the orientation to the size of a TIFF, but not to that of other formats.
        width, height = picture.tag_v2[TiffImagePlugin.IMAGEWIDTH], picture.tag_v2[TiffImagePlugin.IMAGELENGTH]
    transposed = orientation(opened) in (5, 6, 7, 8)
    return ((height, width) if transposed else (width, height)), transposed


def orientation(opened: Opened) -> int:
    """Return the EXIF orientation, which is still to be applied; that of a PNG may follow its pixels."""
    found: int = opened.picture.getexif().get(0x0112, 1)
    return found


def draft(opened: Opened, size: tuple[int, int]) -> Opened:
    """Let a photo be decoded directly at a smaller scale, if its format can be.

    A JPEG is decoded to 1/2, 1/4 or 1/8, so that large photos cost little more than small ones; a large JPEG 2000 to
    one of the resolutions that it consists of. Drafts of HEIF are other pictures, thumbnails that editors may have left
    as they were.

    Args:
        opened: the photo.
        size: width and height in pixels, as stored, to which it will be scaled.
    """
    if isinstance(opened.picture, JpegImagePlugin.JpegImageFile):
        opened.picture.draft("RGB", size)
    if isinstance(opened.picture, Jpeg2KImagePlugin.Jpeg2KImageFile):
        return _jpeg2000_draft(opened, size)
    return opened


def _jpeg2000_draft(opened: Opened, size: tuple[int, int]) -> Opened:
    """Read a JPEG 2000 at a lower resolution, if it has one."""
    picture, (width, height) = opened.picture, opened.picture.size
    power = min(width // (_GAP * size[0]), height // (_GAP * size[1])).bit_length() - 1
    # The range of more than 8 bits is that of the whole photo.
    if power < 1 or width * height < tiff.LARGE or levels.is_deep(picture):
        return opened
    step = 2**power
    # Not the plugin's ``reduce``, which rounds the size otherwise than the format does.
    reduced = -(-width // step), -(-height // step)
    tile = picture.tile[0]
    assert isinstance(tile.args, tuple)
    picture._size = reduced
    picture.tile = [tile._replace(extents=(0, 0, *reduced), args=(tile.args[0], power, *tile.args[2:]))]
    try:
        picture.load()
    except OSError:  # it has fewer resolutions, or is damaged
        return opened.again()
    # Wavelets put each sample where the first of those is that it stands for.
    shift = 0.5 - 0.5 / step
    return replace(opened, span=(shift, shift, width / step + shift, height / step + shift))
