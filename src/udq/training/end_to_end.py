"""Training of the convolutions together with the fully connected layers (sec. 4.2), from the photos themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from udq.config import ImageConfig
from udq.features.trunk import Trunk
from udq.photos import sandbox
from udq.photos.source import Source
from udq.types import Arrays, Features, Regions


class EndToEnd:
    """Pooled features computed by convolutions in training (``pooled_features.PooledFeatures``).

    Photos go through the network one at a time, so that memory holds the activations of one; a step of the optimiser
    takes enough photos for a batch of regions.
    """

    at_once = False

    def __init__(
        self,
        trunk: Trunk,
        sources: Sequence[Source],
        of_photo: NDArray[np.int64],
        regions: Regions,
        scale: ImageConfig,
    ) -> None:
        """Prepare to train.

        Args:
            trunk: the network, in float32.
            sources: the photos of the sample.
            of_photo: (G,) place in ``sources`` of each region's photo, ascending.
            regions: G regions.
            scale: to which photos are scaled for the network.
        """
        self._trunk = trunk
        self._sources = sources
        self._scale = scale
        self._boxes = torch.from_numpy(regions.boxes.copy())
        self._of_photo = of_photo
        borders = np.flatnonzero(np.diff(of_photo)) + 1
        self._parts = [torch.from_numpy(rows) for rows in np.split(np.arange(len(of_photo)), borders)]

    def all(self) -> Features:
        """Return the current pooled features (G, D)."""
        with torch.no_grad():
            return Features(np.concatenate([self.pooled(rows).cpu().numpy() for rows in self._parts]))

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

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one photo's regions, with a gradient if gradients are enabled."""
        source = self._sources[self._of_photo[int(rows[0])]]
        with source.local() as file:
            decoder = sandbox.shared().limited(self._scale.max_megapixels)
            photo = decoder.decode(file, shorter=self._scale.shorter, longer=self._scale.longer)
        device = self._trunk.device
        # On a GPU that is fast at bfloat16, the convolutions compute in it; weights and later layers stay float32.
        with torch.autocast(device.type, torch.bfloat16, enabled=_mixed(device)):
            feature_map = self._trunk.feature_map(torch.from_numpy(photo.pixels.copy()))
        return self._trunk.pool(feature_map, self._boxes[rows], width=photo.width, height=photo.height)

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
