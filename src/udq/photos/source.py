"""Finding photos, and reading their files: regular files only, of a limited size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from udq.common.text import shown
from udq.errors import ImageError, InputError, NoPhotosError

pass

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
# 512 MiB: the raw pixels of the largest photo fit in; a file is read whole, so that it is the same to the end.
MAX_BYTES = 512 * 2**20
# Of a digest: two different photos of a million have the same one with a probability of 1e-27.
DIGEST_BYTES = 16


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


def content(path: Path) -> Content:
    """Return what a file holds, without decoding it; raises ImageError where it cannot be read or is too large."""
    return read(path)[1]


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


def image_error(path: Path, error: Exception) -> ImageError:
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


# 150 megapixels decode to 450 MB: above any camera's photo, below what would exhaust a small machine.
MAX_PIXELS = 150_000_000


def read(path: Path) -> tuple[bytes, Content]:
    """Return a file's bytes and what they are; raises ImageError where it cannot be read or is too large."""
    try:
        with open_file(path) as file:
            # Asked for before the bytes: a change while they are read gives another time than the one kept here.
            modified = os.fstat(file.fileno()).st_mtime_ns
            data = file.read()
    except Exception as error:
        raise image_error(path, error) from error
    return data, Content(len(data), modified, hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())
