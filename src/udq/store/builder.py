"""Building a collection: segment by segment in a hidden folder that is renamed into place in one step.

    .photos.udq.partial/
      journal.json               what is complete: the same entries that the manifest will have
      lock                       locked by the process that builds (by one that retrains: the lock in the collection)
      scratch/                   files of the build alone: features of the training photos, checkpoints of training
      model-..., segments/...    as in the collection

A build that is killed, interrupted or runs out of disk leaves this folder, and the same build resumes from it.
A retraining that ended with an error of its own, before it had a model, is marked ``failed`` in its journal: the same
command still resumes from it, but it keeps no other change of the collection waiting, and the next one deletes it.
"The same" means the same fingerprint of settings and photos; any other build of that name starts from the beginning.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udq._version import __version__
from udq.common import files, npz
from udq.common.files import guarded, partial_folder, reason, remedy, sync_folder, write_new, write_whole
from udq.common.lock import LOCK, OWNER, Lock
from udq.config import IndexConfig
from udq.errors import CollectionError, DiskError, InputError
from udq.photos.listing import NOTHING, PassedOver
from udq.quantization.model import Model
from udq.store import layout, segments
from udq.store import manifest as manifests
from udq.store.layout import COPY, MANIFEST
from udq.store.manifest import Manifest, UnreadablePhoto, now
from udq.store.segments import StoredPhoto
from udq.store.transaction import JOURNAL, flush_committed, read_journal, swap
from udq.types import Arrays


class CollectionBuilder:
    """One build of a collection, a new one or a replacement of an existing one.

    Use as a context manager. Leaving it before ``commit`` keeps the completed work, so that the same build can resume.
    """

    def __init__(self, path: Path, *, fingerprint: str, replaces: Manifest | None = None) -> None:
        """Prepare to build at ``path``, or resume a build with the same fingerprint.

        Args:
            path: where the collection will be.
            fingerprint: checksum of everything that the result depends on.
            replaces: the manifest of the collection at ``path`` that will be replaced; if None, ``path`` must not
                exist.

        Raises:
            InputError: something is at ``path`` already, or another process is building there.
            DiskError: the folder cannot be created or written.
        """
        self._path = path.resolve()
        self._replaces = replaces
        self._partial = partial_folder(self._path)
        self._check_place(path)
        if self._partial.is_symlink():
            raise InputError(f"{self._partial}: a link, where the unfinished collection is written; delete the link")
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what, instead = "create a collection here", "choose another folder"
            if replaces is not None:
                what, instead = f"write beside it, in {self._partial.parent}", "make that folder writable"
            raise DiskError(f"{path}: cannot {what} ({reason(error)}); {instead}") from error
        self._lock = Lock(self._partial if replaces is None else self._path, path)
        self._journal: dict[str, Any] = {"model": {}}
        try:
            self._check_place(path)  # again, now that no other process can change it
            self._journal = self._resumable(fingerprint) or self._begin(fingerprint)
            guarded(self.scratch, lambda: self.scratch.mkdir(exist_ok=True))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> CollectionBuilder:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if not (any(self.scratch.glob("*")) or self._journal["model"]):
            self.abandon()
        elif self._replaces is not None and not self._journal["model"] and kind is not None and _is_final(kind):
            with contextlib.suppress(DiskError):
                self._note(failed=True)
        self._lock.release()

    def abandon(self) -> None:
        """Delete the completed work: resuming would fail in the same way."""
        self._lock.release_for_windows()
        shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        """A folder for files of the build alone, deleted when it ends."""
        return self._partial / "scratch"

    @property
    def has_model(self) -> bool:
        """Whether an earlier run has completed the model."""
        return bool(self._journal["model"])

    @property
    def done(self) -> int:
        """Number of photos, from the first one on, that earlier runs and this one wrote or found unreadable."""
        return int(self._journal["done"])

    @property
    def broken(self) -> list[UnreadablePhoto]:
        """The unreadable ones among these."""
        return list(self._journal["broken"])

    def read_model(self) -> Model:
        """Read the completed model."""
        return Model.from_bytes(self._read(self._journal["model"]))

    def read_backbone(self) -> Arrays:
        """Read the trained convolutions, by name; empty if they were not trained."""
        entry = self._journal["backbone"]
        return {} if entry is None else manifests.arrays_from(self._read(entry))

    def put_model(
        self,
        model: Model,
        *,
        training: dict[str, Any] | None = None,
        backbone: Arrays | None = None,
    ) -> None:
        """Write the model that encodes regions and queries.

        Args:
            model: fully connected layers and quantizer.
            training: history of the training, JSON-serialisable.
            backbone: trained convolutions, by name; None or empty if they were not trained.
        """
        if backbone:
            name = self._name("backbone")
            self._journal["backbone"] = {"file": name, **self._write(name, npz.to_bytes(backbone))}
        name = self._name("model")
        entry = {"file": name, "origin": model.origin, **self._write(name, model.to_bytes())}
        self._note(model=entry, training=training)

    def put_segment(
        self, photos: Sequence[StoredPhoto], *, codewords: int, done: int, broken: Sequence[UnreadablePhoto] = ()
    ) -> None:
        """Append photos.

        Args:
            photos: at least one, with higher ids than the photos written before.
            codewords: K.
            done: number of photos so far, unreadable ones included.
            broken: unreadable photos so far.
        """
        name = self._name("segments", after=len(self._journal["segments"]))
        files.delete(self._partial / name)  # left by a run that was killed before it could record it
        segments.make_folder(self._partial, name)
        entry = segments.write(self._partial, name, photos, codewords=codewords)
        self._note(segments=[*self._journal["segments"], entry], done=done, broken=list(broken))

    def commit(
        self,
        config: IndexConfig,
        *,
        given: Mapping[str, files.Fingerprint | None],
        broken: Sequence[UnreadablePhoto],
        next_id: int,
        passed_over: PassedOver = NOTHING,
        exclude: Sequence[str] = (),
    ) -> None:
        """Write the manifest and move the collection into place.

        Args:
            config: the settings it was built with.
            given: the user's own files that it was built with, as in ``Manifest.given``.
            broken: photos that could not be read.
            next_id: the id of the next photo that is added.
            passed_over: counts of what was not indexed in the given folders.
            exclude: the user's patterns of what is not indexed, for later additions.

        Raises:
            CollectionError: the result could not be opened; nothing is moved into place.
            DiskError: it cannot be moved into place, or the disk refuses afterwards; the message says which.
        """
        document = {
            "format": manifests.FORMAT,
            "version": manifests.VERSION,
            "udq": __version__,
            "created": now(),
            "config": config.to_dict(),
            **given,
            "model": self._journal["model"],
            "backbone": self._journal["backbone"],
            "training": self._journal["training"],
            "segments": self._journal["segments"],
            "removed": None,
            "next_id": next_id,
            "fitted_before": next_id,
            "broken": list(broken),
            **passed_over.to_json(),
            "exclude": list(exclude),
        }
        document["sha256"] = manifests.document_sum(document)
        shutil.rmtree(self.scratch, ignore_errors=True)
        try:
            if self._replaces is None:
                self._put_in_place(Manifest(document))
            else:
                self._replace(Manifest(document), self._replaces)
        except OSError as error:
            raise DiskError(
                f"{self._path}: cannot move the collection into place ({reason(error)}); "
                f"{remedy(error)}, and run the same command again to resume"
            ) from error

    def _put_in_place(self, manifest: Manifest) -> None:
        """Write the manifest and rename the folder."""
        data = manifests.expect_readable(self._path, manifest)
        (self._partial / "segments").mkdir(exist_ok=True)
        for name in (COPY, MANIFEST):
            write_new(self._partial / name, data)
        for folder in (self._partial / "segments", self._partial):
            sync_folder(folder)
        self._lock.release_for_windows()
        self._partial.rename(self._path)
        for name in (JOURNAL, OWNER):
            with contextlib.suppress(OSError):  # of no use any more, and in nothing's way
                (self._path / name).unlink()
        flush_committed(self._path, self._path.parent)

    def _replace(self, manifest: Manifest, before: Manifest) -> None:
        """Move the new files beside the old ones and replace the manifest."""
        kept = manifests.listed(self._path)
        for name in manifests.files_of(manifest):
            written, target = self._find(name), self._path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if written != target:
                if name in kept:
                    raise CollectionError(f"{target}: in use by the collection; delete {self._partial}, and try again")
                written.replace(target)
        swap(self._path, manifest, before)
        self._journal["model"] = {}  # nothing left to resume: leaving the context deletes the folder

    def _check_place(self, path: Path) -> None:
        """Raise InputError if ``path`` is taken, or if the collection to replace has changed."""
        if self._replaces is None:
            if path.exists() or path.is_symlink():
                raise InputError(f"{path}: already exists; choose another name, or delete it first")
        elif manifests.read_manifest(path).document["sha256"] != self._replaces.document["sha256"]:
            raise InputError(f"{path}: was changed by another process; run the same command again")

    def _resumable(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the journal of an interrupted run of the same build; None unless all its files are complete."""
        journal = read_journal(self._partial)
        if journal is None or journal["fingerprint"] != fingerprint or files.has_links(self._partial):
            return None
        sizes = manifests.sizes_of(journal)
        if not all(files.is_regular(self._find(name), size) for name, size in sizes.items()):
            return None
        for name in (MANIFEST, COPY):
            files.delete(self._partial / name)
        if journal.pop("failed", None):
            write_whole(self._partial / JOURNAL, json.dumps(journal).encode())
        return journal

    def _begin(self, fingerprint: str) -> dict[str, Any]:
        """Delete the files of any other build, and start a journal."""
        files.empty_folder(self._partial, keep=(LOCK, OWNER))
        journal: dict[str, Any] = {"fingerprint": fingerprint, "model": {}, "backbone": None, "training": None}
        journal |= {"segments": [], "done": 0, "broken": []}
        # The numbers of its files start after those of the collection it replaces.
        journal["first"] = {kind: self._first_number(kind) for kind in ("model", "backbone", "segments")}
        write_whole(self._partial / JOURNAL, json.dumps(journal).encode())
        return journal

    def _note(self, **entries: object) -> None:
        self._journal |= entries
        write_whole(self._partial / JOURNAL, json.dumps(self._journal).encode())

    def _name(self, kind: str, *, after: int = 0) -> str:
        """Return the name of a file or folder of this build."""
        return layout.numbered(kind, self._journal["first"][kind] + after)

    def _first_number(self, kind: str) -> int:
        names = () if self._replaces is None else manifests.listed(self._path)
        return guarded(self._path, lambda: layout.next_number(self._path, kind, names))

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file of the build, in place of one that a run left that was killed before it could record it."""
        files.delete(self._partial / name)
        return write_new(self._partial / name, data)

    def _read(self, entry: Mapping[str, Any]) -> bytes:
        """Read a file that the journal lists."""
        folder = self._partial if self._find(entry["file"]) == self._partial / entry["file"] else self._path
        try:
            return layout.read_listed(folder, entry)
        except CollectionError as error:
            raise CollectionError(
                f"{folder / entry['file']}: damaged; delete {self._partial}, and run the same command again to start "
                "from the beginning"
            ) from error

    def _find(self, name: str) -> Path:
        """Return the path of a file of this build; an earlier run may have moved it into place before it stopped."""
        file = self._partial / name
        return file if self._replaces is None or file.exists() else self._path / name


def _is_final(kind: type[BaseException]) -> bool:
    """Whether an error comes from the work itself: not from Ctrl-C or a full disk, after which a build goes on."""
    return issubclass(kind, Exception) and not issubclass(kind, DiskError | OSError | MemoryError)
