"""Pixels to unit features of regions: the part of fig. 2 below FC_S, shared by training and search."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from udq.config import FeatureConfig
from udq.features import backbones, pooling
from udq.types import Arrays


class Trunk(nn.Module):
    """A backbone, the pooling of regions, and the backbone's own fully connected layers if it has any.

    Everything is differentiable. Only the first two groups of convolutions take no gradient: they stay as pretrained
    (sec. 4.2).

    Attributes:
        convolutions: the backbone, from a photo to its feature map and its fine map.
        top: its fully connected layers between RoI pooling and the feature, or None.
        mean, spread: (1, 3, 1, 1) float32, normalise pixels of 0..255; not in the ``state_dict``.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        feature: FeatureConfig,
        *,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Build the network.

        Args:
            feature: backbone and pooling.
            weights: file of weights to use instead of the backbone's default ones.
            device: the device that the network runs on.
            precision: number format of the convolutions, as in ``compute_in``; float32 for training.
        """
        super().__init__()
        backbone = backbones.backbone(feature.backbone)
        layers = backbone.build(weights)
        self._roi = feature.pooling == "roi"
        self._p = feature.p
        self.convolutions = layers.convolutions
        # The fully connected layers take 7 x 7 cells, which the generalised mean does not return.
        self.top = layers.top if self._roi else None
        self._channels = backbone.channels if self.top is None else backbone.top_channels
        self.register_buffer("mean", _per_channel(backbone.mean), persistent=False)
        self.register_buffer("spread", _per_channel(backbone.spread), persistent=False)
        for name, parameter in self.convolutions.named_parameters():
            # Without a gradient, training does not store the activations of these layers, the largest of all.
            parameter.requires_grad_(not name.startswith(backbone.frozen))
        self.to(device).compute_in(precision).eval()

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return self._channels

    @property
    def device(self) -> torch.device:
        """The device that the network is on."""
        return self.mean.device

    @property
    def precision(self) -> torch.dtype:
        """The number format of the convolutions; everything after them is float32."""
        return next(self.convolutions.parameters()).dtype

    def compute_in(self, precision: torch.dtype) -> Self:
        """Cast the convolutions and nothing else; casting to bfloat16 rounds the weights for good."""
        self.convolutions.to(dtype=precision)
        return self

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a batch is one photo, too little for batch normalisation to take statistics of."""
        return super().train(False)

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters that end-to-end training changes: all but the first two groups of convolutions."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def state(self) -> Arrays:
        """Return a copy of the parameters that end-to-end training changes, by name."""
        return {
            name: parameter.detach().float().cpu().numpy().copy()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load(self, state: Arrays) -> None:
        """Replace parameters by those that ``state`` returned."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, array in state.items():
                parameters[name].copy_(torch.from_numpy(array))

    def forward(self, pixels: Tensor, boxes: Tensor, *, width: float, height: float) -> Tensor:
        """Return the features of a photo's regions.

        Args:
            pixels: (H, W, 3) uint8 RGB, scaled for the network.
            boxes: (R, 4) float32, x1, y1, x2, y2 in pixels of the photo before scaling.
            width: width of the photo in the units of ``boxes``.
            height: height of the photo in the units of ``boxes``.

        Returns:
            (R, D) float32 of unit length.
        """
        return self.pool(self.feature_map(pixels), boxes, width=width, height=height)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the feature map of a photo (H, W, 3), uint8 RGB, as ``maps`` does."""
        return self.maps(pixels)[0]

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two maps of a photo (H, W, 3), uint8 RGB; both span the whole photo.

        Returns:
            The feature map, which regions are pooled from: (C, about H/stride, about W/stride) float32 >= 0. And the
            fine map for region proposals, the last one of stride 16: (c, about H/16, about W/16) float32; the same
            tensor if the feature map has stride 16 itself.
        """
        return self.convolve(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Convert a photo (H, W, 3), uint8 RGB, to the input of the convolutions, (1, 3, H, W) float32."""
        return pixels.to(self.device).permute(2, 0, 1)[None].float().sub_(self.mean).div_(self.spread)

    def convolve(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two maps of a normalised photo, as returned by ``maps``."""
        deep, fine = self.convolutions(batch.to(self.precision, memory_format=torch.channels_last))
        feature_map = deep[0].float()
        return feature_map, feature_map if fine is deep else fine[0].float()

    def pool(self, feature_map: Tensor, boxes: Tensor, *, width: float, height: float) -> Tensor:
        """Pool boxes (R, 4) of a feature map (C, h, w) to features (R, D), float32 of unit length.

        Boxes are in the units of ``width`` and ``height``, the size of the photo that the feature map spans.
        """
        return normalize(self.regions(feature_map, boxes, width=width, height=height), dim=1)

    def regions(self, feature_map: Tensor, boxes: Tensor, *, width: float, height: float) -> Tensor:
        """Pool boxes as ``pool`` does, to features that are not scaled to unit length."""
        boxes = boxes.to(self.device)
        if not self._roi:
            return pooling.generalised_mean(feature_map, boxes, width=width, height=height, p=self._p)
        cells = pooling.roi_max(feature_map, boxes, width=width, height=height)
        pooled: Tensor = cells.mean(dim=(2, 3)) if self.top is None else self.top(cells)
        return pooled


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1) * 255.0
