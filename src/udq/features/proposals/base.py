"""What every region proposer returns for a view of a photo, and how the regions of all views become one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from udq.types import Regions

if TYPE_CHECKING:
    from torch import Tensor

    from udq.photos.pyramid import View

# IoU of two proposals from which on the worse one is dropped, also across views.
SUPPRESS = 0.7
UNSCORED = -np.inf
"""Score of regions that a proposer does not rank: they come last, in their own order, and all are kept."""
# A box that ends less than this many pixels of a view from an edge of it, inside the photo, is part of an object that
# is cut off there. The overlap of tiles shows it whole in another view.
_CUT = 1.5


@dataclass(frozen=True)
class Proposals:
    """Boxes in a view that may hold an object.

    Attributes:
        boxes: (R, 4) float32, x1, y1, x2, y2 in pixels of the view.
        scores: (R,) float32, higher for better boxes, comparable between views; ``UNSCORED`` if there is none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.scores), 4):
            found = f"{self.boxes.shape} and {len(self.scores)} scores"
            raise ValueError(f"proposals: expected boxes (R, 4) and R scores, found {found}")


# propose(view, feature_map, fine_map) -> Proposals. The maps are those of Trunk.maps; a proposer uses the ones that it
# needs.
Proposer = Callable[["View", "Tensor", "Tensor"], Proposals]


def merged(views: Sequence[View], proposals: Sequence[Proposals], regions: int) -> tuple[Regions, NDArray[np.int64]]:
    """Return the regions of a photo, best first, the whole photo last, and the view of each.

    Proposals of all views go through one non-maximum suppression. The number that is kept grows with the area that was
    looked at: ``regions`` for the coarse view, and twice that for a level of twice the scale.

    Args:
        views: of the photo, the first one of the whole.
        proposals: of each view.
        regions: T, of the coarse view.

    Returns:
        Regions in pixels of the photo, and (R,) the index of the view that each is pooled from. The whole photo is the
        region that a query without a box is compared with.
    """
    pairs = [_in_photo(view, found) for view, found in zip(views, proposals, strict=True)]
    boxes = np.concatenate([found.boxes for found in pairs])
    scores = np.concatenate([found.scores for found in pairs])
    of_view = np.repeat(np.arange(len(views)), [len(found.scores) for found in pairs])
    scored = np.flatnonzero(scores > UNSCORED)
    kept = scored[_suppressed(boxes[scored], scores[scored])]
    kept = kept[: round(sum(regions * view.area / view.factor for view in views))]
    whole = np.array([[0, 0, *views[0].photo]], np.float32)
    unscored = np.flatnonzero(scores == UNSCORED)
    unscored = unscored[(boxes[unscored] != whole).any(axis=1)]
    kept = np.concatenate([kept, unscored])
    return Regions(np.concatenate([boxes[kept], whole])), np.append(of_view[kept], 0)


def _in_photo(view: View, found: Proposals) -> Proposals:
    """Convert boxes to pixels of the photo; leave out those that a tile cuts off, or less than a pixel wide or high."""
    height, width = view.pixels.shape[:2]
    inner = np.array([view.window[0] > 0, view.window[1] > 0, *np.less(view.window[2:], view.photo)])
    from_edge = np.concatenate([found.boxes[:, :2], np.array([width, height], np.float32) - found.boxes[:, 2:]], axis=1)
    extent = np.array([*view.photo] * 2, np.float32)
    scale = np.array([view.width / width, view.height / height] * 2, np.float32)
    boxes = np.clip(found.boxes * scale + np.array(view.window[:2] * 2, np.float32), 0, extent)
    sound = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1) & ~((from_edge < _CUT) & inner).any(axis=1)
    return Proposals(boxes[sound], found.scores[sound])


def _suppressed(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rows that are left after non-maximum suppression, best first."""
    # torch takes a second to import, and reading a collection does not need it.
    import torch
    from torchvision.ops import nms

    kept: NDArray[np.int64] = nms(torch.from_numpy(boxes), torch.from_numpy(scores), SUPPRESS).numpy()
    return kept
