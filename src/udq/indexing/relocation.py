"""Change where the photos of a folder are, after the folder moved: names, ids and codes stay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from udq.common.files import existing
from udq.common.progress import Progress, silent, tracked
from udq.common.text import counted, nfc, shown
from udq.errors import ImageError, InputError
from udq.indexing.sync import Stored
from udq.photos.listing import Places, folder_place
from udq.photos.source import Content, Source, content
from udq.store.manifest import UnreadablePhoto


@dataclass(frozen=True)
class Relocation:
    """New places of photos.

    Attributes:
        moved: id -> new place, and what the file is there; None if it is unknown.
        same: number of photos whose files have the same bytes at the new place.
        renamed: old name -> new name, of photos whose name changes with their place.
        missing: names of photos without a file at the new place.
        changed: names of photos whose files have other bytes there, or bytes that cannot be compared.
    """

    moved: Mapping[int, tuple[Source, Content | None]]
    same: int
    renamed: Mapping[str, str]
    missing: tuple[str, ...]
    changed: tuple[str, ...]


class Move:
    """A folder that moved."""

    def __init__(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """Resolve the paths; arguments as in ``plan``."""
        given = os.fspath(old)
        self._is_url = "://" in given
        self._old = f"{given.rstrip('/')}/" if self._is_url else _absolute(given)
        self._resolved = self._old if self._is_url else folder_place(given)
        self._new = _absolute(os.fspath(new))
        self._places = Places()

    def of(self, root: str, name: str) -> Source | None:
        """Return the new place of a photo; None if it is not below the old folder.

        Its name stays if the new place ends with it. If only the folder's name changed, so does the photo's.
        """
        below = self._below(root, name)
        if below is None:
            return None
        place = self._new + below
        if place.endswith(f"/{name}"):
            return Source(name, Path(place))
        if place.startswith(root):
            return Source(place.removeprefix(root), Path(place))
        return Source(below, Path(place))

    def _below(self, root: str, name: str) -> str | None:
        """Return the path of a photo below the old folder; None if it is not in it."""
        written = root + name if self._is_url else Path(os.path.normpath(root + name)).as_posix()
        for form in (str, nfc):
            for place, folder in ((written, self._old), (self._places.of(root, name), self._resolved)):
                if form(place).startswith(form(folder)):
                    return "/".join(place.split("/")[folder.count("/") :])
        return None


def _absolute(folder: str) -> str:
    """Return an absolute path without ``..``, with ``/`` at the end; links stay."""
    return f"{Path(os.path.abspath(folder)).as_posix().rstrip('/')}/"  # noqa: PTH100  (Path.absolute keeps ``..``)


def plan(
    stored: Sequence[Stored],
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    progress: Progress = silent,
) -> Relocation:
    """Find the new places of all photos below a folder, and compare the files there.

    A file of the same size and modification time is the same; others are read.

    Args:
        stored: photos of the collection.
        old: the folder as the collection has it, a tar file, or an address such as ``s3://bucket/photos``.
        new: the folder where the photos are now.
        progress: called for each photo.

    Raises:
        InputError: ``new`` is not a folder, no photo is below ``old``, or two photos would have one name.
    """
    new = existing(Path(new))
    if not new.is_dir():
        raise InputError(f"{shown(str(new))}: expected the folder where the photos are now, found none; check it")
    move = Move(old, new)
    placed = [(image, before, move.of(image.root, image.name)) for image, before in stored]
    names = Counter((image if source is None else source).name for image, _, source in placed)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise InputError(f"two photos would be named '{shown(twice[0])}'; rename the folder {shown(str(new))}")
    pairs = [(image, before, source) for image, before, source in placed if source is not None]
    if not pairs:
        raise InputError(_nothing_below(stored, old))
    moved: dict[int, tuple[Source, Content | None]] = {}
    missing, changed = [], []
    with progress("comparing photos", len(pairs)) as step:
        for image, before, source in tracked(pairs, step):
            now = _content(source, before)
            moved[image.id] = (source, now or before)
            if not os.path.exists(source.path):  # noqa: PTH110  (Path.exists raises for a name that is too long)
                missing.append(image.name)
            elif now is None:
                changed.append(image.name)
    renamed = {image.name: source.name for image, _, source in pairs if image.name != source.name}
    same = len(pairs) - len(missing) - len(changed)
    return Relocation(moved, same, renamed, tuple(missing), tuple(changed))


def broken(
    entries: Sequence[UnreadablePhoto], old: str | os.PathLike[str], new: str | os.PathLike[str]
) -> list[UnreadablePhoto]:
    """Return the entries of unreadable photos, those below a folder with their new names and places."""
    move = Move(old, new)
    moved: list[UnreadablePhoto] = []
    for entry in entries:
        source = move.of(entry["root"], entry["image"]) if "root" in entry else None
        if source is None:
            moved.append(entry)
        else:
            moved.append({"image": source.name, "reason": entry["reason"], "root": source.root})
    return moved


def doubts(planned: Relocation, new: str | os.PathLike[str]) -> str:
    """Return in one line which photos are missing or differ in the new folder, and what to do."""
    found = []
    if planned.missing:
        found.append(f"{len(planned.missing):,} are missing, '{shown(planned.missing[0])}' first")
    if planned.changed:
        found.append(f"{len(planned.changed):,} differ, '{shown(planned.changed[0])}' first")
    return (
        f"{shown(os.fspath(new))}: of {counted(len(planned.moved), 'photo')} that the collection has of this folder, "
        f"{' and '.join(found)}; check the folder, or relocate all of them with --yes"
    )


def _nothing_below(stored: Sequence[Stored], old: str | os.PathLike[str]) -> str:
    roots = Counter(image.root for image, _ in stored)
    known = ", ".join(shown(root) for root, _ in roots.most_common(3))
    more = f" and {len(roots) - 3:,} more" if len(roots) > 3 else ""
    found = f"its photos are in {known}{more}" if known else "it has no photos"
    return f"{shown(os.fspath(old))}: no photo of the collection is in this folder; {found}"


def _content(source: Source, before: Content | None) -> Content | None:
    """Return what a file is now if it has the same bytes as before; None otherwise."""
    if before is None:
        return None
    try:
        status = source.path.stat()
        if (status.st_size, status.st_mtime_ns) == (before.size, before.modified):
            return before
        now = content(source.path) if status.st_size == before.size else None
    except (OSError, ImageError):
        return None
    return now if now is not None and now.digest == before.digest else None
