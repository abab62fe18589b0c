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

from udq.common.files import guarded, npy, partial_folder, sync_folder, write_new, write_whole
from udq.common.lock import Lock
from udq.errors import CollectionError, InputError, UdqError
from udq.store import manifest as manifests
from udq.store import segments
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
            CollectionError: the collection is damaged.
        """
        manifests.read_manifest(path)  # before a lock is written to a folder that is not a collection
        self.path = path
        self._lock = Lock(path, path)
        self._written: list[str] = []
        try:
            self.manifest = manifests.numbered_photos(manifests.read_manifest(path))
            partial = partial_folder(path)
            if _is_in_place(partial, self.manifest):  # killed after its last step, before it deleted its folder
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
        name = manifests.numbered("segments", manifests.next_number(self.path, "segments"))
        self._written.append(name)
        return segments.write(self.path, name, photos, codewords=codewords)

    def commit(self, entries: Sequence[Mapping[str, Any]], removed: Mapping[int, int], **facts: object) -> Manifest:
        """Replace the contents of the collection in one step.

        Args:
            entries: entries of all its segments, in ascending order of their photos' ids.
            removed: id -> number of regions of each photo that is in one of these segments but removed.
            facts: other keys of the manifest that change: ``broken``, ``next_id``, ``passed_over``.
        """
        before = self.manifest
        ids = {"next_id": before.next_id, "fitted_before": before.fitted_before}  # format 2 does not store these
        document = before.document | ids | facts
        document |= {"version": manifests.VERSION, "segments": list(entries), "changed": now()}
        document["removed"] = self._put_removed(np.array(sorted(removed), np.int64), sum(removed.values()))
        document["sha256"] = manifests.document_sum(document)
        if (self.path / "segments").is_dir():
            sync_folder(self.path / "segments")
        self.manifest = Manifest(document)
        swap(self.path, self.manifest, before)
        self._written.clear()
        return self.manifest

    def _delete_uncommitted(self) -> None:
        """Delete files that were written but not committed: on a full disk, the next try needs their space."""
        if not self._written:
            return
        with contextlib.suppress(UdqError, OSError):
            listed = set(manifests.files_of(manifests.read_manifest(self.path)))  # on the disk, not in memory
            for name in set(manifests.own_files(self.path)) - listed:
                if name.startswith(tuple(self._written)):
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
        name = manifests.numbered("removed", manifests.next_number(self.path, "removed"))
        self._written.append(name)
        return {"file": name, "images": len(ids), "regions": regions, **write_new(self.path / name, npy(ids))}


def swap(path: Path, manifest: Manifest, before: Manifest) -> None:
    """Replace the previous manifest, and delete files that neither of the two lists."""
    data = manifests.dump(manifest.document)
    # The copy first: if it replaces a damaged manifest, it must not bring back photos that were removed.
    write_whole(path / manifests.COPY, data)
    write_whole(path / manifests.MANIFEST, data)
    guarded(path, lambda: sync_folder(path))
    sweep(path, manifest, before)


def sweep(path: Path, *kept_by: Manifest) -> None:
    """Delete files with names of a collection that none of the given manifests lists."""
    kept = {name for manifest in kept_by for name in manifests.files_of(manifest)}
    for name in set(manifests.own_files(path)) - kept:
        with contextlib.suppress(OSError):  # on Windows a file that is open stays; the next change tries again
            (path / name).unlink()
    for folder in path.glob("segments/*"):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _is_in_place(partial: Path, manifest: Manifest) -> bool:
    """Whether the folder of a retraining is left over from one that already replaced the collection."""
    try:
        model = json.loads((partial / JOURNAL).read_bytes())["model"]["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(model == manifest.document["model"]["file"])


def _is_worth_keeping(partial: Path) -> bool:
    """Whether an interrupted build has completed work that only the user should discard."""
    try:
        journal = json.loads((partial / JOURNAL).read_bytes())
        return bool(journal["model"] or any((partial / "scratch").glob("*")))
    except (OSError, ValueError, KeyError, TypeError):
        return False
