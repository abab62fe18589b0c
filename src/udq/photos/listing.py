"""Which files of given folders are photos: folders and files to exclude, counts of the rest, places to compare."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from udq.common.files import existing
from udq.common.text import counted, nfc
from udq.errors import InputError

# Folders that storage devices and systems make for themselves: thumbnails, snapshots, deleted files. In lower case.
SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"),  # network storage
        *("$recycle.bin", "recycler", "system volume information", "found.000"),  # Windows
        *("__macosx", "lost+found"),
    )
)


@dataclass(frozen=True)
class PassedOver:
    """Numbers of what is not indexed in given folders. Hidden files and folders are not counted.

    Attributes:
        other_files: files that are not photos.
        linked_folders: links to folders; they are not followed.
        excluded_folders: folders that ``SYSTEM_FOLDERS`` or a pattern excludes; their contents are not counted.
        excluded_photos: photos that a pattern excludes by themselves.
    """

    other_files: int = 0
    linked_folders: int = 0
    excluded_folders: int = 0
    excluded_photos: int = 0

    def __add__(self, other: PassedOver) -> PassedOver:
        """Return the sums."""
        return PassedOver(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __str__(self) -> str:
        """Return the counts above 0, such as ``3 other files, 2 linked folders``; empty if all are 0."""
        counts = {"other file": self.other_files, "linked folder": self.linked_folders,
                  "excluded folder": self.excluded_folders, "excluded photo": self.excluded_photos}  # fmt: skip
        return ", ".join(counted(count, noun) for noun, count in counts.items() if count)

    def to_json(self) -> dict[str, int]:
        """Return the counts as the manifest and ``--json`` have them; ``passed_over`` counts the other files."""
        counts = asdict(self)
        return {"passed_over": counts.pop("other_files"), **counts}

    @staticmethod
    def of(document: Mapping[str, Any]) -> PassedOver:
        """Return the counts of a manifest; one of an older version has only ``passed_over``."""
        names = [each.name for each in fields(PassedOver)]
        return PassedOver(document["passed_over"], *(document.get(name, 0) for name in names[1:]))


NOTHING = PassedOver()
"""Nothing was passed over."""


class Excludes:
    """Folders and photos that are not indexed: those of devices and systems, and those of the user's patterns."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Compile the patterns.

        Args:
            patterns: each matches the path below the given folder, or the name of a folder or file at any depth;
                ``*`` and ``?`` match any characters, ``/`` included. A ``/`` at the end is ignored.

        Raises:
            InputError: a pattern is empty.
        """
        self.patterns = tuple(nfc(pattern.rstrip("/")) for pattern in patterns)
        if not all(self.patterns):
            raise InputError("--exclude: expected a pattern such as 'thumbs' or '*_small.jpg', found an empty one")

    def folder(self, path: str) -> bool:
        """Whether a folder is excluded, by its path below the given folder."""
        return PurePosixPath(path).name.casefold() in SYSTEM_FOLDERS or self.file(path)

    def file(self, path: str) -> bool:
        """Whether a pattern excludes a file, by its path below the given folder."""
        composed = nfc(path)
        name = composed.rpartition("/")[2]
        return any(fnmatchcase(name, pattern) or fnmatchcase(composed, pattern) for pattern in self.patterns)

    def parent(self, path: str) -> str | None:
        """Return the outermost excluded folder that contains a file; None if there is none."""
        above = [str(folder) for folder in PurePosixPath(path).parents][-2::-1]
        return next(filter(self.folder, above), None)

    def covers(self, path: str) -> bool:
        """Whether a file is excluded, by itself or by a folder that contains it."""
        return self.parent(path) is not None or self.file(path)


class Places:
    """Absolute places of photos, for comparing: links in the folder that a name is relative to are resolved."""

    def __init__(self) -> None:
        """Resolve nothing yet; a folder is resolved once."""
        self._resolved: dict[str, str] = {}

    def of(self, root: str, name: str) -> str:
        """Return the place of a photo: an absolute path with ``/``, or a URL.

        Args:
            root: folder or URL that the name is relative to, with ``/`` at the end.
            name: the photo's name.
        """
        if root not in self._resolved:
            self._resolved[root] = root if "://" in root else folder_place(root)
        return self._resolved[root] + name


def folder_place(folder: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder with links resolved, with ``/`` at the end; it need not exist."""
    return f"{Path(os.path.realpath(folder)).as_posix().rstrip('/')}/"


@dataclass(frozen=True)
class Area:
    """What given files and folders cover.

    Attributes:
        folders: places of the folders, and of paths that do not exist, each with ``/`` at the end.
        files: places of the files.
    """

    folders: tuple[str, ...]
    files: frozenset[str]

    @staticmethod
    def of(arguments: Sequence[str | os.PathLike[str]]) -> Area:
        """Return the area of files and folders on this machine."""
        folders, files = [], set()
        for path in map(existing, map(Path, arguments)):
            if os.path.isdir(path) or not os.path.lexists(path):  # noqa: PTH112  (too long a name raises there)
                folders.append(folder_place(path))
            else:
                files.add(folder_place(path.parent) + path.name)
        return Area(tuple(sorted(folders)), frozenset(files))

    def folder_of(self, place: str) -> str | None:
        """Return the outermost given folder that a place is in; None if it is in none of them."""
        return next((folder for folder in self.folders if place.startswith(folder)), None)

    def covers(self, place: str) -> bool:
        """Whether a place is given, or in a given folder."""
        return place in self.files or self.folder_of(place) is not None
