"""A collection: build it from photos, open it, search it. Opening and scanning never import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq import storage
from udq.config import IndexConfig
from udq.model import Model
from udq.progress import Progress, silent
from udq.types import SearchResult

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.extract import Extractor

PathLike = str | os.PathLike[str]


class Collection:
    """Photos that can be searched for an object; read-only and safe to share between threads once opened."""

    def __init__(self, path: Path, *, device: str = "auto") -> None:
        """Open a collection; prefer ``Collection.open``."""
        self.path = path
        self.device = device
        self._manifest = storage.read_manifest(path)

    @staticmethod
    def open(path: PathLike, *, device: str = "auto") -> Collection:
        """Open a collection on disk.

        Args:
            path: the folder that ``build`` made.
            device: where queries are encoded: ``auto``, ``cpu`` or ``cuda``.
        """
        return Collection(Path(path), device=device)

    @staticmethod
    def build(
        images: PathLike | Sequence[PathLike],
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        weights: PathLike | None = None,
        rpn: PathLike | None = None,
        device: str = "auto",
        truth: GroundTruth | None = None,
        progress: Progress = silent,
    ) -> Collection:
        """Build a collection from photos, and open it.

        Args:
            images: a file or a folder (searched through and through), or several.
            path: the collection to make; nothing may be there yet.
            config: what to build it with; the ``default`` preset where None.
            weights: a file of weights instead of the backbone's usual ones.
            rpn: a region proposal network that ``udq train-rpn`` made, instead of the shipped one.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
            truth: a benchmark to measure after every round of training, for the curves; nothing goes by it.
            progress: is told of each photo.

        Raises:
            InputError: a path is missing, or something is already at ``path``.
            ImageError: not one photo can be read. Single broken photos are no error: see ``broken``.
        """
        from udq import index

        arguments = [images] if isinstance(images, str | os.PathLike) else list(images)
        index.build(
            arguments,
            Path(path),
            config=config or IndexConfig(),
            weights=None if weights is None else Path(weights),
            rpn=None if rpn is None else Path(rpn),
            device=device,
            truth=truth,
            progress=progress,
        )
        return Collection.open(path, device=device)

    @staticmethod
    def retrain(
        path: PathLike,
        *,
        config: IndexConfig | None = None,
        device: str = "auto",
        truth: GroundTruth | None = None,
        progress: Progress = silent,
    ) -> Collection:
        """Train a collection anew on its photos as they are now, encode them anew in its place, and open it.

        Whoever has the collection open goes on with what it was. Until the last step, which is atomic, it stays so.

        Args:
            path: the collection.
            config: what to build it with; that of the collection, with training, where None.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
            truth: a benchmark to measure after every round of training, for the curves; nothing goes by it.
            progress: is told of each photo.

        Raises:
            InputError: some of its photos are gone: no features are kept, so that photos must be looked at again.
        """
        from udq import index

        if config is None:
            config = Collection.open(path).config.replace({"training": {"enabled": True}})
        index.rebuild(Path(path), config=config, device=device, truth=truth, progress=progress)
        return Collection.open(path, device=device)

    def search(self, query: PathLike, box: Sequence[float] | None = None, *, k: int = 20) -> SearchResult:
        """Return the ``k`` photos most similar to the object in a box of a photo, best first.

        Args:
            query: a photo, in the collection or not.
            box: x1, y1, x2, y2 in pixels of that photo as a viewer shows it; the whole photo where None.
            k: photos wanted, >= 1; fewer come where the collection has fewer.
        """
        from udq import search

        return search.search(self, Path(query), box, k=k)

    def __len__(self) -> int:
        """Return the number of photos that can be found."""
        return self._manifest.images

    @property
    def config(self) -> IndexConfig:
        """What the collection was built with."""
        return self._manifest.config

    @property
    def broken(self) -> list[dict[str, str]]:
        """Photos that could not be read when the collection was built: ``image`` and ``reason``."""
        return self._manifest.broken

    @property
    def images(self) -> list[storage.Image]:
        """The photos; position is image id."""
        return [image for segment in self.segments for image in segment.images]

    @property
    def names(self) -> list[str]:
        """Names of the photos; position is image id."""
        return [image.name for image in self.images]

    @cached_property
    def model(self) -> Model:
        """Fully connected layers and quantizer."""
        return storage.read_model(self.path, self._manifest)

    @cached_property
    def segments(self) -> tuple[storage.Segment, ...]:
        """Codes, boxes and photos, opened on first use."""
        quantizer = self.model.quantizer
        return tuple(
            storage.read_segments(
                self.path, self._manifest, subspaces=quantizer.subspaces, codewords=quantizer.codewords
            )
        )

    @cached_property
    def extractor(self) -> Extractor:
        """The network that encodes queries as the photos were; the first use imports torch."""
        from udq.extract import Extractor

        extractor = Extractor(
            self.config.images,
            self.config.features,
            weights=storage.given_file(self._manifest.given, "weights"),
            rpn=storage.given_file(self._manifest.given, "rpn"),
            device=self.device,
        )
        extractor.trunk.load(storage.read_backbone(self.path, self._manifest))
        return extractor

    def damaged(self) -> list[str]:
        """Read every byte of the collection and return the names of files that are not as they were written."""
        return storage.damaged(self.path, self._manifest)

    def info(self) -> dict[str, Any]:
        """Return what the collection holds, JSON-serialisable."""
        document = self._manifest.document
        size = sum(storage.sizes_of(document).values())
        return {
            "path": str(self.path),
            "format_version": document["version"],
            "udq": document["udq"],
            "created": document["created"],
            "images": len(self),
            "regions": self._manifest.regions,
            "bytes_per_region": self.model.quantizer.bits / 8,
            "subspaces": self.model.quantizer.subspaces,
            "codewords": self.model.quantizer.codewords,
            "bytes_on_disk": size,
            "model": document["model"]["origin"],
            "training": document["training"],
            "config": document["config"],
            **self._manifest.given,
            "broken": self.broken,
            "passed_over": document["passed_over"],
        }
