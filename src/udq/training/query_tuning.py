"""Fine-tuning of the convolutions on the query photos, before algorithm 1 (sec. 4.2).

The paper follows Salvador et al.: a Fast R-CNN learns to detect the objects of the queries, each a class, in the whole
query photos and their mirror images. All convolutions but the first two groups change, and fully connected layers that
are pretrained; the classifier and the regression of boxes are discarded afterwards. What the paper leaves open is as in
Faster R-CNN: 128 regions of one photo per step, a quarter of them objects at most, SGD with a momentum of 0.9 and a
weight decay of 0.0005. Salvador et al. take 5,000 steps. Proposals are those of the network before fine-tuning.

This is supervised by the boxes of the queries, unlike everything else in the paper.

A. Salvador, X. Giró-i-Nieto, F. Marqués, S. Satoh: Faster R-CNN features for instance search. CVPR Workshops 2016.
S. Ren, K. He, R. Girshick, J. Sun: Faster R-CNN: towards real-time object detection with region proposal networks.
NIPS 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import box_iou

from udq.common import npz
from udq.features.trunk import Trunk
from udq.training import algorithm
from udq.types import Arrays

# Regions of a step, and the largest share of objects among them; IoU with a box from which on a region is an object.
_REGIONS, _OBJECTS, _OVERLAP = 128, 0.25, 0.5
# Weights of the four numbers that move a box, and standard deviations of the new layers' weights.
_MOVES, _SPREADS = (10.0, 10.0, 5.0, 5.0), (0.01, 0.001)


@dataclass(frozen=True)
class TuningPhoto:
    """A query photo with the objects that queries ask for.

    Attributes:
        read: returns its pixels (H, W, 3) uint8 RGB, scaled for the network.
        width, height: of the photo before scaling.
        proposals: (R, 4) float32, x1, y1, x2, y2 in pixels before scaling.
        boxes: (n, 4) float32 of the objects, n >= 1.
        classes: (n,) int64, their classes from 1; 0 is background.
    """

    read: Callable[[], NDArray[np.uint8]]
    width: int
    height: int
    proposals: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


class QueryTuning:
    """The network in fine-tuning, whose state can be saved between two steps.

    Attributes:
        trunk: the network; ``step`` changes its weights.
        done: number of steps so far.
        losses: of each step since the state was loaded.
    """

    def __init__(self, trunk: Trunk, photos: Sequence[TuningPhoto], *, rate: float, seed: int) -> None:
        """Prepare to fine-tune.

        Args:
            trunk: in float32.
            photos: at least one.
            rate: learning rate.
            seed: of the new layers, the order of photos and the choice of regions.
        """
        self.trunk, self.done = trunk, 0
        self.losses: list[float] = []
        self._photos, self._seed = photos, seed
        classes = 1 + max(int(photo.classes.max()) for photo in photos)
        generator = torch.Generator().manual_seed(seed)
        self._layers = [nn.Linear(trunk.channels, each * classes) for each in (1, 4)]
        with torch.no_grad():
            for layer, spread in zip(self._layers, _SPREADS, strict=True):
                layer.weight.normal_(std=spread, generator=generator)
                layer.bias.zero_()
                layer.to(trunk.device)
        self._parameters = [part for layer in self._layers for part in layer.parameters()] + trunk.trainable()
        self._optimiser = algorithm.sgd(self._parameters, rate)
        self._coder = BoxCoder(_MOVES)
        self._matcher = Matcher(_OVERLAP, _OVERLAP, allow_low_quality_matches=False)

    def step(self) -> None:
        """Learn from one photo, or from its mirror image; a step depends on the seed and its number alone."""
        epoch, number = divmod(self.done, 2 * len(self._photos))
        order = np.random.default_rng((self._seed, epoch)).permutation(2 * len(self._photos))
        photo, mirrored = self._photos[order[number] // 2], bool(order[number] % 2)
        loss = self._loss(photo, mirrored)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()
        self.losses.append(loss.item())
        self.done += 1

    def _loss(self, photo: TuningPhoto, mirrored: bool) -> Tensor:
        """Return the sum of the losses of class and position (Fast R-CNN) of a step's regions."""
        pixels, objects = photo.read(), torch.tensor(photo.boxes)
        # As in Faster R-CNN, the true boxes are regions, too.
        regions = torch.cat([objects, torch.tensor(photo.proposals)])
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            objects, regions = (_mirrored(boxes, photo.width) for boxes in (objects, regions))
        nearest = self._matcher(box_iou(objects, regions))
        classes = torch.from_numpy(photo.classes)[nearest.clamp(min=0)]
        classes[nearest < 0] = 0
        kept = self._sampled(classes)
        regions, classes, nearest = regions[kept], classes[kept], nearest[kept]
        moves = self._coder.encode_single(objects[nearest.clamp(min=0)], regions)
        feature_map = self.trunk.feature_map(torch.from_numpy(pixels.copy()))
        features = self.trunk.regions(feature_map, regions, width=photo.width, height=photo.height)
        scores, found = (layer(features) for layer in self._layers)
        device = self.trunk.device
        of_class, of_position = fastrcnn_loss(scores, found, [classes.to(device)], [moves.to(device)])
        total: Tensor = of_class + of_position
        return total

    def _sampled(self, classes: Tensor) -> Tensor:
        """Return the rows of a step's regions, drawn from those of each kind."""
        rng = np.random.default_rng((self._seed, self.done, 1))
        objects, others = (rng.permutation(np.flatnonzero(each)) for each in (classes > 0, classes == 0))
        objects = objects[: round(_REGIONS * _OBJECTS)]
        return torch.from_numpy(np.sort(np.concatenate([objects, others[: _REGIONS - len(objects)]])))

    def to_bytes(self) -> bytes:
        """Return the state as an .npz archive; ``load`` continues from it exactly."""
        arrays: dict[str, NDArray[Any]] = {"done": np.array(self.done)}
        for number, parameter in enumerate(self._parameters):
            arrays[f"weights/{number}"] = parameter.detach().cpu().numpy()
            momentum = self._optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                arrays[f"momentum/{number}"] = momentum.cpu().numpy()
        return npz.to_bytes(arrays)

    def load(self, data: bytes) -> None:
        """Continue from the output of ``to_bytes``.

        Raises:
            ValueError, KeyError: it is the state of something else, or damaged.
        """
        arrays = npz.from_bytes(data)
        with torch.no_grad():
            for number, parameter in enumerate(self._parameters):
                parameter.copy_(torch.from_numpy(arrays[f"weights/{number}"]))
                if f"momentum/{number}" in arrays:
                    momentum = torch.from_numpy(arrays[f"momentum/{number}"]).to(parameter.device)
                    self._optimiser.state[parameter]["momentum_buffer"] = momentum
        self.done = int(arrays["done"])

    def finite(self) -> bool:
        """Whether all parameters are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)

    def state(self) -> Arrays:
        """Return the parameters that fine-tuning changed, as ``Trunk.state``."""
        return self.trunk.state()


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    """Return boxes (n, 4) in the mirror image of a photo."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
