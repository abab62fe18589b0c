"""Changing a collection in place: new files beside the old ones, then one manifest in place of another.

A change writes files that no manifest names yet, brings them to the disk, and swaps the manifest. Killed before that,
it has changed nothing; what it wrote is swept away by the next change. The files that the manifest before named stay
until then, for those who have the collection open.
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
"""What of a build is done, in the folder that it works in."""


class Transaction:
    """The right to change a collection, and what it holds meanwhile; any number of commits, each of them whole.

    Use as a context manager.

    Attributes:
        path: the collection.
        manifest: what it holds since the last commit.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            InputError: another process is changing the collection, or an interrupted ``udq retrain`` waits to go on.
            CollectionError: the collection is damaged.
        """
        manifests.read_manifest(path)  # before a lock is written to what is no collection
        self.path = path
        self._lock = Lock(path, path)
        self._written: list[str] = []
        try:
            self.manifest = manifests.numbered_photos(manifests.read_manifest(path))
            waiting = partial_folder(path)
            if _is_done(waiting, self.manifest):  # but for this, when it was killed
                shutil.rmtree(waiting, ignore_errors=True)
            elif _is_worth_keeping(waiting):
                raise InputError(
                    f"{path}: an interrupted 'udq retrain' waits to go on in {waiting}; "
                    "run it again to finish it, or delete that folder to give it up"
                )
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()
        self._lock.release()

    def write(self, photos: Sequence[StoredPhoto], *, codewords: int) -> dict[str, Any]:
        """Write a segment that a commit can name; return its entry.

        Args:
            photos: at least one, in ascending order of ids.
            codewords: K.
        """
        name = manifests.numbered("segments", manifests.next_number(self.path, "segments"))
        self._written.append(name)
        return segments.write(self.path, name, photos, codewords=codewords)

    def commit(self, entries: Sequence[Mapping[str, Any]], removed: Mapping[int, int], **facts: object) -> Manifest:
        """Make the collection hold other photos, in one step.

        Args:
            entries: of all its segments, in ascending order of their photos' ids.
            removed: id -> number of regions of each photo that those segments hold and the collection shall not.
            facts: other entries of the manifest that change: ``broken``, ``next_id``, ``passed_over``.
        """
        before = self.manifest
        counted = {"next_id": before.next_id, "fitted_before": before.fitted_before}  # in format 2, not written down
        document = before.document | counted | facts
        document |= {"version": manifests.VERSION, "segments": list(entries), "changed": now()}
        ids = np.array(sorted(removed), np.int64)
        document["removed"] = self._put_removed(ids, sum(removed.values()))
        document["sha256"] = manifests.document_sum(document)
        if (self.path / "segments").is_dir():
            sync_folder(self.path / "segments")
        self.manifest = Manifest(document)
        swap(self.path, self.manifest, before)
        self._written.clear()
        return self.manifest

    def _give_up(self) -> None:
        """Delete what was written and is of no commit: on a full disk it would be in the way of the next try."""
        if not self._written:
            return
        with contextlib.suppress(UdqError, OSError):
            named = set(manifests.files_of(manifests.read_manifest(self.path)))  # as it is on the disk
            for name in set(manifests.own_files(self.path)) - named:
                if name.startswith(tuple(self._written)):
                    (self.path / name).unlink()
            for folder in self._written:
                with contextlib.suppress(OSError):  # no folder, or not empty
                    (self.path / folder).rmdir()

    def _put_removed(self, ids: NDArray[np.int64], regions: int) -> dict[str, Any] | None:
        if not len(ids):
            return None
        with contextlib.suppress(CollectionError):  # being repaired
            if np.array_equal(ids, manifests.read_removed(self.path, self.manifest)):
                entry: dict[str, Any] = self.manifest.document["removed"]
                return entry
        name = manifests.numbered("removed", manifests.next_number(self.path, "removed"))
        self._written.append(name)
        return {"file": name, "images": len(ids), "regions": regions, **write_new(self.path / name, npy(ids))}


def swap(path: Path, manifest: Manifest, before: Manifest) -> None:
    """Put a manifest in place of the one before, and sweep away what neither of them names."""
    data = manifests.dump(manifest.document)
    # The copy first: where it stands for a damaged manifest, it must not bring back what was removed.
    write_whole(path / manifests.COPY, data)
    write_whole(path / manifests.MANIFEST, data)
    guarded(path, lambda: sync_folder(path))
    sweep(path, manifest, before)


def sweep(path: Path, *named: Manifest) -> None:
    """Delete what is of a collection by its name and that no given manifest names."""
    kept = {name for manifest in named for name in manifests.files_of(manifest)}
    for name in set(manifests.own_files(path)) - kept:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open; the next change tries again
            (path / name).unlink()
    for folder in path.glob("segments/*"):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _is_done(partial: Path, manifest: Manifest) -> bool:
    """Whether what is left of a retraining has nothing in it that is not in place."""
    try:
        done: bool = json.loads((partial / JOURNAL).read_bytes())["model"]["file"] == manifest.document["model"]["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return done


def _is_worth_keeping(partial: Path) -> bool:
    """Whether a build that stopped has come so far that to give it up is for its owner to say."""
    try:
        journal = json.loads((partial / JOURNAL).read_bytes())
        return bool(journal["model"] or any((partial / "scratch").glob("*")))
    except (OSError, ValueError, KeyError, TypeError):
        return False
