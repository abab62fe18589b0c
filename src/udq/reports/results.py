"""Sheets of a search, and of the best and worst queries of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from udq.common.text import counted
from udq.errors import ImageError, InputError
from udq.evaluation import metrics
from udq.photos import sandbox
from udq.photos.indexed import IndexedFile, OutsideFolderError, PhotoPath
from udq.photos.sandbox import Decoder
from udq.reports.palette import QUERY, RIGHT, WRONG
from udq.reports.sheet import Tile, sheet
from udq.types import Box, SearchResult

if TYPE_CHECKING:
    from udq.evaluation.benchmark import Evaluation
    from udq.evaluation.scoring import Outcome
    from udq.search.reader import Reader

_SHOWN = 8
_BEST_AND_WORST = 5
# Longer side in pixels to which a photo is decoded for a sheet: four times that of its tile.
_LONGER = 960


def search_sheet(collection: Reader, result: SearchResult) -> PillowImage.Image:
    """Draw the query and its first matches, with the boxes found."""
    by_name = {image.name: image for image in collection.images}
    decoder = collection.decoder
    tiles = [_tile(Path(result.image), result.box, QUERY, "query", decoder=decoder)]
    for match in result.matches:
        copies = f"  +{counted(len(match.copies), 'copy', 'copies')}" if match.copies else ""
        caption = f"{match.rank}  score {match.score:.3f}{copies}\n{match.image}"
        tiles.append(_tile(by_name[match.image].file, match.box, RIGHT, caption, decoder=decoder))
    rows = [tiles[start : start + _SHOWN + 1] for start in range(0, len(tiles), _SHOWN + 1)]
    return sheet(rows)


def evaluation_sheet(collection: Reader, evaluation: Evaluation) -> PillowImage.Image:
    """Draw the best and the worst queries of a benchmark, each with its first matches marked right or wrong."""
    ordered = sorted(evaluation.outcomes, key=lambda outcome: (-outcome.ap, outcome.query.image))
    if len(ordered) > 2 * _BEST_AND_WORST:
        ordered = ordered[:_BEST_AND_WORST] + ordered[-_BEST_AND_WORST:]
    return outcomes_sheet(ordered, {image.name: image.file for image in collection.images}, decoder=collection.decoder)


def outcomes_sheet(
    outcomes: Sequence[Outcome],
    photos: Mapping[str, PhotoPath],
    shown: int = _SHOWN,
    decoder: Decoder | None = None,
) -> PillowImage.Image:
    """Draw queries of a benchmark, each with its first matches marked right or wrong.

    Args:
        outcomes: the queries, from top to bottom.
        photos: name of each photo of the database -> its file.
        shown: number of matches per query.
        decoder: decodes the photos; that of this process if None.
    """
    titles = [
        f"AP {outcome.ap:.3f}   {outcome.query.label or outcome.query.image}   {len(outcome.query.positives)} positives"
        for outcome in outcomes
    ]
    return sheet([_row(outcome, photos, shown, decoder) for outcome in outcomes], titles=titles)


def _row(outcome: Outcome, photos: Mapping[str, PhotoPath], shown: int, decoder: Decoder | None) -> list[Tile]:
    query = outcome.query
    tiles = [_tile(outcome.photo, query.box, QUERY, f"query\n{query.image}", decoder=decoder)]
    for match in outcome.matches[:shown]:
        right = match.image in query.positives
        overlap = ""
        if match.image in query.boxes:
            overlap = f"  IoU {metrics.intersection_over_union(match.box, query.boxes[match.image]):.2f}"
        mark = "right" if right else "junk" if match.image in query.junk else "wrong"
        caption = f"{match.rank}{overlap}\n{match.image}"
        colour = RIGHT if right else WRONG
        tiles.append(_tile(photos[match.image], match.box, colour, caption, mark, decoder))
    return tiles


def _tile(
    photo: PhotoPath, box: Box | None, colour: str, caption: str, mark: str = "", decoder: Decoder | None = None
) -> Tile:
    """Load a photo for a sheet; a photo that cannot be read now becomes a grey tile, not an error."""
    try:
        decoded = (decoder or sandbox.shared()).decode(photo, shorter=_LONGER, longer=_LONGER)
    except OutsideFolderError:
        return _grey(f"{caption}\n(a link out of its folder)", mark)
    except (ImageError, InputError):
        path = photo.path if isinstance(photo, IndexedFile) else photo
        reason = "(photo cannot be read now)" if path.exists() else "(photo is gone)\nmoved? udq relocate"
        return _grey(f"{caption}\n{reason}", mark)
    if box is None:
        return Tile(decoded.pixels, (), caption, mark)
    height, width = decoded.pixels.shape[:2]
    across, down = width / decoded.width, height / decoded.height
    x1, y1, x2, y2 = box
    return Tile(decoded.pixels, (((x1 * across, y1 * down, x2 * across, y2 * down), colour),), caption, mark)


def _grey(caption: str, mark: str) -> Tile:
    """Return a tile in place of a photo that cannot be shown."""
    return Tile(np.full((180, 240, 3), 220, np.uint8), (), caption, mark)
