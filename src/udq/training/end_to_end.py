"""Training of the convolutions together with the fully connected layers (sec. 4.2), from the photos themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from udq.common.threads import ALONE, Pool
from udq.config import ImageConfig
from udq.features.trunk import Trunk
from udq.photos import pyramid, sandbox
from udq.photos.pyramid import View
from udq.photos.source import Source
from udq.training.sampling import Sample
from udq.types import Arrays, Features

# Photos that are decoded ahead of the one that the network learns from, at most: all their views are in memory.
_AHEAD = 16


class EndToEnd:
    """Pooled features computed by convolutions in training (``pooled_features.PooledFeatures``).

    Photos go through the network one at a time, so that memory holds the activations of one; a step of the optimiser
    takes enough photos for a batch of regions. While one is there, the threads of the pool decode the next ones.
    """

    at_once = False

    def __init__(
        self,
        trunk: Trunk,
        sources: Sequence[Source],
        sample: Sample,
        scale: ImageConfig,
    ) -> None:
        """Prepare to train.

        Args:
            trunk: the network, in float32.
            sources: the photos of the sample.
            sample: G regions; ``images`` are places in ``sources``.
            scale: to which photos are scaled for the network.
        """
        self._trunk = trunk
        self._sources = sources
        self._scale = scale
        self._boxes = torch.from_numpy(sample.regions.boxes.copy())
        self._of_view = torch.from_numpy(sample.of_view.copy())
        self._of_photo = sample.images
        borders = np.flatnonzero(np.diff(sample.images)) + 1
        self._parts = [torch.from_numpy(rows) for rows in np.split(np.arange(len(sample.images)), borders)]

    @property
    def steps_of_all(self) -> int:
        """The number of photos."""
        return len(self._parts)

    def all(self, step: Callable[[], None] = lambda: None, workers: Pool = ALONE) -> Features:
        """Return the current pooled features (G, D); call ``step`` after each photo; ``workers`` as for ``ahead``."""

        def each() -> Iterator[NDArray[np.float32]]:
            for pooled in self.ahead(self._parts, workers):
                yield pooled().cpu().numpy()
                step()

        with torch.no_grad():
            return Features(np.concatenate(list(each())))

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch: random photos, grouped until they have a batch of regions; a part is a photo."""
        steps: list[list[Tensor]] = []
        regions = batch
        for photo in torch.randperm(len(self._parts), generator=generator).tolist():
            if regions >= batch:
                steps.append([])
                regions = 0
            steps[-1].append(self._parts[photo])
            regions += len(self._parts[photo])
        return steps

    def ahead(self, parts: Iterable[Tensor], workers: Pool) -> Iterator[Callable[[], Tensor]]:
        """Yield for each photo, by the rows of its regions, a function that returns their features; see ``pooled``.

        Args:
            parts: rows of each photo, in the order in which they are needed.
            workers: threads that decode the next photos, two for each and 16 in all at most; ``ALONE`` decodes a photo
                when it is needed.

        Raises:
            UnreadableError: the photo cannot be decoded any more, when its turn comes.
        """

        def read(rows: Tensor) -> Callable[[], Tensor]:
            return partial(self.pooled, rows, self._views(rows))

        return workers.map(read, parts, most=min(2 * workers.count, _AHEAD))

    def _views(self, rows: Tensor) -> list[View]:
        """Decode the photo of some regions."""
        source, scale = self._sources[self._of_photo[int(rows[0])]], self._scale
        with source.local() as file:
            decoder = sandbox.shared().limited(scale.max_megapixels)
            photo = decoder.decode(file, shorter=scale.shorter, longer=scale.longer, smallest=scale.smallest)
        return list(pyramid.views_of(photo.pixels, (photo.width, photo.height), scale))

    def pooled(self, rows: Tensor, views: Sequence[View]) -> Tensor:
        """Return the features (B, D) of one photo's regions, with a gradient if gradients are enabled.

        Args:
            rows: the regions.
            views: of the photo.
        """
        of_view = self._of_view[rows]
        found, places = [], []
        for number, view in enumerate(views):
            here = torch.nonzero(of_view == number)[:, 0]
            if len(here):
                found.append(self._pooled(view, self._boxes[rows[here]]))
                places.append(here)
        order = torch.argsort(torch.cat(places))
        return torch.cat(found)[order.to(self._trunk.device)]

    def _pooled(self, view: View, boxes: Tensor) -> Tensor:
        """Return the features of boxes (R, 4), in pixels of the photo, from one view of it."""
        device = self._trunk.device
        # On a GPU that is fast at bfloat16, the convolutions compute in it; weights and later layers stay float32.
        with torch.autocast(device.type, torch.bfloat16, enabled=_mixed(device)):
            feature_map = self._trunk.feature_map(torch.from_numpy(view.pixels.copy()))
        inside = boxes - torch.tensor(view.window[:2] * 2, dtype=boxes.dtype)
        return self._trunk.pool(feature_map, inside, width=view.width, height=view.height)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters to train: convolutions except the first two groups, and the trunk's top."""
        return self._trunk.trainable()

    def state(self) -> Arrays:
        """Return a copy of these parameters by name."""
        return self._trunk.state()

    def load(self, state: Arrays) -> None:
        """Replace the parameters by a state."""
        self._trunk.load(state)


def _mixed(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
