"""Photos: find them, decode them as a viewer shows them, and bring them to the scale the network sees.

A photo comes out as RGB with EXIF orientation applied, transparency laid on white, the first frame of an
animation, 16-bit levels brought to 8 bits. What cannot be decoded raises ImageError with a reason in one line.
A decoder that crashes takes its process along: what reads photos of strangers in bulk does it by ``decode``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import math
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from udq.common.text import shown
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
# 512 MiB: the raw pixels of the largest photo fit in; a file is read whole, so that it is the same to the end.
MAX_BYTES = 512 * 2**20
# Pixels of a scaled photo's side at least: of less, a network of stride 32 has nothing left. A panorama longer than 14
# times its height is stretched to it, which boxes do not notice: they are kept in pixels of the photo.
_THINNEST = 32
# Of a digest: two different photos of a million have the same one with a probability of 1e-27.
DIGEST_BYTES = 16
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
class Source:
    """A photo to index.

    Attributes:
        name: the photo's name in the collection: its path below the indexed folder, with ``/``.
        path: where it is.
    """

    name: str
    path: Path

    @property
    def root(self) -> str:
        """The folder, absolute, that the name is relative to."""
        # Not resolved: a link to a photo is found by its own name.
        return self.path.absolute().as_posix().removesuffix(self.name)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self.path)

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """Give a file of it, for as long as the context is open; raises ImageError where there can be none."""
        yield self.path

    def state(self) -> str:
        """Return what changes with the file."""
        try:
            status = self.path.stat()
        except OSError:  # whoever reads it learns why
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Content:
    """What a file holds, told from its bytes: two files of one content are one photo.

    Attributes:
        size: bytes.
        modified: time of its last change in nanoseconds since 1970, as the file system has it.
        digest: BLAKE2b of the bytes, 16 bytes long.
    """

    size: int
    modified: int
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"digest: expected {DIGEST_BYTES} bytes, found {len(self.digest)}")


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
class View:
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


def find(arguments: Sequence[str | os.PathLike[str]]) -> tuple[list[Source], int]:
    r"""Return the photos that files and folders name, by name, and how many other files were passed over.

    A photo in a folder is named by its path below that folder, a photo given itself by its file name. A name is what
    the file system says, byte by byte: ``a.JPG`` and ``A.jpg`` are two photos, and bytes that are not UTF-8 are lone
    surrogates (``names.shown`` makes them readable). Hidden files are passed over. A link to a file is a photo of the
    link's name; a linked folder inside a folder is not entered, since it may lead back.

    What has a photo's suffix and turns out to be none (a FIFO, a link to nothing) is a source too, and so is a folder
    inside that cannot be looked into: whoever reads it learns why, and nothing vanishes.

    Raises:
        InputError: a path that does not exist or a folder that cannot be looked into, a file of unknown suffix, or two
            photos of one name.
        NoPhotosError: no photo at all.
    """
    sources: dict[str, Source] = {}
    passed_over = 0
    for argument in map(Path, arguments):
        if os.path.isdir(argument):  # noqa: PTH112  (Path.is_dir raises for a name that is too long)
            named = []
            for path, is_photo in _walk(argument):
                if is_photo:
                    named.append(Source(path.relative_to(argument).as_posix(), path))
                else:
                    passed_over += 1
        elif os.path.lexists(argument):
            if argument.suffix.lower() not in SUFFIXES:
                raise InputError(
                    f"{shown(str(argument))}: expected a photo ({', '.join(sorted(SUFFIXES))}), "
                    f"found the suffix '{shown(argument.suffix)}'; convert it or leave it out"
                )
            named = [Source(argument.name, argument)]
        else:
            raise InputError(f"{shown(str(argument))}: no such file or folder; check the spelling")
        for source in named:
            before = sources.setdefault(source.name, source)
            if before is not source and os.path.realpath(before.path) != os.path.realpath(source.path):
                raise InputError(
                    f"two photos would be named '{shown(source.name)}': {shown(str(before.path))} and "
                    f"{shown(str(source.path))}; index the folder above both, or rename one"
                )
    if not sources:
        raise NoPhotosError(
            f"{', '.join(shown(str(argument)) for argument in arguments)}: no photo found ({passed_over} other files); "
            f"expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return [sources[name] for name in sorted(sources)], passed_over


def _walk(folder: Path) -> list[tuple[Path, bool]]:
    """Return every file below a folder and whether it is to be read as a photo, and folders that cannot be entered."""
    found: list[tuple[Path, bool]] = []

    def closed(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InputError(f"{shown(str(folder))}: {_reason(error)}; expected a folder of photos") from error
        found.append((Path(error.filename), True))

    for parent, folders, files in os.walk(folder, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        found += [(path, path.suffix.lower() in SUFFIXES) for path in paths]
    return found


def scale_for(width: float, height: float, *, shorter: int, longer: int) -> float:
    """Return the factor that brings the shorter side to ``shorter`` but the longer to at most ``longer`` (sec. 4.2)."""
    return min(shorter / min(width, height), longer / max(width, height))


def content(path: Path) -> Content:
    """Return what a file holds, without decoding it; raises ImageError where it cannot be read or is too large."""
    return read(path)[1]


def read(path: Path) -> tuple[bytes, Content]:
    """Return a file's bytes and what they are; raises ImageError where it cannot be read or is too large."""
    try:
        with open_file(path) as file:
            # Asked for before the bytes: a change while they are read gives another time than the one kept here.
            modified = os.fstat(file.fileno()).st_mtime_ns
            data = file.read()
    except Exception as error:
        raise _image_error(path, error) from error
    return data, Content(len(data), modified, hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())


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
        raise _image_error(path, error) from error
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
    size = _scaled_size(*crop.size, scale, thinnest=min(shorter, _THINNEST))
    pixels = np.asarray(crop.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))
    return Photo(pixels, *crop.size), found


