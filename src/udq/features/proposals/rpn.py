"""Region proposal network (sec. 3.1): anchors at every cell of the maps, each scored for objectness and moved.

Anchors, box coding, matching, loss and non-maximum suppression are torchvision's. Before them, the backbone's two maps
are merged into one, as in a feature pyramid: the feature map tells what a cell shows, the fine map where it ends.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from udq.common import npz
from udq.common.files import read_regular, reason
from udq.config import FeatureConfig
from udq.errors import InputError
from udq.features import backbones
from udq.features.device import Engine
from udq.features.proposals.base import SUPPRESS, Proposals, Proposer
from udq.photos.pyramid import View

_WIDTH = 256
_MAX_BYTES = 2**30  # of a file of a network; the shipped one has 2 MB
_STRIDE = 16  # of the map that anchors are centred on
# Sides of anchors in pixels of a photo whose shorter side is scaled to ``_SIDES_AT`` pixels, and height by width. A
# network whose card names no sides has these, whatever the scale that it was trained at.
_SIDES, _SIDES_AT = (48.0, 96.0, 160.0, 256.0, 384.0), 336
_SHAPES = (0.5, 1.0, 2.0)
_LARGEST = 2**16  # pixels of a side
# IoU with an object from which on an anchor is an object, and below which it is background. Faster R-CNN's 0.7 leaves
# too few anchors in a collection with one box per photo.
_OBJECT, _BACKGROUND = 0.6, 0.3
# Anchors of the coarse view before suppression: this many at least, and ten for each region that is kept; more if
# suppression leaves too few.
_CANDIDATES, _PER_REGION = 1000, 10
# Of the anchors of any view, at most one in this number is a candidate: suppression takes time in proportion to the
# square of the candidates.
_ANCHORS_PER_CANDIDATE = 8
# Regions of a view before those of all views are suppressed together: this many times the share that it adds to them.
_SPARE = 3.0
_ANCHORS, _OBJECTS = 256, 0.5  # anchors in the loss of a photo, and the largest share of objects among them


class ProposalNetwork(nn.Module):
    """The two maps of a photo, as returned by ``Trunk.maps``, to boxes, best first.

    Attributes:
        deep, fine: 1 x 1 convolutions that bring the two maps to one depth; ``fine`` is None if they are the same map.
    """

    def __init__(
        self, backbone: backbones.Backbone, *, sides: tuple[float, ...] = _SIDES, dropout: float = 0.0
    ) -> None:
        """Initialise weights at random.

        Args:
            backbone: the backbone that computes the maps.
            sides: of anchors, in pixels of the scaled photo, as ``sides_for`` returns them.
            dropout: share of the feature map's channels that are dropped in a step of training.
        """
        super().__init__()
        self.deep = nn.Conv2d(backbone.channels, _WIDTH, 1)
        self.fine = nn.Conv2d(backbone.fine_channels, _WIDTH, 1) if backbone.fine_channels else None
        self.dropout = nn.Dropout2d(dropout)
        kept = {"training": _CANDIDATES, "testing": _CANDIDATES}
        self.proposals = RegionProposalNetwork(
            AnchorGenerator((sides,), (_SHAPES,)),
            RPNHead(_WIDTH, len(sides) * len(_SHAPES)),
            _OBJECT,
            _BACKGROUND,
            _ANCHORS,
            _OBJECTS,
            kept,
            kept,
            SUPPRESS,
        )

    def forward(self, feature_map: Tensor, fine_map: Tensor, height: int, width: int) -> Tensor:
        """Return boxes (R, 4) in pixels of the scaled photo, ``height`` by ``width``, best first."""
        return self.boxes(*self.convolve(feature_map, fine_map), height, width)

    def convolve(self, feature_map: Tensor, fine_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objectness (A, h, w) of the anchors at each cell, and their moves (4 A, h, w); float32."""
        objectness, moves = self.proposals.head([self.merged(feature_map, fine_map)])
        return objectness[0][0].float(), moves[0][0].float()

    def boxes(self, objectness: Tensor, moves: Tensor, height: int, width: int) -> Tensor:
        """Return the boxes of ``forward`` from the output of ``convolve``; torchvision's to the last bit."""
        return self.scored(objectness, moves, height, width)[0]

    def scored(
        self, objectness: Tensor, moves: Tensor, height: int, width: int, *, candidates: int = _CANDIDATES
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (R, 4), best first, and their objectness (R,), a logit, from the output of ``convolve``.

        torchvision moves all anchors and keeps the best ``candidates``; here only these are moved.
        """
        anchors, _, columns = objectness.shape
        # In torchvision's order (row, column, anchor), so that ties are broken as there.
        score, best = objectness.permute(1, 2, 0).flatten().topk(min(candidates, objectness.numel()))
        place, anchor = best // anchors, best % anchors
        down, across = _STRIDE * (place // columns), _STRIDE * (place % columns)
        cells: Tensor = self.proposals.anchor_generator.cell_anchors[0].to(score.device)
        standing = cells[anchor] + torch.stack([across, down, across, down], dim=1)
        moved = self.proposals.box_coder.decode(moves.reshape(anchors, 4, -1)[anchor, :, place], [standing])[:, 0]
        inside = clip_boxes_to_image(moved, (height, width))
        kept = remove_small_boxes(inside, self.proposals.min_size)
        inside, score = inside[kept], score[kept]
        best = nms(inside, score.sigmoid(), SUPPRESS)
        return inside[best], score[best]

    def loss(self, feature_map: Tensor, fine_map: Tensor, height: int, width: int, objects: Tensor) -> Tensor:
        """Return the loss of objectness and position, a scalar, for the boxes (B, 4) of the photo's objects."""
        one = self.merged(feature_map, fine_map)
        _, losses = self.proposals(image_list(one, height, width), {"0": one}, [{"boxes": objects}])
        total: Tensor = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
        return total

    def merged(self, feature_map: Tensor, fine_map: Tensor) -> Tensor:
        """Return the one map (1, 256, h, w) of stride 16 that anchors are scored on."""
        precision = self.deep.weight.dtype
        one = self.deep(self.dropout(feature_map[None].to(precision)))
        if self.fine is not None:
            one = interpolate(one, fine_map.shape[-2:]) + self.fine(fine_map[None].to(precision))
        return relu(one)


def sides_for(shorter: int) -> tuple[float, ...]:
    """Return the sides of anchors, in pixels, for photos whose shorter side is scaled to ``shorter`` pixels."""
    return tuple(round(side * shorter / _SIDES_AT, 1) for side in _SIDES)


def load(feature: FeatureConfig, file: Path | None, engine: Engine) -> Proposer:
    """Return the proposer of a file that ``udq train-rpn`` wrote, or of the one shipped for the backbone.

    Raises:
        InputError: the file is missing, is something else, or was trained on another backbone.
    """
    network, _ = read(feature.backbone, file)
    network.to(engine.device, engine.weights).to(memory_format=torch.channels_last)
    entry = backbones.backbone(feature.backbone)
    depths = entry.channels, entry.fine_channels or entry.channels
    maps = ((depth, None, None) for depth in depths)
    convolve = engine.compiled(network.convolve, *maps, at_once=engine.workers)

    @torch.inference_mode()
    def propose(view: View, feature_map: Tensor, fine_map: Tensor) -> Proposals:
        height, width = view.pixels.shape[:2]
        objectness, moves = convolve(feature_map, fine_map)
        most = math.ceil(feature.regions * view.area * min(1.0, _SPARE / view.factor))
        candidates = round(max(_CANDIDATES, _PER_REGION * feature.regions) * max(1.0, view.area))
        candidates = min(candidates, max(_CANDIDATES, objectness.numel() // _ANCHORS_PER_CANDIDATE))
        boxes, scores = network.scored(objectness, moves, height, width, candidates=candidates)
        # More regions than by default: as many as are asked for. The default stays as it was measured.
        while _CANDIDATES < candidates < objectness.numel() and view.factor == 1 and len(scores) < most:
            candidates *= 2  # the regions so far stay the first
            boxes, scores = network.scored(objectness, moves, height, width, candidates=candidates)
        return Proposals(boxes[:most].cpu().numpy(), scores[:most].cpu().numpy())

    return propose


def read(backbone: str, file: Path | None) -> tuple[ProposalNetwork, dict[str, Any]]:
    """Return a network and its model card from a file, or those shipped for the backbone if None.

    Raises:
        InputError: the file is missing, is something else, or was trained on another backbone.
    """
    backbones.backbone(backbone)  # raises if the name is unknown
    if file is None:
        shipped = resources.files("udq.features.proposals") / "weights" / f"{backbone}.npz"
        if not shipped.is_file():
            raise InputError(
                f"no region proposal network is shipped for the backbone {backbone}; train one with: "
                f"udq train-rpn LABELS --backbone {backbone} -o rpn.npz, and give it with --rpn rpn.npz; "
                "or use --proposals grid"
            )
        return from_bytes(shipped.read_bytes(), backbone, str(shipped))
    try:
        data = read_regular(file, limit=_MAX_BYTES, follow=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot read a region proposal network ({reason(error)})") from error
    return from_bytes(data, backbone, str(file))


def from_bytes(data: bytes, backbone: str, name: str) -> tuple[ProposalNetwork, dict[str, Any]]:
    """Read the output of ``to_bytes``; raises InputError if it is something else, or of another backbone."""
    network = None
    try:
        arrays = npz.from_bytes(data)
        card = json.loads(str(arrays.pop("card")))
        trained_on = card["backbone"]
        if trained_on == backbone:
            network = ProposalNetwork(backbones.backbone(backbone), sides=_sides(card))
            network.load_state_dict({key: torch.from_numpy(array).float() for key, array in arrays.items()})
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{name}: expected a file that udq train-rpn wrote, found something else") from error
    if network is None:
        raise InputError(
            f"{name}: expected a region proposal network for the backbone {backbone}, found one for {trained_on}; "
            f"use --backbone {trained_on}, or train one on {backbone}"
        )
    return network.eval(), card


def _sides(card: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the sides of a network's anchors; raises ValueError if they are none."""
    sides = tuple(float(side) for side in card.get("anchors", _SIDES))
    if len(sides) != len(_SIDES) or not all(1 <= side <= _LARGEST for side in sides):
        raise ValueError(f"anchors: expected {len(_SIDES)} sides of 1 to {_LARGEST} pixels, found {sides}")
    return sides


def to_bytes(network: ProposalNetwork, card: Mapping[str, Any]) -> bytes:
    """Return weights, at half precision, and model card as an .npz archive, which is read without unpickling."""
    weights: dict[str, NDArray[Any]] = {
        key: tensor.detach().cpu().half().numpy() for key, tensor in network.state_dict().items()
    }
    return npz.to_bytes({**weights, "card": np.array(json.dumps(card))})


def image_list(one_map: Tensor, height: int, width: int) -> ImageList:
    """Return what torchvision takes in place of a photo: its size, and pixels that give the stride of its map.

    torchvision divides the size of the pixels by the size of the map, which is wrong if a backbone rounds its map up.
    These pixels are 16 times the map in height and width, and take no memory: all share one element.
    """
    rows, columns = one_map.shape[-2:]
    return ImageList(one_map.new_empty(1).expand(1, 3, _STRIDE * rows, _STRIDE * columns), [(height, width)])
