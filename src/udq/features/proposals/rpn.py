"""Region proposal network (sec. 3.1): anchors at every place of the maps, each scored for objectness and moved.

Anchors, box coding, matching, loss and non-maximum suppression are torchvision's. Before them, the backbone's two maps
are brought to one: the deep one says what there is, the fine one where it ends, as in a feature pyramid.
"""

from __future__ import annotations

import json
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
from udq.config import FeatureConfig
from udq.errors import InputError
from udq.features import backbones
from udq.features.device import Engine, workers
from udq.features.proposals.base import Proposer, in_photo
from udq.features.trunk import Maps
from udq.photos.decoding import Photo
from udq.types import Regions

_WIDTH = 256
_STRIDE = 16  # of the map that anchors stand on
# Sides in pixels as the network sees a photo, where 336 is the default of its shorter side, and height by width.
_SIDES = (48, 96, 160, 256, 384)
_SHAPES = (0.5, 1.0, 2.0)
# Anchors of which that much is an object are objects, of which that little is are background; Faster R-CNN's 0.7 leaves
# too few of a collection with one box a photo.
_OBJECT, _BACKGROUND = 0.6, 0.3
# Of proposals that overlap so much, the better one stays.
_SUPPRESS = 0.7
_CANDIDATES = 1000  # before suppression
_ANCHORS, _OBJECTS = 256, 0.5  # that the loss of a photo is of, and the share of objects among them at most


