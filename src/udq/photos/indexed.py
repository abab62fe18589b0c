"""The file of a photo of a collection, which must be in the folder that was indexed.

A file may have been replaced since it was indexed, by a link to a file that was never meant to be shown. Everything
that decodes photos of a collection names them by ``IndexedFile``; ``sandbox.Decoder`` decodes no other file for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from udq.common.text import shown
from udq.photos.source import UnreadableError, unreadable


class OutsideFolderError(UnreadableError):
    """A link to a file outside the indexed folder, which is not followed."""


@dataclass(frozen=True)
class IndexedFile:
    """Where a photo of a collection was when it was indexed.

    Attributes:
        path: the file.
        root: the indexed folder.
    """

    path: Path
    root: Path

    def resolved(self) -> Path:
        """Return the path with links resolved; raises UnreadableError as ``within`` does."""
        return within(self.path, self.root)


PhotoPath: TypeAlias = Path | IndexedFile
"""A file that the user named, or one of a collection."""


def within(path: Path, root: Path) -> Path:
    """Return the path of a file in a folder, with links resolved.

    Raises:
        UnreadableError: there is no such file.
        OutsideFolderError: it is a link to a file outside the folder.
    """
    try:
        real = path.resolve(strict=True)
        inside = real.is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: a NUL
        raise unreadable(path, error) from error
    if not inside:
        raise OutsideFolderError(
            f"{shown(str(path))}: expected a file in the indexed folder, found a link to a file outside, which is not "
            "followed"
        )
    return real


def located(photo: PhotoPath) -> Path:
    """Return the file to open for a photo; raises UnreadableError if one of a collection is not in its folder."""
    return photo.resolved() if isinstance(photo, IndexedFile) else photo
