"""Photos that are no files of this machine: in S3 and storage like it, and in tar files.

What reads such a photo gets a file of it for the moment (``Stored.local``). A collection names it as it names others,
below the address of its folder, or as if its tar file were one.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from udq.common.text import shown
from udq.errors import DependencyError, ImageError, InputError, NoPhotosError, UdqError
from udq.photos import source as photo_source
from udq.photos.source import MAX_BYTES, SUFFIXES, Source

_TAR = ".tar"
# Seconds since 1970 that nanoseconds can say in 64 bits: more is nonsense.
_LATEST = 9e9


@dataclass(frozen=True)
class Stored(Source):
    """A photo in storage, or in a tar file.

    Attributes:
        name: its name in the collection.
        path: the same.
        below: what the name is relative to: a folder or an address, without secrets, with ``/`` at the end.
        storage: the URL of where the file is that holds it; empty for this machine.
        file: which file there holds it.
        offset: where in that file it begins.
        size: bytes.
        modified: nanoseconds since 1970.
    """

    below: str
    storage: str
    file: str
    offset: int
    size: int
    modified: int

    @property
    def root(self) -> str:
        """What the name is relative to."""
        return self.below

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.below + self.name

    def state(self) -> str:
        """Return what changes with the file."""
        return f"{self.size} {self.modified}"

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Give a file of it, for as long as the context is open.

        Raises:
            ImageError: it is gone.
            UdqError: the storage does not answer as it should.
        """
        try:
            with _opened(self.storage, self.file) as opened:
                opened.seek(self.offset)
                # One byte more than may be is enough to be refused.
                data = opened.read(min(self.size, MAX_BYTES + 1))
        except FileNotFoundError as error:
            raise ImageError(f"{shown(self.place)}: no such file") from error
        except OSError as error:
            raise UdqError(f"{shown(self.place)}: cannot be read ({_line(error)})") from error
        with tempfile.TemporaryDirectory(prefix="udq-") as folder:
            file = Path(folder, f"photo{self.path.suffix}")
            file.write_bytes(data)
            os.utime(file, ns=(self.modified, self.modified))
            yield file


def find(arguments: Sequence[str | os.PathLike[str]]) -> tuple[list[Source], int]:
    """Return the photos that files, folders, URLs and tar files name, and how many other files were passed over.

    A photo below a URL is named as one in a folder is; one in a tar file as if that were a folder:
    ``shard-000.tar/cats/1.jpg``. Everything else as in ``images.find``.

    Raises:
        InputError: as ``images.find``, or storage that is not there or cannot be listed.
        NoPhotosError: no photo at all.
        DependencyError: a URL needs pyarrow, which is not installed.
    """
    given = [os.fspath(argument) for argument in arguments]
    plain = [each for each in given if not (_is_url(each) or _is_tar(each))]
    if len(plain) == len(given):
        return photo_source.find(given)
    sources, passed_over = photo_source.find(plain) if plain else ([], 0)
    known = {source.name: source for source in sources}
    for each in given:
        if each in plain:
            continue
        if _is_url(each):
            found, others = _below(each)
        else:
            file = Path(each).absolute()
            found, others = _in_tar("", file.as_posix(), f"{file.parent.as_posix().rstrip('/')}/", file.name)
        passed_over += others
        for source in found:
            before = known.setdefault(source.name, source)
            if before is not source and before != source:
                raise InputError(
                    f"two photos would be named '{shown(source.name)}': {shown(before.place)} and "
                    f"{shown(source.place)}; index the folder above both, or rename one"
                )
    if not known:
        raise NoPhotosError(
            f"{', '.join(map(shown, given))}: no photo found ({passed_over} other files); "
            f"expected files that end in {', '.join(sorted(SUFFIXES))}, or in {_TAR}"
        )
    return [known[name] for name in sorted(known)], passed_over


def _is_url(argument: str) -> bool:
    return "://" in argument


def _is_tar(argument: str) -> bool:
    return argument.lower().endswith(_TAR) and not Path(argument).is_dir()


def _below(url: str) -> tuple[list[Source], int]:
    """Return the photos below a URL or at it, those in tar files too, and how many other files there are."""
    system, path = _from(url)
    try:
        whole = system.get_file_info(path)
        if whole.type.name == "NotFound":
            raise InputError(f"{_without_secrets(url)}: nothing is there; check the spelling")
        folder = path.rstrip("/") if whole.type.name == "Directory" else path.rpartition("/")[0]
        files = [whole] if whole.type.name == "File" else system.get_file_info(_everything(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{_without_secrets(url)}: cannot be listed ({_line(error)})") from error
    address = _without_secrets(url).rstrip("/")
    below = (address.rpartition("/")[0] if whole.type.name == "File" else address) + "/"
    found: list[Source] = []
    passed_over = 0
    for info in files:
        name = info.path.removeprefix(folder).lstrip("/")
        kind = PurePosixPath(name).suffix.lower()
        if info.type.name != "File" or _hidden(name):
            continue
        if kind == _TAR:
            inside, others = _in_tar(url, info.path, below, name)
            found += inside
            passed_over += others
        elif kind in SUFFIXES:
            # Some storage knows no times.
            found.append(Stored(name, Path(name), below, url, info.path, 0, info.size, info.mtime_ns or 0))
        else:
            passed_over += 1
    return found, passed_over


def _in_tar(storage: str, file: str, below: str, name: str) -> tuple[list[Source], int]:
    """Return the photos of a tar file of that name, and how many other files are in it."""
    found: dict[str, Source] = {}
    passed_over = 0
    try:
        with _opened(storage, file) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                inside = PurePosixPath(member.name).as_posix()
                if member.isdir() or _hidden(inside):
                    continue
                # Links are passed over: what they lead to may be anywhere.
                if PurePosixPath(inside).suffix.lower() in SUFFIXES and member.isreg() and not member.issparse():
                    own, where = f"{name}/{inside}", (member.offset_data, member.size)
                    modified = int(member.mtime * 1e9) if 0 <= member.mtime < _LATEST else 0
                    # A file that was put in again takes the place of the one before.
                    found[own] = Stored(own, Path(own), below, storage, file, *where, modified)
                else:
                    passed_over += 1
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{shown(below + name)}: expected a tar file that is not compressed ({_line(error)})"
        ) from error
    return list(found.values()), passed_over


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _opened(storage: str, file: str) -> IO[bytes]:
    if not storage:
        return Path(file).open("rb")
    opened: IO[bytes] = _from(storage)[0].open_input_file(file)
    return opened


@cache  # a client has connections that are worth keeping
def _from(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there."""
    try:
        from pyarrow import fs
    except ImportError as error:
        raise DependencyError(
            f"{_without_secrets(url)}: needs pyarrow; install it with: pip install 'udq[storage]'"
        ) from error
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        # What is said of a URL that cannot be read may hold the keys in it.
        raise InputError(
            f"{url.partition('://')[0]}://…: no address of storage; expected one such as s3://bucket/photos/"
        ) from error
    return found


def _everything(folder: str) -> Any:
    from pyarrow import fs

    return fs.FileSelector(folder, recursive=True)


def _without_secrets(url: str) -> str:
    """Return a URL without keys and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
