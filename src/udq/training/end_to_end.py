"""Training the convolutions along with the fully connected layers (sec. 4.2): pooled features anew from the photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from udq.config import ImageConfig
from udq.features.trunk import Trunk
from udq.photos import decoding
from udq.photos import source as photo_source
from udq.types import Arrays, Features, Regions


class EndToEnd:
    """Pooled features that come out of convolutions which train along: ``train.Pooled``.

    A photo goes through the network at a time, so that memory holds the activations of one; a step of the optimiser
    is of as many photos as make a batch of regions.
    """

    def __init__(
        self,
        trunk: Trunk,
        sources: Sequence[photo_source.Source],
        of_photo: NDArray[np.int64],
        regions: Regions,
        scale: ImageConfig,
    ) -> None:
        """Prepare to train.

        Args:
            trunk: the network, in float32.
            sources: the photos of the sample.
            of_photo: (G,) which of them each region is of, in ascending order.
            regions: G regions.
            scale: of photos, as the network sees them.
        """
        self._trunk = trunk
        self._sources = sources
        self._scale = scale
        self._boxes = torch.from_numpy(regions.boxes.copy())
        self._of_photo = of_photo
        borders = np.flatnonzero(np.diff(of_photo)) + 1
        self._parts = [torch.from_numpy(rows) for rows in np.split(np.arange(len(of_photo)), borders)]

    def all(self) -> Features:
        """Return the pooled features (G, D) as they are now."""
        with torch.no_grad():
            return Features(np.concatenate([self.pooled(rows).cpu().numpy() for rows in self._parts]))

    def steps(self, batch: int, generator: torch.Generator) -> list[list[Tensor]]:
        """Return an epoch: photos in random order, gathered until they have a batch of regions; one photo a part."""
        gathered: list[list[Tensor]] = []
        regions = batch
        for photo in torch.randperm(len(self._parts), generator=generator).tolist():
            if regions >= batch:
                gathered.append([])
                regions = 0
            gathered[-1].append(self._parts[photo])
            regions += len(self._parts[photo])
        return gathered

    def pooled(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) of one photo's regions, with a gradient unless that is turned off."""
        source = self._sources[self._of_photo[int(rows[0])]]
        with source.local() as file:
            photo = decoding.load(file, shorter=self._scale.shorter, longer=self._scale.longer)
        device = self._trunk.device
        # Where bfloat16 is fast, the convolutions compute in it; weights and what follows stay float32.
        with torch.autocast(device.type, torch.bfloat16, enabled=_mixed(device)):
            feature_map = self._trunk.feature_map(torch.from_numpy(photo.pixels.copy()))
        return self._trunk.pool(feature_map, self._boxes[rows], width=photo.width, height=photo.height)

    def parameters(self) -> list[nn.Parameter]:
        """Return all that the trunk trains: convolutions but those of the first two groups, and its top."""
        return self._trunk.trainable()

    def state(self) -> Arrays:
        """Return a copy of these, by name."""
        return self._trunk.state()

    def load(self, state: Arrays) -> None:
        """Take over a state."""
        self._trunk.load(state)


def _mixed(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
