"""Download a data set, or copy it from a folder; compare checksums with an earlier download, and unpack.

FOLDER/dataset.txt               name of the data set
FOLDER/archives/NAME             the downloaded file; NAME.part while it is incomplete
FOLDER/archives/NAME.sha256      its checksum in sha256sum's format, written once NAME is known to be whole; a later
                                 download must have the same
FOLDER/archives/NAME.new         a complete download with another checksum; used once NAME.sha256 is deleted
FOLDER/photos, FOLDER/groundtruth, FOLDER/NAME.mat
                                 the unpacked files
FOLDER/queries                   query photos, if the protocol keeps them out of the database
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udq.common.files import read_text
from udq.common.lock import Lock
from udq.common.progress import Progress, silent
from udq.common.text import counted
from udq.datasets import load
from udq.datasets.catalogue import Dataset, File, marked, write_mark
from udq.datasets.download.fetching import checked, fetch, version_file
from udq.datasets.download.split import move_queries
from udq.datasets.download.unpack import unpack
from udq.errors import DiskError, InputError, UdqError


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will do, for the user to confirm.

    Attributes:
        dataset: the data set.
        folder: the folder to download to.
        mirror: another address that serves the files under the same names.
        source: a folder that contains the files; nothing is downloaded.

    Raises:
        InputError: before anything is written: an invalid address, a file missing from ``source``, or ``folder`` holds
            another data set.
    """

    dataset: Dataset
    folder: Path
    mirror: str | None = None
    source: Path | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.mirror is not None:
            raise InputError("--mirror and --from: expected one of them, found both")
        if self.source is not None and not self.source.is_dir():
            raise InputError(f"{self.source}: expected a folder with {self.dataset.files[0].name}, found no folder")
        for file in self.dataset.files:
            self.address(file)
            if self.source is not None and not (self.source / file.name).is_file():
                found = "half of it (.part)" if (self.source / f"{file.name}.part").exists() else "no such file"
                raise InputError(f"{self.source}: expected {file.name}, found {found}; it is at {file.url}")
        self.check_mark()

    def check_mark(self) -> None:
        """Raise InputError if the folder holds another data set: the two would overwrite each other."""
        if (other := marked(self.folder)) not in (None, self.dataset.name):
            raise InputError(
                f"{self.folder}: expected a folder for {self.dataset.name}, found one of {other}; choose another folder"
            )

    @property
    def archives(self) -> Path:
        """Folder of the downloaded files."""
        return self.folder / "archives"

    @property
    def fetched(self) -> tuple[str, ...]:
        """The addresses that will be downloaded from."""
        if self.source is not None:
            return ()
        return tuple(self.address(file) for file in self.dataset.files if not _is_there(self.archives / file.name))

    def address(self, file: File) -> str:
        """Return the address of a file."""
        return checked(file.url if self.mirror is None else f"{self.mirror.rstrip('/')}/{file.name}")

    def question(self) -> str:
        """Return what the user confirms: addresses, size and folder."""
        addresses = "\n".join(f"  {url}" for url in self.fetched)
        size = f"about {self.dataset.size}" if self.dataset.size else "size not stated on its page"
        files = counted(len(self.fetched), "file")
        return f"{self.dataset.name}: {self.dataset.what}; {files}, {size}, to {self.folder}\n{addresses}"

    def left(self) -> str:
        """Return how to continue an interrupted download, and which files start over."""
        parts = sorted(self.archives.glob("*.part"))
        restarted = [part.stem for part in parts if part.stat().st_size and not version_file(part).exists()]
        exception = f"; {', '.join(restarted)} starts over, since its server cannot resume" if restarted else ""
        return f"what was downloaded is kept; run the same command to continue{exception}"


