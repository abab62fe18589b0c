"""Unpack tar archives, never writing outside the target folder."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path

from udq.common.progress import Progress, silent
from udq.common.text import one_line
from udq.errors import UdqError

_ARCHIVES = (".tgz", ".tar.gz", ".tar")


def is_archive(file: Path) -> bool:
    """Return whether a file is an archive that ``unpack`` reads."""
    return file.name.endswith(_ARCHIVES)


def unpack(archive: Path, folder: Path, *, remedy: str = "get it again", progress: Progress = silent) -> None:
    """Unpack a tar archive, or copy a file of another kind.

    Args:
        archive: a file ending in ``.tgz``, ``.tar.gz`` or ``.tar``; any other is copied as it is.
        folder: the target, created if missing; files of the same names are replaced.
        remedy: what to do if the archive is damaged, for the message.
        progress: called for each file.

    Raises:
        UdqError: the archive is damaged or incomplete, or would write outside the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_archive(archive):
        if archive.parent.resolve() != folder.resolve():
            shutil.copyfile(archive, folder / archive.name)
        return
    try:
        # As a stream: listing a large compressed archive costs as much as unpacking it.
        with tarfile.open(archive, "r|*") as opened, progress(f"files of {archive.name}", None) as step:
            for member in opened:
                # Refuses absolute paths, '..', links out of the folder and devices, and drops odd permissions.
                opened.extract(member, folder, filter="data")
                step()
    except tarfile.FilterError as error:
        raise UdqError(f"{archive}: is not unpacked, for safety: {error}; get the archive from its own page") from error
    # KeyError: a hard link to a missing member; ValueError: a name that is not allowed for files.
    except (tarfile.TarError, EOFError, zlib.error, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the archive
            raise
        reason = one_line(str(error.args[0]) if isinstance(error, KeyError) else error)
        raise UdqError(f"{archive}: damaged, not a whole archive ({reason}); {remedy}") from error
