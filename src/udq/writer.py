"""A collection being written: segment by segment into a hidden folder, then put in its place in one step.

    .photos.udq.partial/
      journal.json               what is done: the same entries that the manifest will have
      lock                       held by the process that builds
      scratch/                   what the build alone needs: features of the training photos, checkpoints of training
      model-..., segments/...    as in the collection

A build that is killed, interrupted or runs out of disk leaves this folder, and the same build goes on from there.
"The same" is a fingerprint of its settings and photos; any other build of that name starts anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from udq import __version__, archive, storage
from udq.config import IndexConfig
from udq.errors import DiskError, InputError, UdqError
from udq.head import Arrays
from udq.model import Model
from udq.storage import Image, Manifest
from udq.types import Codes, Regions

_JOURNAL = "journal.json"


class Writer:
    """One build of a collection, new or in place of what an existing one holds.

    Use as a context manager. Leaving it before ``commit`` keeps what is done for the next try.
    """

    def __init__(self, path: Path, *, fingerprint: str, replaces: Manifest | None = None) -> None:
        """Prepare to build at ``path``, or go on where a build with the same fingerprint stopped.

        Args:
            path: where the collection will be.
            fingerprint: of everything that the outcome depends on.
            replaces: what is at ``path`` now and will be replaced; nothing may be there where None.

        Raises:
            InputError: something is at ``path`` already, or another process is building there.
        """
        self._path = path.resolve()
        self._replaces = replaces
        self._partial = partial_folder(self._path)
        self._check_place(path)
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UdqError(
                f"{path}: cannot create a collection here ({error.strerror}); choose another place"
            ) from error
        self._lock = filelock.FileLock(self._partial / "lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{path}: another udq is building it; wait until that is done") from None
        self._journal: dict[str, Any] = {"model": {}}
        try:
            self._check_place(path)  # again, now that nobody else can change it
            self._journal = self._resumable(fingerprint) or self._begin(fingerprint)
            _guarded(self.scratch, lambda: self.scratch.mkdir(exist_ok=True))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if not (any(self.scratch.glob("*")) or self._journal["model"]):
            self.abandon()
        self._lock.release()

    def abandon(self) -> None:
        """Remove what is done: going on with it cannot help."""
        _release_for_windows(self._lock)
        shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        """A folder for what the build alone needs, gone when it ends."""
        return self._partial / "scratch"

    @property
    def has_model(self) -> bool:
        """Whether an earlier try has already come as far as the model."""
        return bool(self._journal["model"])

    @property
    def done(self) -> int:
        """Photos that an earlier try and this one have written or found broken, from the first one on."""
        return int(self._journal["done"])

    @property
    def broken(self) -> list[dict[str, str]]:
        """Those of them that could not be read."""
        return list(self._journal["broken"])

    def read_model(self) -> Model:
        """Read the model of an earlier try."""
        return Model.from_bytes(self._find(self._journal["model"]["file"]).read_bytes())

    def read_backbone(self) -> Arrays:
        """Read the trained convolutions of an earlier try, by name; empty where they were left alone."""
        entry = self._journal["backbone"]
        return {} if entry is None else storage.arrays_from(self._find(entry["file"]).read_bytes())

    def put_model(
        self,
        model: Model,
        *,
        training: dict[str, Any] | None = None,
        backbone: Arrays | None = None,
    ) -> None:
        """Write what encodes regions and queries.

        Args:
            model: fully connected layers and quantizer.
            training: how training went, JSON-serialisable.
            backbone: the convolutions where they were trained too, by name.
        """
        if backbone:
            name = self._name("backbone")
            self._journal["backbone"] = {"file": name, **_write(self._partial / name, archive.to_bytes(backbone))}
        name = self._name("model")
        entry = {"file": name, "origin": model.origin, **_write(self._partial / name, model.to_bytes())}
        self._note(model=entry, training=training)

    def put_segment(
        self,
        codes: Codes,
        regions: Regions,
        counts: Sequence[int],
        images: Sequence[Image],
        *,
        done: int,
        broken: Sequence[dict[str, str]] = (),
    ) -> None:
        """Append photos.

        Args:
            codes, regions: of all regions of these photos.
            counts: ``counts[i]`` >= 1 consecutive regions belong to ``images[i]``.
            images: the photos.
            done: photos up to here, with those that are broken.
            broken: those so far.
        """
        name = self._name("segments", after=len(self._journal["segments"]))
        folder = self._partial / name
        _guarded(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        listed = {
            "names": [image.name for image in images],
            "roots": [image.root for image in images],
            "sizes": [[image.width, image.height] for image in images],
        }
        files = {
            "codes.npy": _npy(storage.pack(codes)),
            "boxes.npy": _npy(_whole_pixels(regions)),
            "offsets.npy": _npy(offsets),
            "images.json": json.dumps(listed, ensure_ascii=False).encode(),
        }
        entry = {
            "folder": name,
            "images": len(images),
            "regions": len(codes),
            "files": {file: _write(folder / file, data) for file, data in files.items()},
        }
        self._note(segments=[*self._journal["segments"], entry], done=done, broken=list(broken))

    def commit(
        self,
        config: IndexConfig,
        *,
        given: Mapping[str, storage.Fingerprint | None],
        broken: Sequence[dict[str, str]],
        passed_over: int = 0,
    ) -> None:
        """Write the manifest and put the collection in its place.

        Args:
            config: what it was built with.
            given: the user's own files that it was built with, as in ``Manifest.given``.
            broken: photos that could not be read.
            passed_over: files that are no photos.
        """
        document = {
            "format": storage.FORMAT,
            "version": storage.VERSION,
            "udq": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config.to_dict(),
            **given,
            "model": self._journal["model"],
            "backbone": self._journal["backbone"],
            "training": self._journal["training"],
            "segments": self._journal["segments"],
            "broken": list(broken),
            "passed_over": passed_over,
        }
        document["sha256"] = storage.document_sum(document)
        (self._partial / "segments").mkdir(exist_ok=True)
        _write(self._partial / storage.MANIFEST, json.dumps(document, indent=1, ensure_ascii=False).encode())
        for folder in (*self._partial.glob("segments/*"), self._partial / "segments", self._partial):
            _sync_folder(folder)
        shutil.rmtree(self.scratch, ignore_errors=True)
        try:
            if self._replaces is None:
                self._put_in_place()
            else:
                self._replace(Manifest(document))
        except OSError as error:
            raise UdqError(
                f"{self._path}: cannot put the collection in place ({error.strerror}); "
                "make room for it, and run the same command again to go on"
            ) from error

    def _put_in_place(self) -> None:
        _release_for_windows(self._lock)
        self._partial.rename(self._path)
        _sync_folder(self._path.parent)
        for own in ("lock", _JOURNAL):
            (self._path / own).unlink(missing_ok=True)

    def _replace(self, manifest: Manifest) -> None:
        """Bring the new files beside the old ones and swap the manifest; the oldest ones then go."""
        listed = storage.files_of(manifest)
        for name in listed:
            target = self._path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._find(name) != target:
                self._find(name).replace(target)
        for folder in (*self._path.glob("segments/*"), self._path / "segments", self._path):
            _sync_folder(folder)
        (self._partial / storage.MANIFEST).replace(self._path / storage.MANIFEST)
        _sync_folder(self._path)
        assert self._replaces is not None
        kept = {*listed, *storage.files_of(self._replaces)}
        for name in set(storage.own_files(self._path)) - kept:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open; the next change tries again
                (self._path / name).unlink()
        for folder in self._path.glob("segments/*"):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        self._journal["model"] = {}  # nothing to go on with: leaving the context sweeps the folder

    def _check_place(self, path: Path) -> None:
        """Refuse to build over what is there, or to replace what has become something else."""
        if self._replaces is None:
            if path.exists() or path.is_symlink():
                raise InputError(f"{path}: already exists; choose another name, or delete it first")
        elif storage.read_manifest(path).document["sha256"] != self._replaces.document["sha256"]:
            raise InputError(f"{path}: was changed meanwhile; run the same command again")

    def _resumable(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the journal of an earlier try of the same build, where its files are whole."""
        try:
            journal: dict[str, Any] = json.loads((self._partial / _JOURNAL).read_bytes())
            expected = storage.sizes_of(journal)
            whole = all(self._find(name).stat().st_size == size for name, size in expected.items())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        (self._partial / storage.MANIFEST).unlink(missing_ok=True)
        return journal if whole and journal["fingerprint"] == fingerprint else None

    def _begin(self, fingerprint: str) -> dict[str, Any]:
        """Clear away what another build left, and start a journal."""
        for left in self._partial.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
        journal: dict[str, Any] = {"fingerprint": fingerprint, "model": {}, "backbone": None, "training": None}
        journal |= {"segments": [], "done": 0, "broken": []}
        write_whole(self._partial / _JOURNAL, json.dumps(journal).encode())
        return journal

    def _note(self, **entries: object) -> None:
        self._journal |= entries
        write_whole(self._partial / _JOURNAL, json.dumps(self._journal, ensure_ascii=False).encode())

    def _name(self, kind: str, *, after: int = 0) -> str:
        """The name of a file or folder of this build, numbered after those of the collection it replaces."""
        first = 1 if self._replaces is None else storage.next_number(self._replaces.document, kind)
        return storage.numbered(kind, first + after)

    def _find(self, name: str) -> Path:
        """Where a file of this build is: a try that stopped in its last step may have moved it into place."""
        file = self._partial / name
        return file if self._replaces is None or file.exists() else self._path / name


