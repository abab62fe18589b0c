"""The names in a collection's folder, and the one way to read a file of it.

A file is regular, is no link, and has the size and checksum that the manifest lists; everything else is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from udq.common.files import TooLargeError, checksum, is_refusal, open_regular, read_regular, reason
from udq.common.files import remedy as remedy_for
from udq.common.lock import LOCK, OWNER
from udq.errors import CollectionError, UdqError
from udq.store import schema

MANIFEST = "collection.json"
COPY = "collection.copy.json"
REMEDY = "restore it from a copy, or run 'udq verify --repair'"
CHECKSUM = "checksum differs"
"""Reason of damage, if the bytes of a file are not those that were written."""

_SUFFIX = {"removed": "npy"}
_FOLDER = schema.NAMES["segments"]
_OWN = re.compile(
    "|".join([*(schema.NAMES[kind] for kind in ("model", "backbone", "removed")), f"{_FOLDER}/{schema.SEGMENT_FILE}"])
)


class DamagedError(CollectionError):
    """A file of a collection that is missing, differs from its checksum, or holds what no udq writes.

    Attributes:
        file: its path.
        reason: what is wrong with it, on one line.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: damaged ({reason}); {REMEDY}")
        self.file, self.reason = file, reason

    def __reduce__(self) -> tuple[type[DamagedError], tuple[Path, str]]:
        return DamagedError, (self.file, self.reason)  # for processes that send it to others


def inside(path: Path, name: str) -> Path:
    """Join a file or folder name of a manifest; raises CollectionError if it is not one of a collection."""
    if not (_OWN.fullmatch(name) or re.fullmatch(_FOLDER, name)):
        raise CollectionError(f"{path}: its {MANIFEST} lists '{name}', which is not a file of a collection")
    return path / name


def numbered(kind: str, number: int) -> str:
    """Return the name of the ``number``-th ``model``, ``backbone`` or ``removed`` file, or folder of ``segments``.

    Raises:
        CollectionError: a collection cannot have a file of that number.
    """
    name = f"segments/{number:06d}" if kind == "segments" else f"{kind}-{number:06d}.{_SUFFIX.get(kind, 'npz')}"
    if not re.fullmatch(schema.NAMES[kind], name):
        raise CollectionError(f"{name}: no number is left for new files; delete those that no collection lists")
    return name


def next_number(path: Path, kind: str, listed: Iterable[str]) -> int:
    """Return the first number that no ``model``, ``backbone``, ``removed`` or ``segments`` of a collection has.

    Args:
        path: the collection; the names in its folder count.
        kind: the kind of file.
        listed: names in its manifests, which count too: a disk may have lost a file.

    Raises:
        OSError: its folder cannot be listed.
    """
    names = [*names_in(path), *listed]
    numbers = (int(re.findall(r"\d+", name)[0]) for name in names if name.startswith(kind))
    return 1 + max(numbers, default=0)


def names_in(path: Path) -> list[str]:
    """Return the names in a collection's folder that are names of a collection, whatever has them, listed or not.

    Raises:
        OSError: a folder cannot be listed.
    """
    names = []
    for folder in (path, path / "segments", *_segment_folders(path)):
        if folder.is_dir() and not (folder.is_symlink() and folder != path):
            names += [entry.relative_to(path).as_posix() for entry in folder.iterdir()]
    return [name for name in names if _OWN.fullmatch(name) or re.fullmatch(_FOLDER, name)]


def _segment_folders(path: Path) -> list[Path]:
    folder = path / "segments"
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def own_files(path: Path) -> list[str]:
    """Return the files in a collection's folder that have names of a collection, listed in the manifest or not.

    Raises:
        OSError: a folder cannot be listed.
    """
    return [name for name in names_in(path) if not (path / name).is_dir() or (path / name).is_symlink()]


def refuse_links(path: Path, names: Iterable[str]) -> None:
    """Raise CollectionError if one of some files and folders of a collection is a link."""
    for name in names:
        if os.path.islink(path / name):  # noqa: PTH114  # a third of the time of Path.is_symlink
            remedy = (
                "delete the link"
                if name in (LOCK, OWNER)
                else "put the file or folder itself in its place (to keep a collection on another disk, move the whole "
                "collection, and link that)"
            )
            raise CollectionError(f"{path}: its '{name}' is a link, and a change would write through it; {remedy}")


def read_listed(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a whole file that a manifest or a journal lists, and compare its checksum."""
    file = inside(path, entry["file"])
    try:
        data = read_regular(file, limit=entry["bytes"])
    except (OSError, ValueError, MemoryError) as error:
        raise damaged(file, error) from error
    if checksum(data) != entry["sha256"]:
        raise DamagedError(file, CHECKSUM)
    return data


def check(file: Path, facts: Mapping[str, Any]) -> None:
    """Read a whole file and compare its checksum; raises CollectionError if it differs."""
    try:
        with open_regular(file, limit=facts["bytes"]) as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error
    if found != facts["sha256"]:
        raise DamagedError(file, CHECKSUM)


def damaged(file: Path, error: Exception) -> DamagedError:
    """Return the error for a file of a collection that cannot be read, or whose contents are not as expected.

    Raises:
        UdqError: instead, if the file is intact for all that is known (``raise_refusal``).
    """
    raise_refusal(file, error)
    return DamagedError(file, CHECKSUM if isinstance(error, TooLargeError) else reason(error))


def raise_refusal(file: Path, error: Exception) -> None:
    """Raise UdqError if an error of reading is no damage: no permission, too many open files, or too little memory."""
    if is_refusal(error):
        raise UdqError(f"{file}: cannot be read ({reason(error)}); {remedy_for(error, 'readable')}") from error
