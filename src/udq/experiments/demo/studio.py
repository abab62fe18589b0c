"""Compose a photo of the demonstration: paste objects into a scene, and compute the box of their visible parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from udq.experiments.demo.cutouts import DISTRACTORS, OBJECTS, cut
from udq.experiments.demo.scenes import pieces, scene
from udq.types import Box

SIZES = ((640, 480), (640, 480), (640, 427), (600, 450), (480, 640))
SHARE = (0.07, 0.36)  # range of the share of the photo's area that a rotated object's box covers
SCALE = (0.35, 1.3)  # range of the scale relative to the object's own photo; more would only blur it
TURN = 30.0  # maximum rotation in degrees, either way
HIDDEN = (0.10, 0.33)  # range of the part of an object that an occluder hides

_Light: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ScenePlan:
    """One photo to compose.

    Attributes:
        objects: names of its objects, keys of ``OBJECTS``; at most two, at most one with a distractor.
        hidden: whether an occluder hides a part of the object.
        distractor: whether it shows an object of ``DISTRACTORS`` too.
        backdrop: index into ``BACKDROPS``.
        ground: index into ``GROUNDS``; None for the backdrop only.
    """

    objects: tuple[str, ...]
    hidden: bool
    distractor: bool
    backdrop: int
    ground: int | None


@dataclass(frozen=True)
class Placement:
    """An object in a photo.

    Attributes:
        photo: file name of the photo.
        box: the visible part of the object, x1, y1, x2, y2 in pixels of the photo.
        whole: whether the object is fully visible.
    """

    photo: str
    box: Box
    whole: bool


class Studio:
    """Cutouts and pieces of scenes, read once, and the composition of photos from them."""

    def __init__(self) -> None:
        """Read the photos; raises DependencyError if packages that ship them are missing."""
        self._backdrops, self._grounds = pieces()
        self._things = {
            name: (picture := cut(cutout)).crop(picture.getchannel("A").getbbox())
            for name, cutout in {**OBJECTS, **DISTRACTORS}.items()
        }

    def compose(
        self, plan: ScenePlan, name: str, rng: np.random.Generator
    ) -> tuple[Image.Image, list[tuple[str, Placement]]]:
        """Compose a photo.

        Args:
            plan: what it shows.
            name: its file name, for the placements.
            rng: random generator of everything that the plan does not specify.

        Returns:
            The RGB photo, and the name and placement of each object in it.
        """
        size = SIZES[rng.integers(len(SIZES))]
        ground = None if plan.ground is None else self._grounds[plan.ground]
        picture = _relit(scene(self._backdrops[plan.backdrop], ground, size, rng), rng)
        things = [str(rng.choice(list(DISTRACTORS)))] if plan.distractor else []
        things += plan.objects
        visible: list[tuple[str, _Light]] = []  # name and visible alpha of each thing
        for thing, slot in zip(things, _slots(len(things), size, rng), strict=True):
            layer = _posed(self._things[thing], slot, size, rng)
            alpha = layer[..., 3:] / 255
            picture = picture * _shadow(alpha)
            picture = picture * (1 - alpha) + _relit(layer[..., :3], rng) * alpha
            visible = [(other, part * (1 - alpha[..., 0])) for other, part in visible]
            visible.append((thing, alpha[..., 0]))
        if plan.hidden:
            occluder, cover = _occluder(visible[-1][1], self._grounds, rng)
            picture = picture * (1 - cover[..., None]) + occluder * cover[..., None]
            visible = [(other, part * (1 - cover)) for other, part in visible]
        grain = rng.standard_normal(picture.shape, np.float32) * rng.uniform(1, 4)
        picture = np.clip(_relit(picture, rng) + grain, 0, 255)
        placements = [
            (thing, Placement(name, extent(255 * part), not plan.hidden))
            for thing, part in visible
            if thing in plan.objects
        ]
        return Image.fromarray(picture.astype(np.uint8)), placements


def extent(alpha: NDArray[Any]) -> Box:
    """Return the box x1, y1, x2, y2 of the pixels where alpha, (H, W) in 0..255, is more than half opaque."""
    rows, columns = (np.flatnonzero((alpha > 127).any(axis=axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _slots(count: int, size: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """Return the part of the photo for each thing: side by side, or stacked in a tall photo."""
    width, height = float(size[0]), float(size[1])
    if count < 2:
        return [(0.0, 0.0, width, height)][:count]
    share = rng.uniform(0.42, 0.58)
    if width > height:
        halves = [(0.0, 0.0, width * share, height), (width * share, 0.0, width, height)]
    else:
        halves = [(0.0, 0.0, width, height * share), (0.0, height * share, width, height)]
    return [halves[i] for i in rng.permutation(2)]


def _posed(thing: Image.Image, slot: Box, size: tuple[int, int], rng: np.random.Generator) -> _Light:
    """Return a thing scaled, rotated, sheared and moved into its slot: (H, W, 4) float32 in 0..255."""
    room = np.array([slot[2] - slot[0], slot[3] - slot[1]])
    share = np.exp(rng.uniform(*np.log(SHARE)))
    turn = np.radians(rng.uniform(-TURN, TURN))
    if rng.random() < 0.3:
        turn *= 0.1  # some photos are taken with a level camera
    slant, narrow = rng.uniform(-0.1, 0.1), rng.uniform(0.88, 1.12)
    pose = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[narrow, slant], [0, 1]]
    reach = np.abs(pose) @ thing.size
    scale = float(np.clip(np.sqrt(share * size[0] * size[1] / np.prod(reach)), *SCALE))
    scale = min(scale, *(0.97 * room / reach))
    # Scaled down before the rotation, which would skip pixels.
    small = thing.resize((round(thing.width * scale), round(thing.height * scale)), Image.Resampling.LANCZOS)
    free = np.maximum(room - scale * reach, 0) / 2
    centre = slot[:2] + room / 2 + rng.uniform(-1, 1, 2) * free
    back = np.linalg.inv(pose)
    shift = np.array(small.size) / 2 - back @ centre
    coefficients = (*back[0].tolist(), float(shift[0]), *back[1].tolist(), float(shift[1]))
    moved = small.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(moved, np.float32)


def _shadow(alpha: _Light) -> _Light:
    """Return the remaining light around a thing with its shadow beside and below it; both (H, W, 1) in 0..1."""
    shape = Image.fromarray((alpha[..., 0] * 255).astype(np.uint8))
    moved = shape.transform(shape.size, Image.Transform.AFFINE, (1, 0, -5, 0, 1, -8))
    shade = np.asarray(moved.filter(ImageFilter.GaussianBlur(9)), np.float32)[..., None]
    return 1 - 0.45 * shade / 255


def _relit(picture: _Light, rng: np.random.Generator) -> _Light:
    """Change exposure, contrast and colour of the light at random."""
    gain, gamma = float(np.exp(rng.uniform(-0.22, 0.18))), float(np.exp(rng.uniform(-0.2, 0.2)))
    light = (255 * gain * (1 + rng.uniform(-0.09, 0.09, 3))).astype(np.float32)
    lit: _Light = (np.clip(picture, 0, 255) / 255) ** gamma * light
    return lit


def _occluder(visible: _Light, grounds: list[Image.Image], rng: np.random.Generator) -> tuple[_Light, _Light]:
    """Return an occluder near the camera, (H, W, 3) in 0..255, and its alpha, (H, W) in 0..1.

    It comes from one side and hides a part, drawn from ``HIDDEN``, of the object of alpha ``visible``, (H, W) in 0..1.
    """
    height, width = visible.shape
    x1, y1, x2, y2 = extent(255 * visible)
    texture = scene(grounds[rng.integers(len(grounds))], None, (width, height), rng) * rng.uniform(0.4, 0.8)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi, 2)
    centre_x = (x1 + x2) / 2 + 0.62 * (x2 - x1) * float(np.cos(angle))
    centre_y = (y1 + y2) / 2 + 0.62 * (y2 - y1) * float(np.sin(angle))
    around = np.arctan2(y - centre_y, x - centre_x)
    bumps = 1 + 0.12 * np.sin(2 * around + float(waves[0])) + 0.08 * np.sin(5 * around + float(waves[1]))
    reach = np.hypot((x - centre_x) / (x2 - x1), (y - centre_y) / (y2 - y1)) / bumps
    # Its edge is at the distance that encloses the wanted part of the object.
    edge = float(np.quantile(reach[visible > 0.5], rng.uniform(*HIDDEN)))
    return texture, np.clip((edge - reach) * (x2 - x1) / 3 + 0.5, 0, 1)