def load_window(
    path: Path, box: Sequence[float] | None, *, margin: float, longer: int, enlarged: float, most: int
) -> View:
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
                raise ValueError(f"{width} x {height} pixels, and the box {_listed((x1, y1, x2, y2))} is outside them")
            scale = min(longer / max(right - left, bottom - top), enlarged * min(1.0, most / max(width, height)))
            coarse = _scaled_size(width, height, min(scale, most / max(width, height)), thinnest=_THINNEST)
            opened.draft("RGB", coarse[::-1] if turned else coarse)
            picture = _as_shown(opened)
            across, down = picture.width / width, picture.height / height
            size = _scaled_size(right - left, bottom - top, scale, thinnest=_THINNEST)
            part = (left * across, top * down, right * across, bottom * down)
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))
    except Exception as error:
        raise _image_error(path, error) from error
    return View(pixels, (left, top, right, bottom), width, height)


def load_full(path: Path) -> Image.Image:
    """Decode a photo in full, RGB, as a viewer shows it; raises ImageError where that is not possible."""
    if not os.path.lexists(path):
        raise InputError(f"{shown(str(path))}: no such photo; check the spelling")
    data, _ = read(path)
    try:
        with _open(io.BytesIO(data)) as opened:
            return _as_shown(opened)
    except Exception as error:
        raise _image_error(path, error) from error


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return ``box`` as floats, or raise InputError where it is not x1,y1,x2,y2 inside a photo of that size."""
    x1, y1, x2, y2 = check_shape(box)
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise InputError(f"box {_listed(box)}: expected a box inside the photo, which is {width} x {height} pixels")
    return x1, y1, x2, y2


def check_shape(box: Sequence[float]) -> Box:
    """Return ``box`` as floats, or raise InputError where it is not x1,y1,x2,y2 of any photo."""
    found = _listed(box)
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise InputError(f"box {found}: expected four finite numbers x1,y1,x2,y2")
    x1, y1, x2, y2 = map(float, box)
    if x1 >= x2 or y1 >= y2:
        raise InputError(
            f"box {found}: expected x1 < x2 and y1 < y2 (left, top, right, bottom), found it inverted or empty"
        )
    return x1, y1, x2, y2


def _listed(box: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in box)


def open_file(path: Path) -> BinaryIO:
    """Open a file of bytes that are there: what would wait for someone to write, or act when opened, is refused.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, or larger than ``MAX_BYTES``.
    """
    # A device is not even opened; what replaces a file after this look is found out by the second one.
    _check_regular(path, path.stat())
    no_wait = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | no_wait)
    file = os.fdopen(descriptor, "rb")
    try:
        found = os.fstat(descriptor)
        _check_regular(path, found)
        if found.st_size > MAX_BYTES:
            raise ValueError(
                f"{found.st_size / 2**20:,.0f} MiB, more than the limit of {MAX_BYTES // 2**20} MiB a file; "
                "scale it down or compress it"
            )
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        os.scandir(path).close()  # a folder among the photos is one that could not be looked into: this says why
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")


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


def _image_error(path: Path, error: Exception) -> ImageError:
    return ImageError(f"{shown(str(path))}: {_reason(error, path)}")


# What Pillow says of a damaged file in words; any other error is a decoder that did not expect the damage.
_IN_WORDS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error)


def _reason(error: Exception, path: Path | None = None) -> str:
    """Return in one line why a file cannot be read or decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "not a photo this decoder knows, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the limit of {MAX_PIXELS // 10**6} megapixels; scale it down"
    if isinstance(error, MemoryError):
        return "takes more memory to decode than there is; scale it down"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError) and path is not None and path.is_symlink():
        return "a link to a file that is not there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = str(error).splitlines()[0] if str(error) else ""
    return words if words and isinstance(error, _IN_WORDS) else f"damaged: {type(error).__name__} {words}".rstrip()
