"""Samples of more than 8 bits -> 8 bits, by the range that they really use.

Scientific cameras and raw converters store 10, 12 or 14 bits in samples of 16, heights and counts as floats. Scaled by
the type's full range, such a photo would be nearly black. The range is determined for a whole photo:

    integers, none negative   0 to the type's full range if a sample exceeds a quarter of it, else 0 to the largest
                              number of as few bits as the samples need, at least 8: 4095 for 12 bits
    floats, none negative     0 to 1, to 255 or to 65535 if no sample exceeds it and one exceeds a quarter of it, else
                              0 to the largest sample
    some negative             the smallest sample to the largest

So a photo of 16 bits that is not all dark comes out as by division by 257 (grey) or by 256 (colour, as Pillow divides).
Not-a-number and negative infinity are black, infinity is white, and neither counts for the range.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

# Rows that are scaled at a time, to limit the memory.
_ROWS = 256
# A range is the type's unless all samples are within this share of it: 14 of 16 bits.
_FAR = 4
# Levels of the upper bytes that do not show a photo.
_FEW = 8
_FLOAT_RANGES = (1.0, 255.0, 65535.0)
# Raw modes of 16-bit samples that Pillow reads as 8 bits: the upper byte of each.
_BANDS = ("RGB", "RGBA", "RGBX", "R", "G", "B", "A")
_EXCHANGED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
# Grey and transparency: four bytes a pixel, which "RGBA" takes apart.
_GREY_ALPHA = "LA;16B"


@dataclass(frozen=True)
class Samples:
    """How a file stores a grey photo.

    Attributes:
        full: the largest sample of the type; None for floats.
        unsigned: whether the sign bit of Pillow's 32-bit integers belongs to the number.
        white_is_zero: whether 0 is white.
    """

    full: int | None
    unsigned: bool = False
    white_is_zero: bool = False


def is_deep(picture: Image.Image) -> bool:
    """Return whether a picture has one band of more than 8 bits: integers or floats."""
    return picture.mode.startswith("I") or picture.mode == "F"


def samples(opened: ImageFile.ImageFile) -> Samples:
    """Return how a file stores its grey samples."""
    # Pillow scales the integers of JPEG 2000 and PGM to 16 bits.
    full = None if opened.mode == "F" else 65535
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return Samples(full)
    tags = opened.tag_v2
    bits = _first(tags.get(TiffImagePlugin.BITSPERSAMPLE, 16))
    signed = _first(tags.get(TiffImagePlugin.SAMPLEFORMAT, 1)) == 2
    if full is not None:
        full = 2 ** (bits - signed) - 1
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return Samples(full, unsigned=bits == 32 and not signed, white_is_zero=white_is_zero)


def grey(picture: Image.Image, stored: Samples) -> Image.Image:
    """Return a picture of one deep band in 8 bits; raises ValueError if no sample is finite."""
    levels = np.asarray(picture)
    if stored.unsigned and levels.dtype == np.int32:
        levels = levels.view(np.uint32)
    low, high = _range(levels, stored.full)
    found = np.empty(levels.shape, np.uint8)
    for rows in _parts(levels):
        share = (levels[rows].astype(np.float64) - low) * (255.0 / (high - low))
        found[rows] = np.clip(np.nan_to_num(share, posinf=255.0, neginf=0.0), 0, 255).round()
    return Image.fromarray(255 - found if stored.white_is_zero else found)


def repair(opened: ImageFile.ImageFile) -> None:
    """Correct how a photo of 16-bit bands will be read, before it is.

    Pillow takes a band of its own in a TIFF for 8 bits, and leaves no lower bytes of a PPM, which it scales slowly.
    """
    if _is_planar(opened) and _first(opened.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 8)) == 16:
        order = "L" if opened.tag_v2.prefix == b"II" else "B"
        _replace(opened, {band: f"{band};16{order}" for band in "RGBA"})
    elif opened.format == "PPM" and opened.tile[0].codec_name == "ppm" and opened.tile[0].args == ("RGB", 65535):
        opened.tile = [opened.tile[0]._replace(codec_name="raw", args=("RGB;16B", 0, 1))]


def sixteen_bits(opened: ImageFile.ImageFile) -> str | None:
    """Return the raw mode of a photo of 16-bit colours, before it is read; None for any other photo."""
    raw = _raw_mode(opened.tile[0]) if opened.tile else None
    if raw is None:
        return None
    bands, _, sample = raw.partition(";")
    return raw if raw == _GREY_ALPHA or (bands in _BANDS and sample in ("16L", "16B", "16N")) else None


def is_dark(picture: Image.Image) -> bool:
    """Return whether the upper bytes of 16-bit colours use no more than a quarter of their range."""
    return _brightest(picture) < 256 // _FAR


def hides_lower_bytes(opened: ImageFile.ImageFile) -> bool:
    """Return whether the upper bytes are all that can be read: of a TIFF of compressed planes, one for each band."""
    return _is_planar(opened) and opened.info.get("compression") != "raw"


def read_lower_bytes(opened: ImageFile.ImageFile) -> None:
    """Let Pillow read the lower byte of each 16-bit sample instead of the upper, before the photo is read."""
    orders = {f"{bands};16{order}": f"{bands};16{other}" for bands in _BANDS for order, other in _EXCHANGED.items()}
    _replace(opened, {**orders, _GREY_ALPHA: "RGBA"})


def joined(upper: Image.Image, lower: Image.Image | None, raw: str) -> Image.Image:
    """Return a photo of 16-bit colours in 8 bits, by the range of its colours.

    Args:
        upper, lower: the bytes of each sample, of mode RGB or RGBA; None if the lower bytes are hidden.
        raw: the raw mode.

    Raises:
        ValueError: the lower bytes are hidden, and the upper ones have less than eight levels.
    """
    if lower is None:
        lower = upper
        if _brightest(upper) < _FEW:
            raise ValueError(
                f"expected 16-bit colours that use more than {_FEW * 256} levels, or that are stored pixel by pixel, "
                "found fewer in compressed planes; store them pixel by pixel"
            )
    if raw == _GREY_ALPHA:  # grey is in the bands R and G of ``lower``, transparency in B and A
        bands = lower.split()
        lower = Image.merge("RGBA", (bands[1], bands[1], bands[1], bands[3]))
    top = _top_by_upper(_brightest(upper))
    found, low_bytes = np.array(upper), np.asarray(lower)
    colours, alpha = _table(top), None
    if upper.mode == "RGBA" and _top_by_upper(int(found[..., 3].max())) > top:
        alpha = found[..., 3].copy()  # of 16 bits, whatever the colours are of
    for rows in _parts(found):
        found[rows] = colours[found[rows].astype(np.uint16) << 8 | low_bytes[rows]]
    if alpha is not None:
        found[..., 3] = alpha
    return Image.fromarray(found)


def _table(top: int) -> NDArray[np.uint8]:
    """Return the 8-bit level of each 16-bit sample, (65536,) uint8."""
    return (np.arange(2**16).clip(0, top) * (255.0 / top)).round().astype(np.uint8)


def _top_by_upper(brightest: int) -> int:
    """Return the largest number of as few bits as 16-bit samples need, by the highest of their upper bytes."""
    return int(2 ** (8 + brightest.bit_length()) - 1)


def _range(levels: NDArray[np.generic], full: int | None) -> tuple[float, float]:
    """Return the samples that become black and white."""
    lowest, highest = np.inf, -np.inf
    for rows in _parts(levels):
        finite = levels[rows][np.isfinite(levels[rows])]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    if lowest > highest:
        raise ValueError("expected brightness values, found none that is finite")
    if lowest < 0:
        return lowest, highest if highest > lowest else lowest + 1
    if full is not None:
        return 0.0, float(_integer_top(int(highest), full))
    within = [top for top in _FLOAT_RANGES if top / _FAR < highest <= top]
    return 0.0, within[0] if within else highest or 1.0


def _integer_top(highest: int, full: int) -> int:
    return full if highest > full // _FAR else 2 ** max(8, highest.bit_length()) - 1


def _parts(levels: NDArray[np.generic]) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, len(levels), _ROWS))


def _brightest(picture: Image.Image) -> int:
    """Return the highest level of the colours of a picture of mode RGB or RGBA."""
    colours: list[tuple[int, int]] = picture.getextrema()[:3]  # type: ignore[assignment]
    return max(highest for _, highest in colours)


def _is_planar(opened: ImageFile.ImageFile) -> TypeGuard[TiffImagePlugin.TiffImageFile]:
    """Return whether a photo is a TIFF that stores each band by itself."""
    return (
        isinstance(opened, TiffImagePlugin.TiffImageFile)
        and opened.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    )


def _first(tag: object) -> int:
    """Return the first number of a TIFF tag, which holds one for each band."""
    value = tag[0] if isinstance(tag, tuple) else tag
    return value if isinstance(value, int) else 0


def _raw_mode(tile: ImageFile._Tile) -> str | None:
    raw = tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args
    return raw if isinstance(raw, str) else None


def _replace(opened: ImageFile.ImageFile, raw_modes: dict[str, str]) -> None:
    """Exchange the raw modes that a photo's parts are to be read in."""
    tiles = []
    for tile in opened.tile:
        raw = raw_modes.get(_raw_mode(tile) or "")
        if raw is not None:
            tile = tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        tiles.append(tile)
    opened.tile = tiles
