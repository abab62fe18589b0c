"""A collection: build it from photos, open it, search it. Opening and scanning never import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udq import drift, scan, segments, storage
from udq.config import IndexConfig
from udq.drift import Drift
from udq.errors import CollectionError
from udq.model import Model
from udq.progress import Progress, silent
from udq.segments import Image, Segment
from udq.types import SearchResult

if TYPE_CHECKING:
    from udq.datasets import GroundTruth
    from udq.extract import Extractor
    from udq.update import Changes
    from udq.verify import Damage

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

    def add(
        self, images: PathLike | Sequence[PathLike], *, sync: bool = False, progress: Progress = silent
    ) -> tuple[Collection, Changes]:
        """Add photos, and return the collection as it is then and what was done.

        What the collection holds already is not looked at again: a file of the size and time that it had is the same,
        and so is one of other times with the same bytes. A file whose bytes have changed takes the place of the photo
        of its name, under a new id. Photos are committed some hundreds at a time: what a kill cuts off, the same call
        goes on with.

        Args:
            images: a file or a folder (searched through and through), or several.
            sync: make the collection hold these photos and no others: photos that are gone are removed, and one that
                was renamed or moved keeps its id and its codes.
            progress: is told of each photo.

        Raises:
            InputError: a path is missing, another process is changing the collection, or with ``sync`` not one of the
                collection's photos is among ``images``.
        """
        from udq import update

        arguments = [images] if isinstance(images, str | os.PathLike) else list(images)
        changes = update.add(self, arguments, mirror=sync, progress=progress)
        return self.refreshed(), changes

    def remove(self, names: Sequence[str]) -> tuple[Collection, Changes]:
        """Remove photos, and return the collection as it is then and what was done; their files are left alone.

        Args:
            names: as indexed. One that ends in ``/`` stands for all photos of that folder, one with ``*`` or ``?`` for
                all that match.

        Raises:
            InputError: one of them names no photo; nothing is removed then.
        """
        from udq import update

        changes = update.remove(self, names)
        return self.refreshed(), changes

    def compact(self) -> Collection:
        """Write segments anew without what was removed and as few as can be, and return the collection as it is then.

        Answers stay what they were.
        """
        from udq import update

        update.compact(self)
        return self.refreshed()

    def verify(self) -> list[Damage]:
        """Read every byte of the collection and return what is not as it was written."""
        from udq import verify

        return verify.verify(self.path)

    def refreshed(self) -> Collection:
        """Return the collection as it is now: itself where nothing has changed since it was opened."""
        newest = storage.read_manifest(self.path)
        if newest == self._manifest:
            return self
        opened = Collection(self.path, device=self.device)
        seen_alike = all(
            newest.document.get(part) == self._manifest.document.get(part)
            for part in ("config", "backbone", *storage.GIVEN)
        )
        if seen_alike and "extractor" in self.__dict__:
            opened.__dict__["extractor"] = self.extractor  # loading it takes longer than all the rest
        return opened

    def __len__(self) -> int:
        """Return the number of photos that can be found."""
        return self._manifest.images

    @property
    def regions(self) -> int:
        """Regions of all photos that can be found."""
        return self._manifest.regions

    @property
    def config(self) -> IndexConfig:
        """What the collection was built with."""
        return self._manifest.config

    @property
    def broken(self) -> list[dict[str, str]]:
        """Photos that could not be read when they were indexed: ``image`` and ``reason``."""
        return self._manifest.broken

    @cached_property
    def images(self) -> list[Image]:
        """The photos, in the order of their ids."""
        return [segment.images[row] for segment in self.segments for row in segment.living.tolist()]

    @property
    def names(self) -> list[str]:
        """Names of the photos, in the order of their ids."""
        return [image.name for image in self.images]

    @property
    def model(self) -> Model:
        """Fully connected layers and quantizer."""
        return self._held[0]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Codes, boxes and photos."""
        return self._held[1]

    @cached_property
    def _held(self) -> tuple[Model, tuple[Segment, ...]]:
        """Model and segments of one state, opened on first use.

        A writer may have changed the collection twice meanwhile and deleted what it held then. As nothing has been
        answered from that, this is then a reader of the newest state.
        """
        while True:
            try:
                model = storage.read_model(self.path, self._manifest)
                shape = {"subspaces": model.quantizer.subspaces, "codewords": model.quantizer.codewords}
                return model, tuple(segments.read(self.path, self._manifest, **shape))
            except CollectionError:
                newest = storage.read_manifest(self.path)
                if newest == self._manifest:
                    raise
                self._manifest = newest

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

    @property
    def drift(self) -> Drift | None:
        """How well the codes say what newer photos show, beside older ones; None where there is nothing to compare."""
        return drift.measure(self.segments, self._manifest.fitted_before)

    def info(self) -> dict[str, Any]:
        """Return what the collection holds, JSON-serialisable."""
        document = self._manifest.document
        size = sum(storage.sizes_of(document).values())
        measured = self.drift
        return {
            "path": str(self.path),
            "format_version": document["version"],
            "udq": document["udq"],
            "created": document["created"],
            "changed": document.get("changed"),
            "images": len(self),
            "regions": self._manifest.regions,
            "removed": self._manifest.removed["images"],
            "segments": len(self._manifest.segments),
            "bytes_per_region": self.model.quantizer.bits / 8,
            "subspaces": self.model.quantizer.subspaces,
            "codewords": self.model.quantizer.codewords,
            "bytes_on_disk": size,
            "model": document["model"]["origin"],
            "training": document["training"],
            "config": document["config"],
            **self._manifest.given,
            "scan": scan.kernel(),
            "drift": None if measured is None else measured.to_json(),
            "broken": self.broken,
            "passed_over": document["passed_over"],
        }
