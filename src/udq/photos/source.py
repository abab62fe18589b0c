"""Photo files on this machine: finding them, and reading regular files of a limited size."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from udq.common.files import TooLargeError, existing, open_regular
from udq.common.text import shown
from udq.config import LARGEST_MEGAPIXELS, MAX_MEGAPIXELS
from udq.errors import ImageError, InputError, NoPhotosError
from udq.photos.listing import Excludes, PassedOver

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".mpo", ".jp2", ".png", ".webp", ".avif", ".gif"),
        *(".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".heic", ".heif", ".hif"),
    )
)
# Most bytes of a file for the default limit of megapixels: they hold the raw pixels of the largest photo.
MAX_BYTES = 512 * 2**20
# Files of at most this many bytes are read whole, so that what is decoded is what was hashed; larger ones, twice.
_IN_MEMORY = 64 * 2**20
_BLOCK = 2**20
# Length of a digest: among a million photos, two different ones collide with a probability of 1e-27.
DIGEST_BYTES = 16

# Errors with which Pillow explains damage in words; any other comes from a decoder that did not expect the damage.
_EXPLAINED = (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error)


@dataclass(frozen=True)
class Source:
    """A photo to index.

    Attributes:
        name: the photo's name in the collection: its path below the indexed folder, with ``/``.
        path: the file.
    """

    name: str
    path: Path

    @property
    def root(self) -> str:
        """The absolute folder that the name is relative to."""
        # Not resolved: a link to a photo is found by its own name.
        return self.path.absolute().as_posix().removesuffix(self.name)

    @property
    def place(self) -> str:
        """The path or URL, for messages."""
        return str(self.path)

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """Provide the photo as a local file while the context is open; raises ImageError if that is not possible."""
        yield self.path

    def state(self) -> str:
        """Return a string that changes when the file does."""
        try:
            status = self.path.stat()
        except OSError:  # the reason is reported when the file is read
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class Content:
    """The identity of a file's bytes: two files of one digest are the same photo.

    Attributes:
        size: bytes.
        modified: modification time in nanoseconds since 1970, as the file system stores it.
        digest: BLAKE2b of the bytes, 16 bytes long.
    """

    size: int
    modified: int
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"digest: expected {DIGEST_BYTES} bytes, found {len(self.digest)}")


class UnreadableError(ImageError):
    """A photo that cannot be read or decoded.

    Attributes:
        content: what the file holds; None if it could not be read either.
    """

    def __init__(self, message: str, content: Content | None = None) -> None:
        """Create the error.

        Args:
            message: names the file and the reason, in one line.
            content: what the file holds.
        """
        super().__init__(message)
        self.content = content


def find(arguments: Sequence[str | os.PathLike[str]], exclude: Iterable[str] = ()) -> tuple[list[Source], PassedOver]:
    r"""Return the photos in files and folders, sorted by name, and counts of what else is in the folders.

    A photo in a folder is named by its path below that folder, a photo given by itself by its file name. Names are
    exactly what the file system says: ``a.JPG`` and ``A.jpg`` are two photos, and bytes that are not UTF-8 are lone
    surrogates (``text.shown`` makes them readable). Hidden files are skipped, and so are excluded folders and files
    (``listing.Excludes``, for which ``exclude`` has patterns). A link to a file is a photo of the link's name; links to
    folders are not followed inside a folder, since they may lead back.

    A path with a photo's suffix that cannot be read (a FIFO, a dangling link) is a source too, and so is a folder
    without permission to list it: reading it reports the reason, so that nothing is dropped silently.

    Raises:
        InputError: a path that does not exist, a given folder that cannot be listed, a file of unknown suffix, or two
            photos of one name.
        NoPhotosError: there are no photos.
    """
    sources: dict[str, Source] = {}
    excludes, passed_over = Excludes(exclude), PassedOver()
    for argument in map(existing, map(Path, arguments)):
        if os.path.isdir(argument):  # noqa: PTH112  (Path.is_dir raises for a name that is too long)
            paths, others = _walk(argument, excludes)
            named = [Source(path.relative_to(argument).as_posix(), path) for path in paths]
            passed_over += others
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
                raise same_name_error(before, source)
    if not sources:
        raise no_photos_error(map(str, arguments), passed_over)
    return [sources[name] for name in sorted(sources)], passed_over


def no_photos_error(arguments: Iterable[str], passed_over: PassedOver, more: str = "") -> NoPhotosError:
    """Return the error for arguments without photos; ``more`` adds to the suffixes that photos have."""
    return NoPhotosError(
        f"{', '.join(map(shown, arguments))}: no photo found ({str(passed_over) or '0 other files'}); "
        f"expected files that end in {', '.join(sorted(SUFFIXES))}{more}"
    )


def same_name_error(one: Source, other: Source) -> InputError:
    """Return the error for two photos that would have one name in a collection."""
    return InputError(
        f"two photos would be named '{shown(one.name)}': {shown(one.place)} and {shown(other.place)}; "
        "index the folder above both, or rename one"
    )


def _walk(folder: Path, excludes: Excludes) -> tuple[list[Path], PassedOver]:
    """Return every photo below a folder, and every folder that cannot be listed, and counts of what else is there."""
    found: list[Path] = []
    passed_over = PassedOver()

    def refused(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InputError(f"{shown(str(folder))}: {_reason(error)}; expected a folder of photos") from error
        found.append(Path(error.filename))

    for parent, folders, files in os.walk(folder, onerror=refused):
        above = Path(parent).relative_to(folder)
        visible = sorted(name for name in folders if not name.startswith("."))
        excluded = {name for name in visible if excludes.folder((above / name).as_posix())}
        linked = {name for name in visible if name not in excluded and os.path.islink(Path(parent, name))}  # noqa: PTH114
        folders[:] = [name for name in visible if name not in excluded | linked]
        paths = [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        photos = [path for path in paths if path.suffix.lower() in SUFFIXES]
        wanted = [path for path in photos if not excludes.file((above / path.name).as_posix())]
        found += wanted
        passed_over += PassedOver(len(paths) - len(photos), len(linked), len(excluded), len(photos) - len(wanted))
    return found, passed_over


def max_bytes(limit: int) -> int:
    """Return the most bytes of a file for a limit of megapixels."""
    return MAX_BYTES * max(limit, MAX_MEGAPIXELS) // MAX_MEGAPIXELS


def read(path: Path, limit: int = MAX_MEGAPIXELS) -> tuple[IO[bytes], Content]:
    """Return a file, open at its start, and its identity.

    Args:
        path: the file.
        limit: the largest number of megapixels, which limits the bytes too (``max_bytes``).

    Raises:
        UnreadableError: it cannot be read or is too large.
    """
    try:
        file: IO[bytes] = open_regular(path, limit=max_bytes(limit), follow=True)
        try:
            # Before the bytes: if the file changes while it is read, its time will differ from the one returned.
            status = os.fstat(file.fileno())
            digest, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
            if status.st_size <= _IN_MEMORY:
                with file:
                    data = file.read()
                file = io.BytesIO(data)
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
            file.seek(0)
        except BaseException:
            file.close()
            raise
    except Exception as error:
        raise unreadable(path, error) from error
    return file, Content(size, status.st_mtime_ns, digest.digest())


def check_unchanged(file: IO[bytes], content: Content) -> None:
    """Raise ValueError if a file that ``read`` returned has changed since: what was decoded is not what was hashed."""
    if isinstance(file, io.BytesIO):
        return
    status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (content.size, content.modified):
        raise ValueError("changed while it was read; try again")


def content(path: Path) -> Content:
    """Return the identity of a file's bytes without decoding them; raises UnreadableError as ``read`` does."""
    file, found = read(path, LARGEST_MEGAPIXELS)
    file.close()
    return found


