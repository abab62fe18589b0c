"""Pixels -> unit features of regions: the part of fig. 2 up to FC_S's layers, the same in training and in search."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from udq.config import FeatureConfig
from udq.features import backbones, pooling
from udq.types import Arrays


class Maps(NamedTuple):
    """What the convolutions see in a photo; both maps span all of it.

    Attributes:
        features: (C, about H/stride, about W/stride) float32 >= 0, the map that regions are pooled from.
        fine: (c, about H/16, about W/16) float32 for region proposals: the last map of stride 16. It is ``features``
            itself where that has this stride.
    """

    features: Tensor
    fine: Tensor


class Trunk(nn.Module):
    """A backbone, the pooling of regions, and the backbone's own fully connected layers where it has some.

    Everything is differentiable, and nothing turns gradients off but for the first two groups of convolutions, which
    stay as they were pretrained (sec. 4.2).

    Attributes:
        convolutions: the backbone.
        top: its fully connected layers between RoI pooling and the feature, or None.
        mean, spread: (1, 3, 1, 1) float32, what pixels of 0..255 are normalised by; not in the ``state_dict``.
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
            weights: a file of weights instead of the backbone's usual ones.
            device: where the network runs.
            precision: number format of the convolutions, as in ``compute_in``; float32 to train.
        """
        super().__init__()
        backbone = backbones.backbone(feature.backbone)
        layers = backbone.build(weights)
        self._roi = feature.pooling == "roi"
        self._p = feature.p
        self.convolutions = layers.convolutions
        # The generalised mean leaves no 7 x 7 cells that fully connected layers could take.
        self.top = layers.top if self._roi else None
        self._channels = backbone.channels if self.top is None else backbone.top_channels
        self.register_buffer("mean", _per_channel(backbone.mean), persistent=False)
        self.register_buffer("spread", _per_channel(backbone.spread), persistent=False)
        for name, parameter in self.convolutions.named_parameters():
            # Without a gradient to compute, training keeps no activations of these, the largest of all.
            parameter.requires_grad_(not name.startswith(backbone.frozen))
        # Photos go through on several threads at once, and each thread notes its own.
        self._noted = noted = threading.local()
        if backbone.fine:

            def note(module: nn.Module, arguments: object, output: Tensor) -> None:
                noted.fine = output

            self.convolutions.get_submodule(backbone.fine).register_forward_hook(note)
        self.to(device).compute_in(precision).eval()

    @property
    def channels(self) -> int:
        """D, the length of a pooled feature."""
        return self._channels

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.mean.device

    @property
    def precision(self) -> torch.dtype:
        """The number format of the convolutions; everything after them is float32."""
        return next(self.convolutions.parameters()).dtype

    def compute_in(self, precision: torch.dtype) -> Self:
        """Cast the convolutions, and them alone; weights cast to bfloat16 have lost what float32 held."""
        self.convolutions.to(dtype=precision)
        return self

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batches are one photo, whose statistics are no ground to normalise by."""
        return super().train(False)

    def trainable(self) -> list[nn.Parameter]:
        """Return what end-to-end training changes: all parameters but those of the first two groups of convolutions."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def state(self) -> Arrays:
        """Return a copy of what end-to-end training changes, by name."""
        return {
            name: parameter.detach().float().cpu().numpy().copy()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load(self, state: Arrays) -> None:
        """Take over what ``state`` returned."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, array in state.items():
                parameters[name].copy_(torch.from_numpy(array))

    def forward(self, pixels: Tensor, boxes: Tensor, *, width: float, height: float) -> Tensor:
        """Return the features of a photo's regions.

        Args:
            pixels: (H, W, 3) uint8 RGB, at the scale the network sees.
            boxes: (R, 4) float32, x1, y1, x2, y2 in pixels of the photo, whatever the scale of ``pixels``.
            width: width of the photo in the units of ``boxes``.
            height: height of the photo in the units of ``boxes``.

        Returns:
            (R, D) float32 of unit length.
        """
        return self.pool(self.feature_map(pixels), boxes, width=width, height=height)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Take a photo (H, W, 3), uint8 RGB, to its feature map (C, about H/stride, about W/stride), float32 >= 0."""
        return self.maps(pixels).features

    def maps(self, pixels: Tensor) -> Maps:
        """Take a photo (H, W, 3), uint8 RGB, to its maps."""
        return self.convolve(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Take a photo (H, W, 3), uint8 RGB, to what the convolutions take, (1, 3, H, W) float32."""
        return pixels.to(self.device).permute(2, 0, 1)[None].float().sub_(self.mean).div_(self.spread)

    def convolve(self, batch: Tensor) -> Maps:
        """Take a normalised photo to its maps."""
        self._noted.fine = None
        features = self.convolutions(batch.to(self.precision, memory_format=torch.channels_last))[0].float()
        fine, self._noted.fine = self._noted.fine, None
        return Maps(features, features if fine is None else fine[0].float())

    def pool(self, feature_map: Tensor, boxes: Tensor, *, width: float, height: float) -> Tensor:
        """Take a feature map (C, h, w) and boxes (R, 4) to features (R, D), float32 of unit length.

        Boxes are in the units of ``width`` and ``height``, which the feature map spans.
        """
        boxes = boxes.to(self.device)
        if not self._roi:
            pooled = pooling.generalised_mean(feature_map, boxes, width=width, height=height, p=self._p)
        else:
            cells = pooling.roi_max(feature_map, boxes, width=width, height=height)
            pooled = cells.mean(dim=(2, 3)) if self.top is None else self.top(cells)
        return normalize(pooled, dim=1)


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1) * 255.0
