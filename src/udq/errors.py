"""The exceptions of udq. The command line prints one as a single line and ends with its exit code.

    UdqError                    exit 1: the work failed
    ├── InputError              exit 2: an argument cannot be right (also a ValueError)
    │   ├── NoPhotosError       there are no photos in a folder
    │   └── UnknownPhotoError   a collection has no photo with an id
    ├── ImageError              a photo cannot be read, or exceeds a limit
    │   └── UnreadableError     the same, with the content of the file (``photos.source``)
    ├── CollectionError         not a collection, damaged, or of another format version
    │   └── DamagedError        a damaged file, with its path and the reason (``store.layout``)
    ├── ConsentError            a change that may lose photos, and that was not confirmed
    ├── DiskError               a file cannot be written: the disk is full, or read-only
    └── DependencyError         an optional package is missing (also an ImportError)

A message states what was expected, what was found and what to do, on one line.
"""

from __future__ import annotations

INTERRUPTED = 130
"""Exit code of the command line after Ctrl-C."""


class UdqError(Exception):
    """Base class of every error that udq raises on purpose; ``exit_code`` is that of the command line."""

    exit_code = 1


class InputError(UdqError, ValueError):
    """An argument that cannot be right: a missing path, an inverted box, an unknown name."""

    exit_code = 2


class NoPhotosError(InputError):
    """Folders or other arguments that contain no photos."""


class UnknownPhotoError(InputError):
    """An id that no photo of a collection has (any more)."""


class ImageError(UdqError):
    """A photo that cannot be read or decoded, or that exceeds a limit."""


class CollectionError(UdqError):
    """A path that is not a collection, or a collection that is damaged or of another format version."""


class ConsentError(UdqError):
    """A change that may lose photos: it is made only after a confirmation, ``--yes`` or ``yes=True``."""


class DiskError(UdqError):
    """A file that cannot be written: the disk is full, or the folder is read-only."""


class DependencyError(UdqError, ImportError):
    """An optional package that the request needs is not installed."""
