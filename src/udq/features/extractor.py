"""Photos -> regions and their pooled features, streamed: several photos at a time, in order, nothing piles up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from udq.common.text import shown
from udq.config import FeatureConfig, ImageConfig
from udq.errors import ImageError
from udq.features import proposals
from udq.features.device import Engine, threads, workers
from udq.features.proposals.base import Proposer
from udq.features.trunk import Maps, Trunk
from udq.photos import decoding
from udq.photos import source as photo_source
from udq.photos.sandbox import Decoder
from udq.types import Arrays, Box, Features, Regions


@dataclass(frozen=True)
class ExtractedPhoto:
    """Regions and features of one photo, or the reason why there are none.

    Attributes:
        source: the photo.
        width, height: its size in pixels as a viewer shows it; 0 where it is broken.
        regions: R regions.
        features: (R, D) pooled features of unit length.
        broken: why it could not be read, or None.
        content: what its file holds; None where it is broken and could not even be read.
    """

    source: photo_source.Source
    width: int
    height: int
    regions: Regions
    features: Features
    broken: str | None = None
    content: photo_source.Content | None = None


class Extractor:
    """A trunk and a proposer, on one device.

    Attributes:
        engine: where and how the convolutions are computed.
        trunk: pixels and boxes -> features.
        weights: the file of weights that it was built with, or None for the backbone's usual ones.
        rpn: the file of the region proposal network, or None for the shipped one.
    """

    def __init__(
        self,
        image: ImageConfig,
        feature: FeatureConfig,
        *,
        weights: Path | None = None,
        rpn: Path | None = None,
        device: str = "auto",
        network: str | None = None,
    ) -> None:
        """Build the network.

        Args:
            image: scale of photos.
            feature: backbone, proposer and pooling.
            weights: a file of weights instead of the backbone's usual ones.
            rpn: a file that ``udq train-rpn`` wrote, instead of what is shipped for the backbone.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
            network: as in ``Engine.fastest``.
        """
        self.weights = weights
        self.rpn = rpn
        self._image = image
        self._feature = feature
        self.engine = Engine.fastest(device, network)
        with _one_thread():
            self.trunk = Trunk(feature, weights=weights, device=self.engine.device, precision=self.engine.weights)
        self._compiled: dict[int, Callable[[torch.Tensor], tuple[torch.Tensor, ...]]] = {}
        self._compiling = threading.Lock()
        # A query and its mirror image side by side take as long as one after the other by all threads where nothing
        # else computes, and a fraction where other processes do: threads that share a layer wait for the last of them.
        self._at_once = min(2 if image.mirror else 1, threads())
        share = max(1, threads() // self._at_once)
        self._views = ThreadPoolExecutor(
            self._at_once, "describe", initializer=torch.set_num_threads, initargs=(share,)
        )

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return self.trunk.channels

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """The number format of the network's arithmetic; everything after it is float32."""
        return str(self.engine.precision).removeprefix("torch.")

    @cached_property
    def propose(self) -> Proposer:
        """The proposer, built when it is first asked for: a search looks at no regions and need not wait for it."""
        return proposals.build(self._feature, rpn=self.rpn, engine=self.engine)

    def proposing(self) -> Self:
        """Return the extractor with its proposer built, so that a file that does not fit is refused here and now."""
        _ = self.propose
        return self

    def load(self, convolutions: Arrays) -> None:
        """Take over trained convolutions, as ``Trunk.state`` returns them; none leave it as it is."""
        if convolutions:
            self.trunk.load(convolutions)
            self._compiled.clear()

    @torch.inference_mode()
    def maps(self, pixels: NDArray[np.uint8], *, at_once: int = 1) -> Maps:
        """Take a photo (H, W, 3), uint8 RGB, at the scale the network sees, to its maps.

        Args:
            pixels: the photo.
            at_once: threads that call this at the same time; one alone is given all cores.
        """
        with self._compiling:
            if at_once not in self._compiled:
                photo = 1, 3, None, None
                self._compiled[at_once] = self.engine.compiled(self.trunk.convolve, photo, at_once=at_once)
            see = self._compiled[at_once]
        return Maps(*see(self.trunk.normalised(torch.from_numpy(pixels.copy()))))

    def extract(
        self, sources: Iterable[photo_source.Source], decoder: Decoder | None = None
    ) -> Iterator[ExtractedPhoto]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason.

        Each worker takes a photo from file to features on one thread: the layers of a light network are too small
        for several threads to share, and photos need not wait for each other. Files are decoded in processes of
        their own, one a worker, so that one that crashes its decoder or never ends is a broken photo and no more.

        Args:
            sources: the photos.
            decoder: decodes them, and stays open; one for the occasion where None.
        """
        propose, at_once = self.propose, workers()
        with (
            ThreadPoolExecutor(at_once, "extract", initializer=torch.set_num_threads, initargs=(1,)) as pool,
            # What the consumer computes meanwhile has one core at best: threads of BLAS would wait in busy loops.
            threadpool_limits(1, user_api="blas"),
            # Closed first: workers that are under way need not wait for their photos any more.
            Decoder() if decoder is None else nullcontext(decoder) as opened,
        ):
            waiting: deque[Future[ExtractedPhoto]] = deque()
            try:
                for source in sources:
                    waiting.append(pool.submit(self._extract, source, propose, opened, at_once))
                    if len(waiting) > 2 * at_once:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # On Ctrl-C or when the consumer stops early, what is queued is not worth waiting for.
                pool.shutdown(wait=False, cancel_futures=True)

    def describe(
        self, path: Path, box: Sequence[float] | None, *, load_crop: decoding.LoadCrop = decoding.load_crop
    ) -> tuple[Box, NDArray[np.float32]]:
        """Return the query's box and its feature (D,), from nothing but the pixels inside the box.

        With ``mirror``, that is the mean of what the network sees in them and in their mirror image, at unit length:
        what the two have in common is the object's, what differs is more often the network's (docs/training.md).

        Args:
            path: the query photo.
            box: x1, y1, x2, y2 in its pixels; the whole photo where None.
            load_crop: decodes it; ``Decoder.load_crop`` where the photo may be a stranger's.
        """
        photo, found = load_crop(
            path, box, shorter=self._image.shorter, longer=self._image.longer, least=self._image.least
        )
        whole = np.array([[0.0, 0.0, photo.width, photo.height]], np.float32)
        seen = [photo, photo.mirrored()] if self._image.mirror else [photo]
        features = np.concatenate(list(self._views.map(lambda view: self._describe(view, whole), seen)))
        return found, Features(features.mean(axis=0, keepdims=True)).unit().vectors[0]

    def _describe(self, view: decoding.Photo, box: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._pool(view, self.maps(view.pixels, at_once=self._at_once).features, box)

    def _extract(
        self, source: photo_source.Source, propose: Proposer, decoder: Decoder, at_once: int
    ) -> ExtractedPhoto:
        try:
            photo = self._decode(source, decoder)
        except ImageError as error:
            nothing = Regions(np.empty((0, 4), np.float32)), Features(np.empty((0, self.channels), np.float32))
            content = error.content if isinstance(error, photo_source.UnreadableError) else None
            return ExtractedPhoto(source, 0, 0, *nothing, str(error), content)
        maps = self.maps(photo.pixels, at_once=at_once)
        regions = propose(photo, maps)
        features = Features(self._pool(photo, maps.features, regions.boxes))
        return ExtractedPhoto(source, photo.width, photo.height, regions, features, content=photo.content)

    def _decode(self, source: photo_source.Source, decoder: Decoder) -> decoding.Photo:
        with source.local() as file:
            try:
                return decoder.decode(file, shorter=self._image.shorter, longer=self._image.longer)
            except photo_source.UnreadableError as error:
                message = str(error).replace(shown(str(file)), shown(source.place))
                raise photo_source.UnreadableError(message, error.content) from error

    @torch.inference_mode()
    def _pool(
        self, photo: decoding.Photo, feature_map: torch.Tensor, boxes: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        pooled = self.trunk.pool(feature_map, torch.from_numpy(boxes.copy()), width=photo.width, height=photo.height)
        return pooled.cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use no other thread meanwhile: to share weights of a light network out takes longer than the work on them."""
    threads()
    mine = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(mine)
