"""One exception tree. The command line turns it into one line and an exit code.

    UdqError                    exit 1: the work failed
    ├── InputError              exit 2: an argument cannot be right (also a ValueError)
    │   └── NoPhotosError       a folder without a single photo
    ├── ImageError              a photo cannot be read or is refused
    ├── CollectionError         not a collection, damaged, or of another format version
    ├── DiskError               a file cannot be written: no room, or not allowed
    └── DependencyError         an optional package is missing (also an ImportError)

A message says what was expected, what was found and what to do, in one line.
"""

from __future__ import annotations


class UdqError(Exception):
    """Base of every error a user of udq may see; ``exit_code`` is the command line's."""

    exit_code = 1


class InputError(UdqError, ValueError):
    """An argument that cannot be right: a missing path, an inverted box, an unknown name."""

    exit_code = 2


class NoPhotosError(InputError):
    """A folder, or several, without a single photo."""


class ImageError(UdqError):
    """A photo that cannot be decoded, or that a limit refuses."""


class CollectionError(UdqError):
    """A path that is not a collection, or one that is damaged or of another format version."""


class DiskError(UdqError):
    """A file that cannot be written: the disk has no room, or the folder allows no writing."""


class DependencyError(UdqError, ImportError):
    """An optional package that the request needs is not installed."""
