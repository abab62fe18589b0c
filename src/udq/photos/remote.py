"""Photos in object storage such as S3, and in tar files.

Such a photo is copied to a local file for as long as it is read (``StoredSource.local``). Its name in a collection is
its path below the address of its folder, or below the name of its tar file, as if that were a folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from udq.common.files import existing, open_regular
from udq.common.tar import Member, TarReader, abridged, why_refused
from udq.common.text import one_line, shown
from udq.config import LARGEST_MEGAPIXELS
from udq.errors import DependencyError, ImageError, InputError, UdqError
from udq.photos import source as files
from udq.photos.listing import Excludes, PassedOver
from udq.photos.source import SUFFIXES, Source, max_bytes

_TAR = ".tar"
# Bytes that are copied at a time.
_BLOCK = 8 * 2**20


@dataclass(frozen=True)
class StoredSource(Source):
    """A photo in object storage, or in a tar file.

    Attributes:
        name: its name in the collection.
        path: the same.
        base: what the name is relative to: a folder or an address, without secrets, with ``/`` at the end.
        storage: URL of the storage that has the file; empty for this machine.
        file: path there of the photo, or of the tar file that contains it.
        offset: where the photo begins in that file, in bytes.
        size: bytes.
        modified: nanoseconds since 1970.
        fault: why it cannot be read, if that was found when it was listed.
    """

    base: str
    storage: str
    file: str
    offset: int
    size: int
    modified: int
    fault: str = ""

    @property
    def root(self) -> str:
        """What the name is relative to."""
        return self.base

    @property
    def place(self) -> str:
        """The path or URL, for messages."""
        return self.base + self.name

    def state(self) -> str:
        """Return a string that changes when the file does."""
        return f"{self.size} {self.modified}"

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Provide a local copy of the photo while the context is open.

        Raises:
            ImageError: the photo no longer exists, or was found unreadable when it was listed.
            UdqError: the storage cannot be read.
        """
        if self.fault:
            raise ImageError(f"{shown(self.place)}: {self.fault}")
        with tempfile.TemporaryDirectory(prefix="udq-") as folder:
            file = Path(folder, f"photo{self.path.suffix}")
            with file.open("wb") as copy:
                for block in self._blocks():
                    copy.write(block)
            os.utime(file, ns=(self.modified, self.modified))
            yield file

    def _blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the photo; errors as ``local``."""
        # One byte above the limit is enough for the photo to be refused.
        left = min(self.size, max_bytes(LARGEST_MEGAPIXELS) + 1)
        try:
            with _open(self.storage, self.file) as opened:
                opened.seek(self.offset)
                while left > 0 and (block := opened.read(min(left, _BLOCK))):
                    yield block
                    left -= len(block)
        except FileNotFoundError as error:
            raise ImageError(f"{shown(self.place)}: no such file") from error
        except (OSError, ValueError) as error:
            raise UdqError(f"{shown(self.place)}: cannot be read ({one_line(error)})") from error


def find(arguments: Sequence[str | os.PathLike[str]], exclude: Iterable[str] = ()) -> tuple[list[Source], PassedOver]:
    """Return the photos in files, folders, URLs and tar files, sorted by name, and counts of what else is there.

    A photo below a URL is named as in a folder. A photo in a tar file is named as if that were a folder:
    ``shard-000.tar/cats/1.jpg``. One that cannot be read there (a damaged header, a link, a name with ``..``) is a
    source too, whose reading reports the reason. Patterns of ``exclude`` match paths below the address or in the tar
    file. Everything else is as in ``source.find``.

    Raises:
        InputError: as ``source.find``, or a storage or tar file that cannot be listed.
        NoPhotosError: there are no photos.
        DependencyError: a URL needs pyarrow, which is not installed.
    """
    given = [os.fspath(argument) for argument in arguments]
    plain = [argument for argument in given if not (_is_url(argument) or _is_tar(argument))]
    if len(plain) == len(given):
        return files.find(given, exclude)
    excludes = Excludes(exclude)
    sources, passed_over = files.find(plain, exclude) if plain else ([], PassedOver())
    known = {source.name: source for source in sources}
    for argument in given:
        if argument in plain:
            continue
        if _is_url(argument):
            found, others = _list_url(argument, excludes)
        else:
            file = existing(Path(argument)).absolute()
            base = f"{file.parent.as_posix().rstrip('/')}/"
            found, others = _list_tar("", file.as_posix(), base, file.name, excludes)
        passed_over += others
        for source in found:
            before = known.setdefault(source.name, source)
            if before is not source and before != source:
                raise files.same_name_error(before, source)
    if not known:
        raise files.no_photos_error(given, passed_over, f", or in {_TAR}")
    return [known[name] for name in sorted(known)], passed_over


def _is_url(argument: str) -> bool:
    return "://" in argument


def _is_tar(argument: str) -> bool:
    return argument.lower().endswith(_TAR) and not os.path.isdir(argument)  # noqa: PTH112  (see source.find)


def _list_url(url: str, excludes: Excludes) -> tuple[list[Source], PassedOver]:
    """Return the photos at a URL or below it, those in tar files included, and counts of what else is there."""
    system, path = _file_system(url)
    try:
        root = system.get_file_info(path)
        if root.type.name == "NotFound":
            raise InputError(f"{_without_secrets(url)}: nothing is there; check the spelling")
        folder = path.rstrip("/") if root.type.name == "Directory" else path.rpartition("/")[0]
        infos = [root] if root.type.name == "File" else system.get_file_info(_recursive(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{_without_secrets(url)}: cannot be listed ({one_line(error)})") from error
    address = _without_secrets(url).rstrip("/")
    base = (address.rpartition("/")[0] if root.type.name == "File" else address) + "/"
    found: list[Source] = []
    counts = _Counts(excludes)
    in_tars = PassedOver()
    for info in infos:
        name = info.path.removeprefix(folder).lstrip("/")
        suffix = PurePosixPath(name).suffix.lower()
        if info.type.name != "File" or _is_hidden(name):
            continue
        if not counts.is_wanted(name, is_photo=suffix in {*SUFFIXES, _TAR}):
            continue
        if suffix == _TAR:
            members, others = _list_tar(url, info.path, base, name, excludes)
            found += members
            in_tars += others
        else:
            # Not every storage keeps modification times.
            facts = (base, url, info.path, 0, info.size, info.mtime_ns or 0)
            fault = why_refused(name)
            own = abridged(name) if fault else name
            found.append(StoredSource(own, Path(own), *facts, fault))
    return found, counts.passed_over() + in_tars


def _list_tar(storage: str, file: str, base: str, name: str, excludes: Excludes) -> tuple[list[Source], PassedOver]:
    """Return the photos in a tar file of that name, and counts of what else is in it."""
    found: dict[str, Source] = {}
    counts = _Counts(excludes)
    try:
        with _open(storage, file) as opened:
            tar = TarReader(opened, opened.seek(0, os.SEEK_END), seeks=True)
            opened.seek(0)
            for member in tar:
                if member.kind == "folder" or _is_hidden(member.name):
                    continue
                # The real name of a member with a fault may be unknown, so it is taken for a photo.
                is_photo = PurePosixPath(member.name).suffix.lower() in SUFFIXES
                if member.fault or counts.is_wanted(member.name, is_photo=is_photo):
                    source = _stored(member, base, storage, file, name)
                    # Of several members with one name, the last is valid.
                    found[source.name] = source
            if not tar.complete:
                fault = "the archive ends without an end mark: photos may be missing"
                found[name] = StoredSource(name, Path(name), base, storage, file, 0, 0, 0, fault)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{shown(base + name)}: expected a whole tar file, not compressed ({reason})") from error
    return list(found.values()), counts.passed_over()


class _Counts:
    """Counts what is not indexed in a listing without folders, such as that of a tar file."""

    def __init__(self, excludes: Excludes) -> None:
        self._excludes = excludes
        self._folders: set[str] = set()
        self._others = self._photos = 0

    def is_wanted(self, path: str, *, is_photo: bool) -> bool:
        """Whether a file is a photo to index; counts it otherwise."""
        folder = self._excludes.parent(path)
        if folder is not None:
            self._folders.add(folder)
            return False
        excluded = is_photo and self._excludes.file(path)
        self._others += not is_photo
        self._photos += excluded
        return is_photo and not excluded

    def passed_over(self) -> PassedOver:
        """Return the counts."""
        return PassedOver(self._others, 0, len(self._folders), self._photos)


def _stored(member: Member, base: str, storage: str, file: str, name: str) -> StoredSource:
    """Return the source of a member of the tar file ``name``."""
    # With the offset, an unreadable member never has the name of another one.
    own = f"{name}/{member.name} (header at byte {member.header})" if member.fault else f"{name}/{member.name}"
    fault = member.fault or ("" if member.kind == "file" else f"a {member.kind} in a tar file, which is not read")
    return StoredSource(own, Path(own), base, storage, file, member.offset, member.size, member.modified, fault)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)


def _open(storage: str, file: str) -> IO[bytes]:
    if not storage:
        return open_regular(Path(file), follow=True)
    opened: IO[bytes] = _file_system(storage)[0].open_input_file(file)
    return opened


@cache  # a client keeps connections open, which later calls reuse
def _file_system(url: str) -> tuple[Any, str]:
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
        # The error of an invalid URL may quote the keys in it.
        raise InputError(
            f"{url.partition('://')[0]}://…: no address of storage; expected one such as s3://bucket/photos/"
        ) from error
    return found


def _recursive(folder: str) -> Any:
    from pyarrow import fs

    return fs.FileSelector(folder, recursive=True)


def _without_secrets(url: str) -> str:
    """Return a URL without credentials and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
