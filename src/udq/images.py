"""Photos: find them, decode them as a viewer shows them, and bring them to the scale the network sees.

A photo comes out as RGB with EXIF orientation applied, transparency laid on white, the first frame of an
animation, 16-bit levels brought to 8 bits. What cannot be decoded raises ImageError with a reason in one line.
"""

from __future__ import annotations

import math
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from udq.errors import ImageError, InputError, NoPhotosError
from udq.types import Box

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
        ".avif",
        ".mpo",
    ]
)

# 150 megapixels decode to 450 MB: above any camera's photo, below what would exhaust a small machine.
MAX_PIXELS = 150_000_000
# Boxes are kept as uint16 pixels; it is JPEG's own limit too.
MAX_SIDE = 65_535

# Our own limit above is stricter than Pillow's error and does not print to a user's terminal.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Source:
    """A photo to index.

    Attributes:
        name: the photo's name in the collection: its path below the indexed folder, with ``/``.
        path: where it is.
    """

    name: str
    path: Path


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


def find(arguments: Sequence[str | os.PathLike[str]]) -> tuple[list[Source], int]:
    """Return the photos that files and folders name, by name, and how many other files were passed over.

    A photo in a folder is named by its path below that folder, a photo given itself by its file name.
    Hidden files are passed over. Raises InputError for a path that does not exist, a file of unknown suffix, names
    that are not UTF-8 (JSON has no way to say them), or two photos of one name, and NoPhotosError for no photo at all.
    """
    sources: dict[str, Source] = {}
    passed_over = 0
    for argument in map(Path, arguments):
        if argument.is_dir():
            named = []
            for path in _walk(argument):
                if path.suffix.lower() in SUFFIXES:
                    named.append(Source(path.relative_to(argument).as_posix(), path))
                else:
                    passed_over += 1
        elif argument.is_file():
            if argument.suffix.lower() not in SUFFIXES:
                raise InputError(
                    f"{argument}: expected a photo ({', '.join(sorted(SUFFIXES))}), "
                    f"found the suffix '{argument.suffix}'; convert it or leave it out"
                )
            named = [Source(argument.name, argument)]
        else:
            raise InputError(f"{argument}: no such file or folder; check the spelling")
        for source in named:
            before = sources.setdefault(source.name, source)
            if before.path.resolve() != source.path.resolve():
                raise InputError(
                    f"two photos would be named '{source.name}': {before.path} and {source.path}; "
                    "index the folder above both, or rename one"
                )
    if not sources:
        raise NoPhotosError(
            f"{', '.join(map(str, arguments))}: no photo found ({passed_over} other files); "
            f"expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if unsayable := [name for name in sources if not _is_unicode(name)]:
        raise InputError(
            f"expected names in UTF-8, found {len(unsayable)} photos whose names are not, {min(unsayable)!a} first; "
            "rename them"
        )
    return [sources[name] for name in sorted(sources)], passed_over


def _is_unicode(name: str) -> bool:
    """Whether a file's name is text: bytes that are not come from the file system as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _walk(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    return found


def scale_for(width: float, height: float, *, shorter: int, longer: int) -> float:
    """Return the factor that brings the shorter side to ``shorter`` but the longer to at most ``longer`` (sec. 4.2)."""
    return min(shorter / min(width, height), longer / max(width, height))


def load(path: Path, *, shorter: int, longer: int) -> Photo:
    """Decode a photo and scale it (sec. 4.2); raises ImageError where that is not possible."""
    try:
        with _open(path) as opened:
            (width, height), turned = _shown_size(opened)
            size = _scaled_size(width, height, scale_for(width, height, shorter=shorter, longer=longer))
            # A JPEG decodes straight to 1/2, 1/4 or 1/8: large photos cost little more than small ones.
            opened.draft("RGB", size[::-1] if turned else size)
            picture = _as_shown(opened)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    except _DECODING_ERRORS as error:
        raise _image_error(path, error) from error
    return Photo(pixels, width, height)


def shown_size(path: Path) -> tuple[int, int]:
    """Return width and height of a photo as a viewer shows it; raises ImageError where that is not possible.

    The header is enough but for a PNG, which may keep its orientation behind its pixels and is decoded: damage
    further on is left to ``load``.
    """
    try:
        with _open(path) as opened:
            return _shown_size(opened)[0]
    except _DECODING_ERRORS as error:
        raise _image_error(path, error) from error


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
    pixels = np.asarray(crop.resize(_scaled_size(*crop.size, scale), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return Photo(pixels, *crop.size), found


def load_full(path: Path) -> Image.Image:
    """Decode a photo in full, RGB, as a viewer shows it; raises ImageError where that is not possible."""
    if not path.is_file():
        raise InputError(f"{path}: no such photo; check the spelling")
    try:
        with _open(path) as opened:
            return _as_shown(opened)
    except _DECODING_ERRORS as error:
        raise _image_error(path, error) from error


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return ``box`` as floats, or raise InputError where it is not x1,y1,x2,y2 inside a photo of that size."""
    found = ",".join(f"{value:g}" for value in box)
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise InputError(f"box {found}: expected four finite numbers x1,y1,x2,y2")
    x1, y1, x2, y2 = map(float, box)
    if x1 >= x2 or y1 >= y2:
        raise InputError(
            f"box {found}: expected x1 < x2 and y1 < y2 (left, top, right, bottom), found it inverted or empty"
        )
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise InputError(f"box {found}: expected a box inside the photo, which is {width} x {height} pixels")
    return x1, y1, x2, y2


# What Pillow's decoders raise for broken files; MemoryError for a header that promises the impossible,
# struct.error for EXIF with a text where a number belongs.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
)


def _open(path: Path) -> Image.Image:
    opened = Image.open(path)
    width, height = opened.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        opened.close()
        raise ValueError(
            f"{width} x {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels "
            f"and {MAX_SIDE} a side; scale it down"
        )
    return opened


def _shown_size(opened: Image.Image) -> tuple[tuple[int, int], bool]:
    """Return width and height as a viewer shows them, and whether the file holds them the other way round."""
    width, height = opened.size
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        # Pillow has turned the size of a TIFF already, but not that of other formats.
        width, height = opened.tag_v2[TiffImagePlugin.IMAGEWIDTH], opened.tag_v2[TiffImagePlugin.IMAGELENGTH]
    turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return ((height, width) if turned else (width, height)), turned


def _as_shown(opened: Image.Image) -> Image.Image:
    """Apply orientation and bring any colour mode to 8-bit RGB."""
    picture: Image.Image = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I") or picture.mode == "F":
        levels = np.asarray(picture, dtype=np.float64)
        # 16-bit greys span 0..65535; Pillow's own conversion would clip them at 255.
        top = 65535.0 if picture.mode.startswith("I") and levels.max(initial=0) > 255 else 255.0
        if picture.mode == "F" and levels.max(initial=0) <= 1.0:
            top = 1.0
        grey = np.clip(np.nan_to_num(levels) * (255.0 / top), 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _scaled_size(width: float, height: float, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _image_error(path: Path, error: BaseException) -> ImageError:
    if isinstance(error, UnidentifiedImageError):
        reason = "empty file" if path.stat().st_size == 0 else "not a photo this decoder knows, or damaged at its start"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"more than the limit of {MAX_PIXELS // 10**6} megapixels; scale it down"
    elif isinstance(error, PermissionError):
        reason = "no permission to read it"
    else:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ImageError(f"{path}: {reason}")
