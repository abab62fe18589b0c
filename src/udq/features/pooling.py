"""RoI pooling of many boxes at once: by the generalised mean, or to 7 x 7 maxima as in the paper.

The generalised mean pools a box over the exact area that it covers: a cell of the feature map that it covers by a third
has a third of the weight. Pooling R boxes is then one product of an (R, h*w) matrix of weights with the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Smallest value of a cell. Cells are raised to the power p: the gradient is not finite at 0, and is at this value.
_LEAST = 1e-6


def generalised_mean(feature_map: Tensor, boxes: Tensor, *, width: float, height: float, p: float) -> Tensor:
    """Pool each box of a feature map: ``(mean over the box of x**p) ** (1/p)``.

    p = 1 is average pooling; p towards infinity is the max pooling of the paper's RoI layer.

    Args:
        feature_map: (C, h, w) float, >= 0 (after a ReLU); spans the whole photo.
        boxes: (R, 4) float, x1, y1, x2, y2 in the units of ``width`` and ``height``.
        width: width of the photo.
        height: height of the photo.
        p: exponent, >= 1.

    Returns:
        (R, C) float.
    """
    channels, rows, columns = feature_map.shape
    across = _coverage(boxes[:, 0], boxes[:, 2], columns, width)
    down = _coverage(boxes[:, 1], boxes[:, 3], rows, height)
    weights = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), rows * columns)
    powered = feature_map.clamp_min(_LEAST).reshape(channels, rows * columns).pow(p)
    return (weights @ powered.T).pow(1.0 / p)


def roi_max(feature_map: Tensor, boxes: Tensor, *, width: float, height: float, side: int = 7) -> Tensor:
    """Pool each box of a feature map to ``side`` x ``side`` maxima: the paper's RoI pooling (Fast R-CNN's).

    Edges of boxes are rounded to whole cells, and a box has at least one cell. If the number of its cells is not a
    multiple of ``side``, neighbouring maxima share cells.

    Args:
        feature_map: (C, h, w) float; spans the whole photo.
        boxes: (R, 4) float, x1, y1, x2, y2 in the units of ``width`` and ``height``.
        width: width of the photo.
        height: height of the photo.
        side: maxima along each side.

    Returns:
        (R, C, side, side) float.
    """
    from torchvision.ops import roi_pool  # takes a second to import, and the default pooling does not use it

    rows, columns = feature_map.shape[1:]
    # Boxes are passed in cells: roi_pool has one scale for both axes, but a map's h/height and w/width differ if its
    # last cell is cut off. roi_pool expects x2, y2 inside the last cell, as Caffe's boxes end with their last pixel;
    # ours end where the next cell begins, hence minus one. The minimum keeps a narrow box at the far edge from being
    # rounded to a cell outside the map, and so from being empty.
    end = boxes.new_tensor([columns, rows])
    cells = boxes * (end / boxes.new_tensor([width, height])).repeat(2)
    low, high = torch.minimum(cells[:, :2], end - 1), cells[:, 2:] - 1
    pooled: Tensor = roi_pool(feature_map[None], [torch.cat([low, high], dim=1)], side, spatial_scale=1.0)
    return pooled


def _coverage(low: Tensor, high: Tensor, cells: int, extent: float) -> Tensor:
    """Return the share of each interval [low, high] in each of ``cells`` equal cells of [0, extent]: (R, cells)."""
    edges = torch.linspace(0.0, extent, cells + 1, dtype=low.dtype, device=low.device)
    overlap = (torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])).clamp_min(0.0)
    return overlap / overlap.sum(dim=1, keepdim=True)
