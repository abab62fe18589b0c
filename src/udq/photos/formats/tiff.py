"""Large TIFF photos, read in bands of rows or from a smaller level, so that a whole one is never in memory.

A band is a TIFF of its own that is put together in memory: the tags of the photo that say how its samples are stored,
and the strips, rows of tiles or plain rows that hold the band. Pillow decodes it as it would decode the whole file, so
predictors, palettes, JPEG tables and planes need no code here.

A pyramidal TIFF also holds the photo at smaller scales, in SubIFDs or in the pages that follow it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

from PIL import ImageFile, TiffImagePlugin

# Pixels from which a photo is read in bands: below, reading it as a whole is faster, and it takes 64 MB at most.
LARGE = 16_000_000
# Pixels of a band, unless a strip or a row of tiles has more.
_BAND = 2_000_000
# A smaller level has at least this many times the wanted size on each side: it was scaled down by a filter of its own,
# which then hardly shows.
_GAP = 2
# Most levels that are looked at, and the largest difference of their shape, in pixels on a side.
_MOST_LEVELS, _ROUNDING = 32, 2

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SUBFILE_TYPE, _SUBIFDS = 254, 330
_RAW, _OLD_JPEG = 1, 6
# The version number of BigTIFF, whose header is longer. Pillow does not read the SubIFDs of most, but their pages.
_BIG = 43
# Tags that say how samples are stored: bits, compression, colours, order of bits, samples, planes, fax options,
# predictor, palette, inks, extra samples, format, JPEG tables, and how YCbCr is coded.
_STORED = (258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 332, 338, 339, 347, 529, 530, 531, 532)
_SHORT, _LONG, _RATIONAL, _UNDEFINED = 3, 4, 5, 7


@dataclass(frozen=True)
class Level:
    """A photo of a TIFF at one scale, without its orientation.

    Attributes:
        file: the whole TIFF.
        tags: the tags of the level.
        width, height: pixels, as stored.
        rows: rows of a strip or tile; 1 if rows can be read one by one.
        offsets, sizes: where the strips or tiles are in the file, and their bytes.
    """

    file: IO[bytes]
    tags: Mapping[int, Any]
    width: int
    height: int
    rows: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def bands(self, top: int, bottom: int) -> Iterator[tuple[int, ImageFile.ImageFile]]:
        """Yield pictures of the full width that together hold the rows from ``top`` to ``bottom``, in order.

        Each comes with its first row, which may be above ``top`` in the first one.

        Raises:
            OSError: the file ends before a band does; or, from Pillow, the band is damaged.
        """
        step = self.rows * max(1, _BAND // (self.width * self.rows))
        start = top // self.rows * self.rows
        for first, last in pairwise([*range(start, bottom, step), min(bottom + -bottom % self.rows, self.height)]):
            picture = TiffImagePlugin.TiffImageFile(io.BytesIO(self._band(first, last)), "")
            picture.load()
            if picture.size != (self.width, last - first):
                raise OSError(f"expected {self.width} x {last - first} pixels of a band, found {picture.size}")
            yield first, picture

    @property
    def _is_tiled(self) -> bool:
        return _TILE_OFFSETS in self.tags

    def _band(self, first: int, last: int) -> bytes:
        """Return a TIFF of the rows from ``first`` to ``last``."""
        if self.rows == 1 and self.tags.get(_COMPRESSION, _RAW) == _RAW and not self._is_tiled:
            parts = [b"".join(self._raw_rows(first, last))]
        else:
            planes = _number(self.tags.get(_SAMPLES, 1)) if self.tags.get(_PLANAR, 1) == 2 else 1
            per_plane = len(self.offsets) // planes
            across = per_plane // -(-self.height // self.rows)
            wanted = range(first // self.rows * across, -(-last // self.rows) * across)
            parts = [self._read(plane * per_plane + each) for plane in range(planes) for each in wanted]
        entries = {tag: self.tags[tag] for tag in _STORED if tag in self.tags}
        entries |= {_WIDTH: self.width, _HEIGHT: last - first}
        if self._is_tiled:
            entries |= {_TILE_WIDTH: self.tags[_TILE_WIDTH], _TILE_HEIGHT: self.tags[_TILE_HEIGHT]}
            return _file(entries, parts, _TILE_OFFSETS, _TILE_BYTES)
        entries[_ROWS_PER_STRIP] = last - first if len(parts) == 1 else self.rows
        return _file(entries, parts, _STRIP_OFFSETS, _STRIP_BYTES)

    def _raw_rows(self, first: int, last: int) -> Iterator[bytes]:
        """Yield rows that are stored as they are, those of a strip together."""
        row_bytes = _row_bytes(self.tags)
        strip_rows = min(_number(self.tags.get(_ROWS_PER_STRIP, self.height)), self.height)
        while first < last:
            strip, above = divmod(first, strip_rows)
            count = min(strip_rows - above, last - first)
            yield _bytes(self.file, self.offsets[strip] + above * row_bytes, count * row_bytes)
            first += count

    def _read(self, part: int) -> bytes:
        return _bytes(self.file, self.offsets[part], self.sizes[part])


def level_for(picture: ImageFile.ImageFile, file: IO[bytes], size: tuple[int, int] | None) -> Level | None:
    """Return what to read a photo from in bands; None if it should be read as a whole.

    Args:
        picture: the photo, whose header was read.
        file: the same file.
        size: width and height in pixels, as stored, to which the photo will be scaled; None if it will not.
    """
    if not isinstance(picture, TiffImagePlugin.TiffImageFile) or picture.mode.startswith(("I", "F")):
        return None
    tags = picture.tag_v2
    if max(_numbers(tags.get(_BITS, 1)), default=16) > 8:  # the range of their levels is that of the whole photo
        return None
    own = _level(file, tags)
    if own is None or own.width * own.height < LARGE:
        return None
    if size is not None:
        width, height = _GAP * size[0], _GAP * size[1]
        enough = [each for each in _smaller(file, tags, own) if each.width >= width and each.height >= height]
        if enough:
            return min(enough, key=lambda level: level.width)
    return own if 2 * own.rows <= own.height else None


def _smaller(file: IO[bytes], tags: TiffImagePlugin.ImageFileDirectory_v2, own: Level) -> Iterator[Level]:
    """Yield the levels of a pyramid below the photo itself: of its shape, and stored in samples as its own."""
    file.seek(0)
    header = file.read(8)
    header += file.read(8) if header[2] == _BIG else b""
    waiting = [*_numbers(tags.get(_SUBIFDS, ()))] or [tags.next]
    subifds, seen = _SUBIFDS in tags, set[int]()
    while waiting and len(seen) < _MOST_LEVELS:
        offset = waiting.pop(0)
        if not offset or offset in seen:
            continue
        seen.add(offset)
        try:
            found = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(offset)
            found.load(file)
            if not subifds:
                waiting.append(found.next)
            same = all(_numbers(found.get(tag, 1)) == _numbers(tags.get(tag, 1)) for tag in (_BITS, _SAMPLES))
            level = _level(file, found) if found.get(_SUBFILE_TYPE) == 1 and same else None
        except (OSError, OverflowError, TypeError, ValueError, struct.error):  # damaged: the photo itself may not be
            continue
        if level is not None and level.width < own.width and _is_shape(level, own):
            yield level


def _is_shape(level: Level, own: Level) -> bool:
    """Return whether a level has the shape of the photo, but for rounding."""
    scale = max(own.width / level.width, own.height / level.height)
    return abs(own.width / scale - level.width) <= _ROUNDING and abs(own.height / scale - level.height) <= _ROUNDING


def _level(file: IO[bytes], tags: Mapping[int, Any]) -> Level | None:
    """Return a level by its tags; None if they do not say where each part of it is, as those of old files may not."""
    width, height = _number(tags.get(_WIDTH, 0)), _number(tags.get(_HEIGHT, 0))
    compression = tags.get(_COMPRESSION, _RAW)
    if min(width, height) < 1 or compression == _OLD_JPEG:
        return None
    if tiled := _TILE_OFFSETS in tags:
        rows, columns = _number(tags.get(_TILE_HEIGHT, 0)), _number(tags.get(_TILE_WIDTH, 0))
        offsets, sizes = tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_BYTES, ())
    else:
        rows, columns = min(_number(tags.get(_ROWS_PER_STRIP, height)), height), width
        offsets, sizes = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_BYTES, ())
    if min(rows, columns) < 1:
        return None
    planar = tags.get(_PLANAR, 1) == 2
    parts = -(-height // rows) * -(-width // columns) * (_number(tags.get(_SAMPLES, 1)) if planar else 1)
    offsets, sizes = _numbers(offsets), _numbers(sizes)
    if not len(offsets) == len(sizes) == parts:
        return None
    by_row = compression == _RAW and not planar and not tiled
    return Level(file, tags, width, height, 1 if by_row else rows, offsets, sizes)


def _row_bytes(tags: Mapping[int, Any]) -> int:
    bits = _numbers(tags.get(_BITS, 1))
    samples = _number(tags.get(_SAMPLES, 1))
    return -(-_number(tags[_WIDTH]) * (sum(bits) if len(bits) == samples else bits[0] * samples) // 8)


def _bytes(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    found = file.read(count)
    if len(found) < count:
        raise OSError("image file is truncated")
    return found


def _file(entries: dict[int, Any], parts: list[bytes], offsets: int, sizes: int) -> bytes:
    """Return a TIFF of some tags and parts, whose offsets and sizes become tags too."""
    entries = {**entries, offsets: (0,) * len(parts), sizes: tuple(map(len, parts))}
    start = 0
    for _ in range(2):  # the second time with the right offsets, which take as many bytes
        starts = [start]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part))
        entries[offsets] = tuple(starts)
        head = _head(entries, (offsets, sizes))
        start = len(head)
    return b"".join([head, *parts])


def _head(entries: dict[int, Any], long: tuple[int, ...]) -> bytes:
    """Return header and tags of a TIFF; numbers of the tags ``long`` have 32 bits, whatever their values."""
    table, data = b"", b""
    end = 8 + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        kind, count, packed = _packed(value, long=tag in long)
        if len(packed) > 4:
            field = struct.pack("<I", end + len(data))
            data += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        table += struct.pack("<HHI", tag, kind, count) + field
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4) + data


def _packed(value: Any, *, long: bool) -> tuple[int, int, bytes]:
    """Return type, count and bytes of the value of a tag."""
    if isinstance(value, bytes):
        return _UNDEFINED, len(value), value
    values = value if isinstance(value, tuple) else (value,)
    if all(isinstance(each, int) for each in values):
        long = long or max(values) > 0xFFFF
        return _LONG if long else _SHORT, len(values), struct.pack(f"<{len(values)}{'I' if long else 'H'}", *values)
    pairs = [part for each in values for part in (int(each.numerator), int(each.denominator))]
    return _RATIONAL, len(values), struct.pack(f"<{len(pairs)}I", *pairs)


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the whole numbers of a tag; none if it has others."""
    values = value if isinstance(value, tuple) else (value,)
    return values if all(isinstance(each, int) for each in values) else ()


def _number(value: Any) -> int:
    """Return the first number of a tag; 0 if it has none."""
    return (_numbers(value) or (0,))[0]
