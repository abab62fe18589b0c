"""The photos that the examples of a query come from: a collection ranks these first, and they are no evidence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from udq.errors import ImageError
from udq.photos import source
from udq.store.segments import StoredPhoto
from udq.types import Example


class ShownPhotos:
    """The photos in which the examples of a query show the object; recognised in a collection by path or by bytes."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Take the examples that show the object, not those that are marked as wrong."""
        self._photos = [Path(example.photo) for example in examples if not example.wrong]

    def __contains__(self, photo: StoredPhoto) -> bool:
        """Whether a photo of a collection is one of them, or a file of the same bytes, as after an upload."""
        name = photo.image.name.rpartition("/")[2]  # a Path takes much longer, and almost no photo is an example
        if name in self._paths and os.path.realpath(photo.image.path) == self._paths[name]:
            return True
        content = photo.content
        return content is not None and content.size in self._sizes and content.digest in self._digests

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Name -> path without links."""
        return {photo.name: os.path.realpath(photo) for photo in self._photos}

    @cached_property
    def _sizes(self) -> set[int]:
        sizes = set()
        for photo in self._photos:
            with contextlib.suppress(OSError):  # removed since it was encoded
                sizes.add(photo.stat().st_size)
        return sizes

    @cached_property
    def _digests(self) -> set[bytes]:
        """Computed only if a photo has the size of one of these."""
        digests = set()
        for photo in self._photos:
            with contextlib.suppress(ImageError):
                digests.add(source.content(photo).digest)
        return digests
