"""Data set -> folder: its files fetched or taken from a folder, compared with what came before, and unpacked.

FOLDER/archives/NAME             as it came; NAME.part while it comes
FOLDER/archives/NAME.sha256      written after the first download, in sha256sum's format; later ones must equal it
FOLDER/photos, FOLDER/groundtruth, FOLDER/NAME.mat
                                 what was in it
FOLDER/queries                   query photos, of data sets whose database they are not in
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udq import datasets
from udq.datasets.catalogue import Dataset, File
from udq.datasets.fetch import fetch
from udq.datasets.split import move_queries
from udq.datasets.unpack import unpack
from udq.errors import InputError, UdqError
from udq.progress import Progress, silent


@dataclass(frozen=True)
class Plan:
    """What a download will do, for a person to agree to.

    Attributes:
        dataset: what is wanted.
        folder: where it goes.
        mirror: another address that has the files under their names.
        source: a folder that has them; nothing is fetched.
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

    @property
    def archives(self) -> Path:
        """Where the files are kept as they came."""
        return self.folder / "archives"

    @property
    def fetched(self) -> tuple[str, ...]:
        """The addresses that will be asked."""
        if self.source is not None:
            return ()
        return tuple(self.address(file) for file in self.dataset.files if not (self.archives / file.name).exists())

    def address(self, file: File) -> str:
        """Return where a file is fetched from."""
        return file.url if self.mirror is None else f"{self.mirror.rstrip('/')}/{file.name}"

    def question(self) -> str:
        """Return what a person agrees to: addresses, size, and where it goes."""
        addresses = "\n".join(f"  {url}" for url in self.fetched)
        return f"{self.dataset.name}: {self.dataset.what}; about {self.dataset.size}, to {self.folder}\n{addresses}"


def download(plan: Plan, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Fetch, compare and unpack every file of a data set. Call it when a person has agreed to ``plan.question()``.

    Returns:
        Of each file its ``name``, ``sha256``, and the folder it went ``into``.

    Raises:
        InputError: ``source`` lacks a file.
        UdqError: a file cannot be fetched, differs from what came before, or is not a whole archive.
    """
    plan.archives.mkdir(parents=True, exist_ok=True)
    files = [_obtain(plan, file, progress) for file in plan.dataset.files]
    if plan.dataset.queries_apart:
        move_queries(datasets.load(plan.dataset.name, plan.folder), plan.folder / "photos", plan.folder / "queries")
    return files


def _obtain(plan: Plan, file: File, progress: Progress) -> dict[str, Any]:
    kept = plan.archives / file.name
    record = kept.with_name(file.name + ".sha256")
    if plan.source is not None:
        kept = plan.source / file.name
        if not kept.is_file():
            half = (plan.source / f"{file.name}.part").exists()
            raise InputError(
                f"{plan.source}: expected {file.name}, found {'half of it (.part)' if half else 'no such file'}; "
                f"it is at {file.url}"
            )
        digest = _compared(kept, record, f"copy it again from {file.url}", progress)
    elif kept.exists():
        digest = _compared(kept, record, "delete it and run the command again", progress)
    else:
        url, part = plan.address(file), kept.with_name(file.name + ".part")
        fetch(url, part, progress=progress)
        try:
            digest = _compared(part, record, f"try again, or delete {record} to take the new one", progress)
        except UdqError:
            part.unlink()  # whole, and wrong: nothing to go on from
            raise
        part.replace(kept)
    into = plan.folder / file.into
    if file.name.endswith(".rar"):  # for which Python has nothing: the hint says what to do
        return {"name": file.name, "sha256": digest, "into": str(kept.parent)}
    # Each time, so that the same command also brings back what was lost or spoilt of an unpacked copy.
    unpack(kept, into, progress=progress)
    return {"name": file.name, "sha256": digest, "into": str(into)}


def _compared(file: Path, record: Path, then: str, progress: Progress) -> str:
    """Return a file's SHA-256; it must equal the record, which is written where there is none."""
    with progress(f"checksum of {file.name}", None), file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not record.exists():
        record.write_text(f"{digest}  {record.stem}\n", encoding="utf-8")
        return digest
    expected = record.read_text(encoding="utf-8").split()[:1]
    if expected != [digest]:
        raise UdqError(
            f"{file}: expected sha256 {''.join(expected)[:16]}..., as {record} says, found {digest[:16]}...: "
            f"damaged or another version; {then}"
        )
    return digest
