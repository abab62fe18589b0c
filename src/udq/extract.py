"""Photos -> regions and their pooled features, streamed: several photos at a time, in order, nothing piles up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from udq import backbones, images, pooling, proposals
from udq.config import FeatureConfig, ImageConfig
from udq.errors import ImageError, InputError
from udq.types import Box, Features, Regions

# Photos under way at most: each keeps its activations in memory, and more than this no longer fills one machine.
_WORKERS = 16


@dataclass(frozen=True)
class Extracted:
    """Regions and features of one photo, or the reason why there are none.

    Attributes:
        source: the photo.
        width, height: its size in pixels as a viewer shows it; 0 where it is broken.
        regions: R regions.
        features: (R, D) pooled features of unit length.
        broken: why it could not be read, or None.
    """

    source: images.Source
    width: int
    height: int
    regions: Regions
    features: Features
    broken: str | None = None


class Extractor:
    """A backbone, a proposer and the pooling, on one device."""

    def __init__(
        self,
        image: ImageConfig,
        feature: FeatureConfig,
        *,
        weights: Path | None = None,
        device: str = "auto",
    ) -> None:
        """Build the network.

        Args:
            image: scale of photos.
            feature: backbone, proposer and pooling.
            weights: a file of weights instead of the backbone's usual ones.
            device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        """
        if feature.proposals not in proposals.REGISTRY:
            raise InputError(f"proposals '{feature.proposals}': expected one of {', '.join(proposals.REGISTRY)}")
        self._image = image
        self._p = feature.p
        self._propose = proposals.REGISTRY[feature.proposals]
        self._backbone = backbones.backbone(feature.backbone)
        self._device = _device(device)
        self._dtype = _precision(self._device)
        self._network = self._backbone.build(weights).to(self._device, self._dtype)
        spread = torch.tensor(self._backbone.spread, device=self._device).view(1, 3, 1, 1) * 255.0
        mean = torch.tensor(self._backbone.mean, device=self._device).view(1, 3, 1, 1) * 255.0
        self._mean, self._spread = mean, spread

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return self._backbone.channels

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._device

    @property
    def precision(self) -> str:
        """The number format of the network's arithmetic; everything after it is float32."""
        return str(self._dtype).removeprefix("torch.")

    def extract(self, sources: Iterable[images.Source]) -> Iterator[Extracted]:
        """Yield regions and features of each photo, in order; a broken photo is yielded with its reason.

        Each worker takes a photo from file to features on one thread: the layers of a light network are too small
        for several threads to share, and photos need not wait for each other.
        """
        workers = min(torch.get_num_threads(), _WORKERS)
        with (
            ThreadPoolExecutor(workers, "extract", initializer=torch.set_num_threads, initargs=(1,)) as pool,
            # What the consumer computes meanwhile has one core at best: threads of BLAS would wait in busy loops.
            threadpool_limits(1, user_api="blas"),
        ):
            waiting: deque[Future[Extracted]] = deque()
            try:
                for source in sources:
                    waiting.append(pool.submit(self._extract, source))
                    if len(waiting) > 2 * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # On Ctrl-C or when the consumer stops early, what is queued is not worth waiting for.
                pool.shutdown(wait=False, cancel_futures=True)

    def describe(self, path: Path, box: Sequence[float] | None) -> tuple[Box, NDArray[np.float32]]:
        """Return the query's box and its feature (D,), from nothing but the pixels inside the box."""
        photo, found = images.load_crop(
            path, box, shorter=self._image.shorter, longer=self._image.longer, least=self._image.least
        )
        whole = np.array([[0.0, 0.0, photo.width, photo.height]], np.float32)
        return found, self._pool(photo, self._feature_map(photo), whole)[0]

    def _extract(self, source: images.Source) -> Extracted:
        try:
            photo = images.load(source.path, shorter=self._image.shorter, longer=self._image.longer)
        except ImageError as error:
            nothing = Regions(np.empty((0, 4), np.float32))
            return Extracted(source, 0, 0, nothing, Features(np.empty((0, self.channels), np.float32)), str(error))
        feature_map = self._feature_map(photo)
        regions = self._propose(feature_map, photo.width, photo.height)
        features = Features(self._pool(photo, feature_map, regions.boxes))
        return Extracted(source, photo.width, photo.height, regions, features)

    @torch.inference_mode()
    def _feature_map(self, photo: images.Photo) -> torch.Tensor:
        pixels = torch.from_numpy(photo.pixels.copy()).to(self._device).permute(2, 0, 1)[None]
        batch = pixels.float().sub_(self._mean).div_(self._spread)
        batch = batch.to(self._dtype, memory_format=torch.channels_last)
        feature_map: torch.Tensor = self._network(batch)[0]
        return feature_map.float()

    @torch.inference_mode()
    def _pool(self, photo: images.Photo, feature_map: torch.Tensor, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        pooled = pooling.generalised_mean(
            feature_map,
            torch.from_numpy(boxes.copy()).to(self._device),
            width=photo.width,
            height=photo.height,
            p=self._p,
        )
        return torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{name}': expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device 'cuda': no usable GPU found; use --device cpu, or install a driver that torch sees")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _precision(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU that multiplies it natively: twice the speed, the same mAP (docs/regions.md)."""
    # Older versions of torch cannot tell what the CPU does.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32