def unreadable(path: Path, error: Exception, content: Content | None = None) -> UnreadableError:
    """Return the error for a photo that could not be read or decoded, with the reason in one line."""
    return UnreadableError(f"{shown(str(path))}: {_reason(error, path)}", content)


def _reason(error: Exception, path: Path | None = None) -> str:
    """Return in one line why a file cannot be read or decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "not a photo this decoder knows, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return "a frame with more pixels than this decoder takes; scale it down"
    if isinstance(error, TooLargeError):
        return f"{error}; scale it down or compress it"
    if isinstance(error, MemoryError):
        return "takes more memory to decode than there is; scale it down"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError) and path is not None and path.is_symlink():
        return "a link to a file that is not there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = _plain(str(error).splitlines()[0]) if str(error) else ""
    return words if words and isinstance(error, _EXPLAINED) else f"damaged: {type(error).__name__} {words}".rstrip()


def _plain(words: str) -> str:
    """Return the words of a decoder without Python's notation: those of PPM are bytes, or about ``int()``."""
    words = re.sub(r"^invalid literal for int\(\) with base \d+: ", "expected a number, found ", words)
    words = re.sub(r"^b(['\"])(.*)\1$", r"\2", words)
    return re.sub(r"(?<= )b(?=(['\"]).*\1$)", "", words)