class ProposalNetwork(nn.Module):
    """Maps of one photo -> boxes, best first.

    Attributes:
        deep, fine: 1 x 1 convolutions that bring the two maps to one depth; ``fine`` is None where there is one map.
    """

    def __init__(self, backbone: backbones.Backbone, *, dropout: float = 0.0) -> None:
        """Draw weights at random.

        Args:
            backbone: whose maps it will see.
            dropout: share of the deep map's channels that a step of training leaves out.
        """
        super().__init__()
        self.deep = nn.Conv2d(backbone.channels, _WIDTH, 1)
        self.fine = nn.Conv2d(backbone.fine_channels, _WIDTH, 1) if backbone.fine else None
        self.dropout = nn.Dropout2d(dropout)
        kept = {"training": _CANDIDATES, "testing": _CANDIDATES}
        self.proposals = RegionProposalNetwork(
            AnchorGenerator((_SIDES,), (_SHAPES,)),
            RPNHead(_WIDTH, len(_SIDES) * len(_SHAPES)),
            _OBJECT,
            _BACKGROUND,
            _ANCHORS,
            _OBJECTS,
            kept,
            kept,
            _SUPPRESS,
        )

    def forward(self, maps: Maps, height: int, width: int) -> Tensor:
        """Return boxes (R, 4) of a photo as the network saw it, best first, in pixels of ``height`` and ``width``."""
        return self.boxes(*self.convolve(maps), height, width)

    def convolve(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """Return the objectness of the anchors at each place (A, h, w), and how they are moved (4 A, h, w); float32."""
        objectness, moves = self.proposals.head([self._one_map(maps)])
        return objectness[0][0].float(), moves[0][0].float()

    def boxes(self, objectness: Tensor, moves: Tensor, height: int, width: int) -> Tensor:
        """Return what ``forward`` does from what ``convolve`` does.

        The boxes are those of torchvision's network to the last bit. It moves all anchors to keep 1,000 of them; here
        only these are made.
        """
        anchors, _, columns = objectness.shape
        # In torchvision's order, so that its ties are broken as there: row, column, anchor.
        score, best = objectness.permute(1, 2, 0).flatten().topk(min(_CANDIDATES, objectness.numel()))
        place, anchor = best // anchors, best % anchors
        down, across = _STRIDE * (place // columns), _STRIDE * (place % columns)
        cells: Tensor = self.proposals.anchor_generator.cell_anchors[0].to(score.device)
        standing = cells[anchor] + torch.stack([across, down, across, down], dim=1)
        moved = self.proposals.box_coder.decode(moves.reshape(anchors, 4, -1)[anchor, :, place], [standing])[:, 0]
        inside = clip_boxes_to_image(moved, (height, width))
        kept = remove_small_boxes(inside, self.proposals.min_size)
        inside, chance = inside[kept], score[kept].sigmoid()
        found: Tensor = inside[nms(inside, chance, _SUPPRESS)]
        return found

    def loss(self, maps: Maps, height: int, width: int, objects: Tensor) -> Tensor:
        """Return the loss of objectness and place, a scalar, for the boxes (B, 4) of the photo's objects."""
        one = self._one_map(maps)
        _, losses = self.proposals(_photo(one, height, width), {"0": one}, [{"boxes": objects}])
        total: Tensor = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
        return total

    def _one_map(self, maps: Maps) -> Tensor:
        precision = self.deep.weight.dtype
        one = self.deep(self.dropout(maps.features[None].to(precision)))
        if self.fine is not None:
            one = interpolate(one, maps.fine.shape[-2:]) + self.fine(maps.fine[None].to(precision))
        return relu(one)


def load(feature: FeatureConfig, file: Path | None, engine: Engine) -> Proposer:
    """Return the proposer of a file that ``udq train-rpn`` wrote, or of the one shipped for the backbone.

    Raises:
        InputError: there is no such file, it is something else, or was trained on another backbone.
    """
    network, _ = read(feature.backbone, file)
    network.to(engine.device, engine.weights).to(memory_format=torch.channels_last)
    entry = backbones.backbone(feature.backbone)
    depths = entry.channels, entry.fine_channels or entry.channels
    convolve = engine.compiled(
        lambda *maps: network.convolve(Maps(*maps)),
        *((depth, None, None) for depth in depths),
        at_once=workers(),
    )

    @torch.inference_mode()
    def propose(photo: Photo, maps: Maps) -> Regions:
        found = network.boxes(*convolve(*maps), *photo.pixels.shape[:2])[: feature.regions]
        return in_photo(found.cpu().numpy(), photo)

    return propose


def read(backbone: str, file: Path | None) -> tuple[ProposalNetwork, dict[str, Any]]:
    """Return a network and its model card from a file, or those shipped for the backbone where None."""
    backbones.backbone(backbone)  # an unknown one is not one that nothing is shipped for
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
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: no region proposal network can be read there ({error.strerror})") from error
    return from_bytes(data, backbone, str(file))


def from_bytes(data: bytes, backbone: str, name: str) -> tuple[ProposalNetwork, dict[str, Any]]:
    """Read ``to_bytes``; raises InputError where the bytes are something else or of another backbone."""
    network = ProposalNetwork(backbones.backbone(backbone))
    try:
        arrays = npz.from_bytes(data)
        card = json.loads(str(arrays.pop("card")))
        trained_on = card["backbone"]
        if trained_on == backbone:
            network.load_state_dict({key: torch.from_numpy(array).float() for key, array in arrays.items()})
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{name}: expected a file that udq train-rpn wrote, found something else") from error
    if trained_on != backbone:
        raise InputError(
            f"{name}: a region proposal network for the backbone {trained_on}, and this is {backbone}; "
            f"use --backbone {trained_on}, or train one on {backbone}"
        )
    return network.eval(), card


def to_bytes(network: ProposalNetwork, card: Mapping[str, Any]) -> bytes:
    """Return weights, at half precision, and model card as an .npz archive; nothing of it is ever unpickled."""
    weights: dict[str, NDArray[Any]] = {
        key: tensor.detach().cpu().half().numpy() for key, tensor in network.state_dict().items()
    }
    return npz.to_bytes({**weights, "card": np.array(json.dumps(card))})


def _photo(one_map: Tensor, height: int, width: int) -> ImageList:
    """What torchvision wants to know of a photo: its size, and how far apart the cells of its map are.

    It divides the size of the pixels by that of the map, which is off by one where a backbone rounds its map up. Pixels
    that no memory holds, as many as the map's cells have, give the true stride.
    """
    rows, columns = one_map.shape[-2:]
    return ImageList(one_map.new_empty(1).expand(1, 3, _STRIDE * rows, _STRIDE * columns), [(height, width)])
