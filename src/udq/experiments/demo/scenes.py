"""Backgrounds of the objects: plain pieces of shipped photos, alone or above a ground, in other colours.

One background serves many objects, so that it does not reveal which object is in front of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from udq.experiments.demo.cutouts import BACKDROPS, GROUNDS, find, photo

# Dark and light colour that grey pieces are toned with.
_TONES = (
    ((20, 28, 12), (205, 220, 140)),
    ((40, 18, 12), (235, 190, 160)),
    ((16, 20, 30), (210, 218, 228)),
    ((36, 26, 14), (240, 222, 180)),
    ((22, 22, 22), (228, 228, 226)),
    ((10, 26, 34), (190, 222, 226)),
)
_LARGEST_ZOOM = 2.6
_SOFT_HORIZON = 3


def pieces() -> tuple[list[Image.Image], list[Image.Image]]:
    """Return the pieces of ``BACKDROPS`` and ``GROUNDS``, cut from their photos, in the same order."""
    return [_piece(*place) for place in BACKDROPS], [_piece(*place) for place in GROUNDS]


def _piece(name: str, *box: int) -> Image.Image:
    picture = photo(name)
    with Image.open(find(name)) as shipped:
        scale = picture.width / shipped.width
    left, top, right, bottom = (round(scale * value) for value in box)
    return picture.crop((left, top, right, bottom))


def scene(
    backdrop: Image.Image, ground: Image.Image | None, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Compose a background.

    Args:
        backdrop: the piece that fills the photo, or its part above the ground.
        ground: a texture, drawn as a plane that recedes towards the horizon; None for no ground.
        size: width and height of the photo in pixels.
        rng: random generator of crop, tone, horizon and sharpness.

    Returns:
        (H, W, 3) float32 in 0..255.
    """
    if ground is None:
        picture = _fill(backdrop, size, rng)
    else:
        horizon = int(size[1] * rng.uniform(0.45, 0.7))
        above = _fill(backdrop, (size[0], horizon + 4 * _SOFT_HORIZON), rng)
        below = _plane(ground, (size[0], size[1] - horizon), rng)
        picture, plane, mask = Image.new("RGB", size), Image.new("RGB", size), Image.new("L", size)
        picture.paste(above, (0, 0))
        plane.paste(below, (0, horizon))
        mask.paste(255, (0, horizon + _SOFT_HORIZON, *size))
        # A soft horizon instead of a sharp edge.
        picture = Image.composite(plane, picture, mask.filter(ImageFilter.GaussianBlur(_SOFT_HORIZON / 2)))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.choice([0.0, 0.6, 1.2, 2.5]))))
    return np.asarray(picture, np.float32)


def _toned(piece: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Tone a grey piece; return a coloured piece unchanged."""
    if piece.mode != "L":
        return piece
    dark, light = _TONES[rng.integers(len(_TONES))]
    return ImageOps.colorize(ImageOps.autocontrast(piece, cutoff=1), dark, light)


def _tiled(piece: Image.Image, across: bool = True, down: bool = True) -> Image.Image:
    """Tile a piece with its mirror images, which meet without a seam."""
    width, height = piece.size
    tiled = Image.new(piece.mode, (width * (1 + across), height * (1 + down)))
    for i, row in enumerate((piece, ImageOps.flip(piece))[: 1 + down]):
        for j, tile in enumerate((row, ImageOps.mirror(row))[: 1 + across]):
            tiled.paste(tile, (j * width, i * height))
    return tiled


def _fill(piece: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    piece = _toned(piece, rng)
    if rng.random() < 0.5:
        piece = ImageOps.mirror(piece)
    piece = _tiled(piece, size[0] / piece.width > _LARGEST_ZOOM, size[1] / piece.height > _LARGEST_ZOOM)
    zoom = max(size[0] / piece.width, size[1] / piece.height) * rng.uniform(1.0, 1.35)
    width, height = size[0] / zoom, size[1] / zoom
    left, top = rng.uniform(0, piece.width - width), rng.uniform(0, piece.height - height)
    return piece.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _plane(ground: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw a texture in perspective: the far edge shows twice the width of the near edge."""
    texture = _tiled(_toned(ground, rng))
    width, height = size
    span = min(texture.width, 1000)
    bend = 1 / height
    depth = min(texture.height, 2 * span * height / width) * 2
    coefficients = (span / width, bend * span / 2, 0.0, 0.0, depth / height / 2, 0.0, 0.0, bend)
    return texture.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