def partial_folder(path: Path) -> Path:
    """Return the hidden folder that a build of ``path`` works in."""
    path = path.resolve()
    return path.with_name(f".{path.name}.partial")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, in place of an older one."""
    beside = path.with_name(f"{path.name}.new")
    _write(beside, data)
    _guarded(path, lambda: beside.replace(path))


def _guarded(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written ({error.strerror}); make room, and run the same command again to go on"
        ) from error


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write a new file, to the disk itself, and return its size and checksum."""

    def write() -> None:
        path.unlink(missing_ok=True)  # of a try that was killed before it could note it
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    _guarded(path, write)
    return {"bytes": len(data), "sha256": storage.checksum(data)}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _whole_pixels(regions: Regions) -> NDArray[np.uint16]:
    """Round boxes outwards, so that not even a tiny photo's smallest window becomes empty."""
    noise = 1e-3
    low, high = np.floor(regions.boxes[:, :2] + noise), np.ceil(regions.boxes[:, 2:] - noise)
    return np.concatenate([low, high], axis=1).astype(np.uint16)


def _release_for_windows(lock: filelock.BaseFileLock) -> None:
    """Let go of a lock in a folder that is about to move or go; elsewhere it is safer to hold it meanwhile."""
    if os.name == "nt":
        lock.release()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
