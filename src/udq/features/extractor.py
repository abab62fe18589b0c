"""Photos to regions and their pooled features, as a stream: several photos at a time, in order, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udq.common import threads as thread_limits
from udq.common.text import shown
from udq.config import FeatureConfig, ImageConfig, KeypointConfig
from udq.errors import CollectionError, ImageError
from udq.features import proposals
from udq.features.device import Engine
from udq.features.proposals.base import Proposer, merged
from udq.features.trunk import Trunk
from udq.keypoints import extraction, sift
from udq.keypoints.codebook import NONE, Codebook
from udq.photos import decoding, pyramid, sandbox
from udq.photos.sandbox import Decoder
from udq.photos.source import Content, Source, UnreadableError
from udq.types import Arrays, Box, Features, Regions

NO_KEYPOINTS = KeypointConfig(most=0)
QUERY_SIDE = 192
"""Root of the area in pixels at which a boxed query is seen first; each further view has twice the side."""


@dataclass(frozen=True)
class ExtractedPhoto:
    """Regions and features of one photo, or the reason why it has none.

    Attributes:
        source: the photo.
        width, height: its size in pixels as a viewer shows it; 0 if it is broken.
        regions: R regions.
        features: (R, D) pooled features of unit length.
        of_view: (R,) int64, index of the view of the photo (``pyramid.views``) that each region is pooled from.
        points: (P, 24) uint8, local features as they are stored (``udq.keypoints.codebook``).
        broken: why the photo could not be decoded, or None.
        content: size, time and digest of its file; None if the file could not even be read.
    """

    source: Source
    width: int
    height: int
    regions: Regions
    features: Features
    of_view: NDArray[np.int64]
    points: NDArray[np.uint8] = field(default_factory=NONE.copy)
    broken: str | None = None
    content: Content | None = None


class Extractor:
    """A trunk and a region proposer on one device.

    Attributes:
        engine: device, precision and library of the convolutions.
        trunk: pixels and boxes -> features.
        weights: file of the backbone's weights, or None for its default ones.
        rpn: file of the region proposal network, or None for the one shipped with udq.
        keypoints: settings of local features.
    """

    def __init__(
        self,
        image: ImageConfig,
        feature: FeatureConfig,
        keypoints: KeypointConfig = NO_KEYPOINTS,
        *,
        weights: Path | None = None,
        rpn: Path | None = None,
        device: str = "auto",
        network: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Build the network.

        Args:
            image: scale of photos, and the limit of their size.
            feature: backbone, proposer and pooling.
            keypoints: local features that are extracted with the regions of a photo; none by default.
            weights: file of weights to use instead of the backbone's default ones.
            rpn: a file that ``udq train-rpn`` wrote, instead of the network shipped for the backbone.
            device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
            network, threads: as in ``Engine.fastest``.
        """
        self.weights = weights
        self.rpn = rpn
        self._image = image
        self._feature = feature
        self.keypoints = keypoints
        self.engine = Engine.fastest(device, network, threads)
        # Distributing the weights of a light network takes longer than the work on them.
        with thread_limits.limit_this_thread():
            self.trunk = Trunk(feature, weights=weights, device=self.engine.device, precision=self.engine.weights)
        self._compiled: dict[int, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
        self._compiling = threading.Lock()
        # Computing a query and its mirror image side by side takes as long as one after the other on all threads if
        # the machine is idle, and a fraction if it is busy: threads that share a layer wait for the slowest of them.
        self._views_at_once = min(2 if image.mirror else 1, self.engine.threads)
        self._views = ThreadPoolExecutor(
            self._views_at_once,
            "describe",
            initializer=thread_limits.set_for_this_thread,
            initargs=(max(1, self.engine.threads // self._views_at_once),),
        )

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return self.trunk.channels

    @property
    def device(self) -> torch.device:
        """The device that the network runs on."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """Number format of the convolutions' arithmetic; everything after them is float32."""
        return str(self.engine.precision).removeprefix("torch.")

    @cached_property
    def propose(self) -> Proposer:
        """The region proposer, built on first use: a search proposes no regions and need not wait for it."""
        return proposals.build(self._feature, rpn=self.rpn, engine=self.engine)

    def proposing(self) -> Self:
        """Return the extractor ready for photos, so that a file that does not fit, or no OpenCV, is refused at once."""
        _ = self.propose
        if self.keypoints.most:
            sift.require()
        return self

    def load(self, convolutions: Arrays) -> None:
        """Replace convolutions by trained ones, as returned by ``Trunk.state``; an empty state changes nothing."""
        if convolutions:
            self.trunk.load(convolutions)
            self._compiled.clear()

    @torch.inference_mode()
    def maps(self, pixels: NDArray[np.uint8], *, at_once: int = 1) -> tuple[Tensor, Tensor]:
        """Compute the feature map and the fine map of a photo, as returned by ``Trunk.maps``.

        Args:
            pixels: (H, W, 3) uint8 RGB, scaled for the network.
            at_once: number of threads that call this concurrently; a single caller gets all cores.
        """
        with self._compiling:
            if at_once not in self._compiled:
                photo = 1, 3, None, None
                self._compiled[at_once] = self.engine.compiled(self.trunk.convolve, photo, at_once=at_once)
            convolve = self._compiled[at_once]
        return convolve(self.trunk.normalised(torch.from_numpy(pixels.copy())))

    def extract(self, sources: Iterable[Source], decoder: Decoder | None = None) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with the reason.

        Each worker takes a photo from file to features on one thread: the layers of a light network are too small to
        share between threads, and photos need not wait for each other. Files are decoded in subprocesses, one per
        worker, so that a file that crashes the decoder, or hangs it, is just a broken photo.

        Args:
            sources: the photos.
            decoder: decodes them and stays open; a decoder that is closed at the end if None.
        """
        propose, at_once = self.propose, self.engine.workers
        with (
            # The consumer's own computations between two photos have one core at best, too.
            thread_limits.one_core_each(),
            ThreadPoolExecutor(at_once, "extract") as pool,
            # Closed first, so that busy workers do not wait for their photos any more.
            Decoder() if decoder is None else nullcontext(decoder) as open_decoder,
        ):
            opened = open_decoder.limited(self._image.max_megapixels)
            waiting: deque[Future[ExtractedPhoto]] = deque()
            try:
                for source in sources:
                    waiting.append(pool.submit(self._extract, source, propose, opened, at_once))
                    if len(waiting) > 2 * at_once:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # On Ctrl-C, or if the consumer stops early, queued photos are dropped.
                pool.shutdown(wait=False, cancel_futures=True)

    def describe(
        self, path: Path, box: Sequence[float] | None, *, decoder: Decoder | None = None
    ) -> tuple[Box, NDArray[np.float32]]:
        """Return the box of a query and its feature (D,), computed from nothing but the pixels inside the box.

        The feature is the mean of those of several views of the crop, scaled to unit length: of ``query_views`` scales,
        because photos show the object at any size; and with ``mirror``, of the mirror images too: what the two share
        belongs to the object, what differs is more often the network's doing (docs/training.md). A query without a box
        is seen as photos are in their coarse views: it is compared with whole photos.

        Args:
            path: the query photo.
            box: x1, y1, x2, y2 in pixels of the photo; the whole photo if None.
            decoder: decodes the photo; that of this process if None.
        """
        scale = {"shorter": self._image.shorter, "longer": self._image.longer, "least": self._image.least}
        scales = 1 if box is None else max(1, self._image.query_views)
        side = None if box is None or not self._image.query_views else QUERY_SIDE * 2 ** (scales - 1)
        limited = (decoder or sandbox.shared()).limited(self._image.max_megapixels)
        crop, cropped = limited.load_crop(path, box, **scale, side=side)
        views = [replace(crop, pixels=pyramid.reduced(crop.pixels, 2**i)) for i in range(scales)]
        if self._image.mirror:
            views += [view.mirrored() for view in views]
        features = np.concatenate(list(self._views.map(self._describe, views)))
        feature = Features(features.mean(axis=0, keepdims=True)).unit().vectors[0]
        if not np.isfinite(feature).all():
            raise CollectionError("features that are not finite: the weights of the network are damaged; restore them")
        return cropped, feature

    def _describe(self, view: decoding.Photo) -> NDArray[np.float32]:
        feature_map, _ = self.maps(view.pixels, at_once=self._views_at_once)
        whole = np.array([[0.0, 0.0, view.width, view.height]], np.float32)
        return self._pool(feature_map, whole, view.width, view.height)

    def _extract(self, source: Source, propose: Proposer, decoder: Decoder, at_once: int) -> ExtractedPhoto:
        try:
            photo, points = self._decode(source, decoder)
        except ImageError as error:
            nothing = Regions(np.empty((0, 4), np.float32)), Features(np.empty((0, self.channels), np.float32))
            nowhere = np.empty(0, np.int64)
            content = error.content if isinstance(error, UnreadableError) else None
            return ExtractedPhoto(source, 0, 0, *nothing, nowhere, broken=str(error), content=content)
        found = self._regions(photo, propose, at_once)
        return ExtractedPhoto(source, photo.width, photo.height, *found, points, content=photo.content)

    def _regions(
        self, photo: decoding.Photo, propose: Proposer, at_once: int
    ) -> tuple[Regions, Features, NDArray[np.int64]]:
        """Return the regions of all views of a photo, each pooled from the view that it was proposed in."""
        views, feature_maps, proposals = [], [], []
        for view in pyramid.views_of(photo.pixels, (photo.width, photo.height), self._image):
            feature_map, fine_map = self.maps(view.pixels, at_once=at_once)
            proposals.append(propose(view, feature_map, fine_map))
            views.append(view)
            feature_maps.append(feature_map)
        regions, of_view = merged(views, proposals, self._feature.regions)
        vectors = np.empty((len(regions), self.channels), np.float32)
        for number, (view, feature_map) in enumerate(zip(views, feature_maps, strict=True)):
            rows = np.flatnonzero(of_view == number)
            boxes = regions.boxes[rows] - np.array(view.window[:2] * 2, np.float32)
            vectors[rows] = self._pool(feature_map, boxes, view.width, view.height)
        return regions, Features(vectors), of_view

    def _decode(self, source: Source, decoder: Decoder) -> tuple[decoding.Photo, NDArray[np.uint8]]:
        """Return a photo for the network, and its local features as they are stored."""
        with source.local() as file:
            try:
                photo = decoder.decode(
                    file, shorter=self._image.shorter, longer=self._image.longer, smallest=self._image.smallest
                )
                if not self.keypoints.most:
                    return photo, NONE
                return photo, Codebook.shipped().encode(extraction.extract(file, decoder, self.keypoints.most))
            except UnreadableError as error:
                message = str(error).replace(shown(str(file)), shown(source.place))
                raise UnreadableError(message, error.content) from error

    @torch.inference_mode()
    def _pool(
        self, feature_map: Tensor, boxes: NDArray[np.float32], width: float, height: float
    ) -> NDArray[np.float32]:
        pooled = self.trunk.pool(feature_map, torch.from_numpy(boxes.copy()), width=width, height=height)
        return pooled.cpu().numpy()