def download(plan: DownloadPlan, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Download, compare and unpack every file of a data set. Call it once the user has confirmed ``plan.question()``.

    Returns:
        ``name`` and ``sha256`` of each file, and the folder that it was unpacked ``into``.

    Raises:
        InputError: another process downloads to the folder, or it holds another data set.
        UdqError: a file cannot be downloaded, its checksum differs from the known or recorded one, or it is damaged.
        DiskError: a file cannot be unpacked; the archive is kept.
    """
    plan.archives.mkdir(parents=True, exist_ok=True)
    with Lock(plan.archives, plan.folder, doing="downloading to it"):
        plan.check_mark()
        write_mark(plan.folder, plan.dataset)
        files = [_obtain(plan, file, progress) for file in plan.dataset.files]
        if plan.dataset.queries_apart:
            move_queries(load(plan.dataset.name, plan.folder), plan.folder / "photos", plan.folder / "queries")
    return files


def _is_there(file: Path) -> bool:
    """Return whether a file need not be downloaded: it exists, or ``NAME.new`` does without a recorded checksum."""
    return file.exists() or (_new_file(file).exists() and not _record(file).exists())


def _new_file(file: Path) -> Path:
    return file.with_name(file.name + ".new")


def _record(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _obtain(plan: DownloadPlan, file: File, progress: Progress) -> dict[str, Any]:
    """Download or copy a file, compare its checksum and unpack it; return its facts as ``download`` does."""
    archive = plan.archives / file.name
    record = _record(archive)
    recorded = record.exists()
    if plan.source is not None:
        given = plan.source / file.name
        remedy = f"copy it again from {file.url}"
        digest = _digest(file, given, remedy, progress)
        _compare(given, digest, record, f"{remedy}, or delete {record} to use this one")
    else:
        given = archive
        if not _is_there(archive):
            digest = _fetch(plan, file, archive, progress)
        else:
            if not archive.exists():
                _new_file(archive).replace(archive)
            remedy = "delete it and run the command again"
            digest = _digest(file, archive, remedy, progress)
            _compare(archive, digest, record, remedy)
        remedy = (
            f"delete it and {record.name} and run the command again" if recorded else "run the command again to get it"
        )
    into = plan.folder / file.into
    try:
        # Every time, so that the same command also restores lost or damaged unpacked files.
        _unpack(plan.dataset, given, into, remedy, progress)
    except DiskError:  # no fault of the archive
        raise
    except UdqError as error:
        if recorded or plan.source is not None:
            raise
        archive.unlink()  # it was never whole; if it stayed, the next run would not download it again
        raise UdqError(f"{error} ({archive.name} is removed)") from error
    if not recorded:
        record.write_text(f"{digest}  {file.name}\n", encoding="utf-8", newline="\n")
    if file.name.endswith(".rar"):
        into = given.parent
    return {"name": file.name, "sha256": digest, "into": str(into)}


def _fetch(plan: DownloadPlan, file: File, archive: Path, progress: Progress) -> str:
    """Download a file and return its SHA-256; if that differs from the recorded one, keep the file as ``NAME.new``."""
    part, record, new = archive.with_name(archive.name + ".part"), _record(archive), _new_file(archive)
    fetch(plan.address(file), part, progress=progress)
    try:
        digest = _digest(file, part, "it is removed; try again, or use --mirror or --from", progress)
    except UdqError:
        part.unlink()
        version_file(part).unlink(missing_ok=True)
        raise
    try:
        _compare(part, digest, record, f"it is kept as {new.name}: delete {record} to use it, or try again")
    except UdqError:
        part.replace(new)
        version_file(part).unlink(missing_ok=True)
        raise
    part.replace(archive)
    # Only now: until then, a complete part is recognised by its version.
    version_file(part).unlink(missing_ok=True)
    new.unlink(missing_ok=True)
    return digest


def _unpack(dataset: Dataset, file: Path, into: Path, remedy: str, progress: Progress) -> None:
    """Unpack an archive, or check and copy a file of another kind."""
    if file.name.endswith(".rar"):  # Python cannot unpack it; the data set's hint says how to
        with file.open("rb") as opened:
            if opened.read(4) != b"Rar!":
                raise UdqError(f"{file}: damaged, not a RAR archive; {remedy}")
        return
    if file.name.endswith(".mat"):
        try:
            load(dataset.name, file)
        except InputError as error:
            raise UdqError(f"{error}; {remedy}") from error
    unpack(file, into, remedy=remedy, progress=progress)


def _digest(file: File, path: Path, remedy: str, progress: Progress) -> str:
    """Return the SHA-256 of a copy of a file; raises UdqError if it is not the one that the catalogue knows."""
    with progress(f"checksum of {path.name}", None), path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if file.sha256 and digest != file.sha256:
        raise UdqError(
            f"{path}: expected sha256 {file.sha256[:16]}..., the one of {file.name}, found {digest[:16]}...: "
            f"damaged or another file; {remedy}"
        )
    return digest


def _compare(path: Path, digest: str, record: Path, remedy: str) -> None:
    """Raise UdqError if a file's SHA-256 differs from the recorded one, if there is a record."""
    if not record.exists():
        return
    expected = read_text(record, errors="replace").split()[:1]
    if expected != [digest]:
        raise UdqError(
            f"{path}: expected sha256 {''.join(expected)[:16]}..., as {record} says, found {digest[:16]}...: "
            f"damaged or another version; {remedy}"
        )
