"""Atomic changes of a collection: write new files beside the old ones, then replace the manifest.

A change writes files that no manifest lists yet, syncs them to the disk, and replaces the manifest. If it is killed
before that, the collection is unchanged, and the next change deletes the files it left. Files that only the previous
manifest lists also stay until then, for readers that have the collection open.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common.files import (
    MAX_JSON,
    guarded,
    npy,
    partial_folder,
    read_regular,
    reason,
    sync_folder,
    write_all,
    write_new,
)
from udq.common.lock import Lock
from udq.errors import CollectionError, DiskError, InputError, UdqError
from udq.store import layout, schema, segments
from udq.store import manifest as manifests
from udq.store.layout import COPY, MANIFEST
from udq.store.manifest import Manifest, now
from udq.store.segments import StoredPhoto

JOURNAL = "journal.json"
"""Name of the file in the folder of a build that lists what the build has completed."""


class Transaction:
    """The lock on a collection, and any number of atomic commits to it.

    Use as a context manager.

    Attributes:
        path: the collection.
        manifest: its state since the last commit.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            InputError: another process is changing the collection, or an interrupted ``udq retrain`` can be resumed.
            CollectionError: the collection is damaged, or contains a link.
            DiskError: the lock cannot be written.
        """
        manifests.read_manifest(path)  # before a lock is written to a folder that is not a collection
        self.path = path
        self._lock = Lock(path, path)
        self._written: list[str] = []
        self._next: dict[str, int] = {}  # kind of file -> number of the next one
        try:
            self.manifest = manifests.numbered_photos(manifests.read_manifest(path))
            partial = partial_folder(path)
            # Killed after its last step, before it deleted its folder; or ended with an error before it had a model.
            if _is_in_place(partial, self.manifest) or _is_failed(partial):
                shutil.rmtree(partial, ignore_errors=True)
            elif _is_worth_keeping(partial):
                raise InputError(
                    f"{path}: an interrupted 'udq retrain' can be resumed from {partial}; "
                    "run it again to finish it, or delete that folder to discard it"
                )
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self._delete_uncommitted()
        self._lock.release()

    def write(self, photos: Sequence[StoredPhoto], *, codewords: int) -> dict[str, Any]:
        """Write a segment and return its entry for ``commit``.

        Args:
            photos: at least one, in ascending order of ids.
            codewords: K.
        """
        name = self._new_name("segments")
        segments.make_folder(self.path, name)
        self._written.append(name)
        return segments.write(self.path, name, photos, codewords=codewords)

    def commit(self, entries: Sequence[Mapping[str, Any]], removed: Mapping[int, int], **facts: object) -> Manifest:
        """Replace the contents of the collection in one step.

        Args:
            entries: entries of all its segments, in ascending order of their photos' ids.
            removed: id -> number of regions of each photo that is in one of these segments but removed.
            facts: other keys of the manifest that change: ``broken``, ``next_id``, ``passed_over``.

        Raises:
            CollectionError: the result could not be opened; nothing is changed.
            DiskError: the disk refuses. The message says whether the change is committed.
        """
        before = self.manifest
        ids = {"next_id": before.next_id, "fitted_before": before.fitted_before}  # format 2 does not store these
        document = before.document | ids | facts
        document |= {"version": manifests.VERSION, "segments": list(entries), "changed": now()}
        document["removed"] = self._put_removed(np.array(sorted(removed), np.int64), sum(removed.values()))
        document["sha256"] = manifests.document_sum(document)
        changed = Manifest(document)
        swap(self.path, changed, before)
        self.manifest = changed
        self._written.clear()
        return changed

    def _delete_uncommitted(self) -> None:
        """Delete files that were written but not committed: on a full disk, the next try needs their space."""
        if not self._written:
            return
        with contextlib.suppress(UdqError, OSError):
            kept = {*manifests.files_of(manifests.read_manifest(self.path)), *manifests.listed(self.path)}
            for name in set(layout.own_files(self.path)) - kept:
                if name in self._written or name.rpartition("/")[0] in self._written:
                    (self.path / name).unlink()
            for folder in self._written:
                with contextlib.suppress(OSError):  # missing, or not empty
                    (self.path / folder).rmdir()

    def _put_removed(self, ids: NDArray[np.int64], regions: int) -> dict[str, Any] | None:
        if not len(ids):
            return None
        with contextlib.suppress(CollectionError):  # a repair replaces a damaged file
            if np.array_equal(ids, manifests.read_removed(self.path, self.manifest)):
                entry: dict[str, Any] = self.manifest.document["removed"]
                return entry
        name = self._new_name("removed")
        facts = write_new(self.path / name, npy(ids))
        self._written.append(name)
        return {"file": name, "images": len(ids), "regions": regions, **facts}

    def _new_name(self, kind: str) -> str:
        """Return a name that no file has, and that the manifest and its copy do not list."""
        if kind not in self._next:
            names = manifests.listed(self.path)
            self._next[kind] = guarded(self.path, lambda: layout.next_number(self.path, kind, names))
        self._next[kind] += 1
        return layout.numbered(kind, self._next[kind] - 1)


def swap(path: Path, manifest: Manifest, before: Manifest) -> None:
    """Replace the previous manifest, and delete files that neither of the two lists.

    Raises:
        CollectionError: the result could not be opened; nothing is changed.
        DiskError: the disk refuses. The message says whether the change is committed.
    """
    data = manifests.expect_readable(path, manifest)
    # The names of new files first: they must be on the disk before a manifest there lists them.
    new = set(manifests.files_of(manifest)) - set(manifests.files_of(before))
    folders = {path, *(path / parent for name in new for parent in Path(name).parents)}
    for folder in sorted(folders, reverse=True):
        sync_folder(folder)
    # The copy first: if it replaces a damaged manifest, it must not bring back photos that were removed.
    write_all([path / COPY, path / MANIFEST], data)
    flush_committed(path, path)
    sweep(path, manifest, before)


def flush_committed(path: Path, folder: Path) -> None:
    """Write the names in a folder to the disk itself, after a change of a collection.

    Raises:
        DiskError: the disk refuses, with a message that says that the change is committed.
    """
    try:
        sync_folder(folder)
    except DiskError as error:
        raise DiskError(
            f"{path}: the change is committed, but a power failure could undo it, because {folder} cannot be flushed "
            f"to the disk ({reason(error.__cause__ or error)}); check the disk, and run: udq verify {path}"
        ) from error


def sweep(path: Path, *kept_by: Manifest) -> None:
    """Delete files with names of a collection that no manifest lists: neither the given ones nor those on the disk."""
    with contextlib.suppress(OSError):  # the next change tries again
        kept = manifests.listed(path).union(*map(manifests.files_of, kept_by))
        for name in set(layout.own_files(path)) - kept:
            with contextlib.suppress(OSError):  # on Windows a file that is open stays
                (path / name).unlink()
        for name in layout.names_in(path):
            if name.startswith("segments/"):
                with contextlib.suppress(OSError):  # a file, or not empty
                    (path / name).rmdir()


def read_journal(partial: Path) -> dict[str, Any] | None:
    """Return the journal of a build; None if it is missing or damaged."""
    try:
        journal: dict[str, Any] = json.loads(read_regular(partial / JOURNAL, limit=MAX_JSON))
        schema.check_journal(journal)
    except (OSError, ValueError, RecursionError):
        return None
    return journal


def _is_in_place(partial: Path, manifest: Manifest) -> bool:
    """Whether the folder of a retraining is left over from one that already replaced the collection."""
    journal = read_journal(partial)
    return bool(journal and journal["model"] and journal["model"]["file"] == manifest.document["model"]["file"])


def _is_failed(partial: Path) -> bool:
    """Whether a retraining ended with an error, other than one of the disk, before it had a model."""
    journal = read_journal(partial)
    return journal is not None and not journal["model"] and journal.get("failed") is True


def _is_worth_keeping(partial: Path) -> bool:
    """Whether an interrupted build has completed work that only the user should discard."""
    journal = read_journal(partial)
    return journal is not None and bool(journal["model"] or any((partial / "scratch").glob("*")))
