"""Data set -> folder: its files fetched or taken from a folder, compared with what came before, and unpacked.

FOLDER/dataset.txt               the name of the data set that the folder is of
FOLDER/archives/NAME             as it came; NAME.part while it comes
FOLDER/archives/NAME.sha256      in sha256sum's format, written when NAME was found whole; later ones must equal it
FOLDER/archives/NAME.new         whole, but not what the record says; deleting the record takes it
FOLDER/photos, FOLDER/groundtruth, FOLDER/NAME.mat
                                 what was in it
FOLDER/queries                   query photos, of data sets whose database they are not in
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from udq import datasets
from udq.common.progress import Progress, silent
from udq.common.text import counted
from udq.datasets.catalogue import Dataset, File, marked, write_mark
from udq.datasets.download.fetching import checked, fetch, mark_of
from udq.datasets.download.split import move_queries
from udq.datasets.download.unpack import unpack
from udq.errors import InputError, UdqError


@dataclass(frozen=True)
class DownloadPlan:
    """What a download will do, for a person to agree to.

    Attributes:
        dataset: what is wanted.
        folder: where it goes.
        mirror: another address that has the files under their names.
        source: a folder that has them; nothing is fetched.

    Raises:
        InputError: what cannot be done is said before anything is: no address, a file that ``source`` lacks, a folder
            of another data set.
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
                half = (self.source / f"{file.name}.part").exists()
                raise InputError(
                    f"{self.source}: expected {file.name}, found {'half of it (.part)' if half else 'no such file'}; "
                    f"it is at {file.url}"
                )
        self.check_mark()

    def check_mark(self) -> None:
        """Raise InputError where the folder is of another data set: the two would overwrite each other."""
        if (other := marked(self.folder)) not in (None, self.dataset.name):
            raise InputError(
                f"{self.folder}: expected a folder for {self.dataset.name}, found one of {other}; choose another folder"
            )

    @property
    def archives(self) -> Path:
        """Where the files are kept as they came."""
        return self.folder / "archives"

    @property
    def fetched(self) -> tuple[str, ...]:
        """The addresses that will be asked."""
        if self.source is not None:
            return ()
        return tuple(self.address(file) for file in self.dataset.files if not _kept(self.archives / file.name))

    def address(self, file: File) -> str:
        """Return where a file is fetched from."""
        return checked(file.url if self.mirror is None else f"{self.mirror.rstrip('/')}/{file.name}")

    def question(self) -> str:
        """Return what a person agrees to: addresses, size, and where it goes."""
        addresses = "\n".join(f"  {url}" for url in self.fetched)
        size = f"about {self.dataset.size}" if self.dataset.size else "its page does not say how large"
        files = counted(len(self.fetched), "file")
        return f"{self.dataset.name}: {self.dataset.what}; {files}, {size}, to {self.folder}\n{addresses}"

    def left(self) -> str:
        """Return what an interrupted download left, and what the same command does with it."""
        parts = sorted(self.archives.glob("*.part"))
        anew = [part.stem for part in parts if part.stat().st_size and not mark_of(part).exists()]
        begins = f", but {', '.join(anew)} begins anew: its server has no way to go on" if anew else ""
        return f"what came is kept, and the same command goes on from there{begins}"


def download(plan: DownloadPlan, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Fetch, compare and unpack every file of a data set. Call it when a person has agreed to ``plan.question()``.

    Returns:
        Of each file its ``name``, ``sha256``, and the folder it went ``into``.

    Raises:
        InputError: another process downloads to that folder, or it is of another data set.
        UdqError: a file cannot be fetched, differs from what came before, or is not a whole archive.
    """
    plan.archives.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(plan.archives / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"{plan.folder}: another udq is downloading to it; wait until that is done") from None
    try:
        plan.check_mark()
        write_mark(plan.folder, plan.dataset)
        files = [_obtain(plan, file, progress) for file in plan.dataset.files]
        if plan.dataset.queries_apart:
            move_queries(datasets.load(plan.dataset.name, plan.folder), plan.folder / "photos", plan.folder / "queries")
    finally:
        lock.release()
    return files


def _kept(file: Path) -> bool:
    """Whether a file is there already: as it came, or aside and to be taken now that its record is deleted."""
    return file.exists() or (_aside(file).exists() and not _record(file).exists())


def _aside(file: Path) -> Path:
    return file.with_name(file.name + ".new")


def _record(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _obtain(plan: DownloadPlan, file: File, progress: Progress) -> dict[str, Any]:
    ours = plan.archives / file.name
    record = _record(ours)
    known = record.exists()
    if plan.source is not None:
        kept = plan.source / file.name
        again = f"copy it again from {file.url}"
        digest = _compared(kept, record, f"{again}, or delete {record} to take this one", progress)
    else:
        kept = ours
        if not _kept(ours):
            digest = _fetch(plan, file, ours, progress)
        else:
            if not ours.exists():
                _aside(ours).replace(ours)
            digest = _compared(ours, record, "delete it and run the command again", progress)
        again = f"delete it and {record.name} and run the command again" if known else "run the command again to get it"
    into = plan.folder / file.into
    try:
        # Each time, so that the same command also brings back what was lost or spoilt of an unpacked copy.
        _unpack(plan.dataset, kept, into, again, progress)
    except UdqError as error:
        if known or plan.source is not None:
            raise
        ours.unlink()  # our own: it never was whole, and kept it would stand in the way of a whole one
        raise UdqError(f"{error} ({ours.name} is removed)") from error
    if not known:
        record.write_text(f"{digest}  {file.name}\n", encoding="utf-8", newline="\n")
    if file.name.endswith(".rar"):
        into = kept.parent
    return {"name": file.name, "sha256": digest, "into": str(into)}


def _fetch(plan: DownloadPlan, file: File, ours: Path, progress: Progress) -> str:
    """Fetch a file and return its SHA-256; one that is not what the record says is kept aside."""
    part, record, aside = ours.with_name(ours.name + ".part"), _record(ours), _aside(ours)
    fetch(plan.address(file), part, progress=progress)
    try:
        digest = _compared(
            part, record, f"it is kept as {aside.name}: delete {record} to take it, or try again", progress
        )
    except UdqError:
        part.replace(aside)
        mark_of(part).unlink(missing_ok=True)
        raise
    part.replace(ours)
    # Not before: a part that is whole is known by its mark.
    mark_of(part).unlink(missing_ok=True)
    aside.unlink(missing_ok=True)
    return digest


def _unpack(dataset: Dataset, kept: Path, into: Path, again: str, progress: Progress) -> None:
    """Unpack an archive; of a file of another kind, look first whether it is what it should be."""
    if kept.name.endswith(".rar"):  # for which Python has nothing: the hint says what to do
        with kept.open("rb") as opened:
            if opened.read(4) != b"Rar!":
                raise UdqError(f"{kept}: damaged, not a RAR archive; {again}")
        return
    if kept.name.endswith(".mat"):
        try:
            datasets.load(dataset.name, kept)
        except InputError as error:
            raise UdqError(f"{error}; {again}") from error
    unpack(kept, into, then=again, progress=progress)


def _compared(file: Path, record: Path, then: str, progress: Progress) -> str:
    """Return a file's SHA-256; it must equal the record, where there is one."""
    with progress(f"checksum of {file.name}", None), file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not record.exists():
        return digest
    expected = record.read_text(encoding="utf-8", errors="replace").split()[:1]
    if expected != [digest]:
        raise UdqError(
            f"{file}: expected sha256 {''.join(expected)[:16]}..., as {record} says, found {digest[:16]}...: "
            f"damaged or another version; {then}"
        )
    return digest
