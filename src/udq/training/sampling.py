"""The sample of a collection's photos and regions that a model is fitted to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udq.config import SampleConfig
from udq.errors import InputError
from udq.features.extractor import ExtractedPhoto
from udq.types import Features, Regions

# Copies of the features of a sample that are in memory at a time.
_COPIES = 3


@dataclass(frozen=True)
class SampledPhoto:
    """A photo of a sample.

    Attributes:
        width, height: its size in pixels; 0 if it could not be read.
        points: (P, 24) uint8, its local features (``udq.keypoints.codebook``).
    """

    width: int
    height: int
    points: NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """Regions that a model is fitted to, with their features.

    Attributes:
        features: (G, D) pooled features.
        regions: G regions.
        images: (G,) int64, index of the photo that each region belongs to; ascending.
        of_view: (G,) int64, index of the view of its photo that each region is pooled from.
        photos: the photos.
    """

    features: Features
    regions: Regions
    images: NDArray[np.int64]
    of_view: NDArray[np.int64]
    photos: tuple[SampledPhoto, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.of_view) == len(self.regions) == len(self.features):
            raise ValueError(
                f"sample: expected as many regions as features, found {len(self.regions)}, "
                f"{len(self.features)} features, {len(self.images)} photos and {len(self.of_view)} views"
            )


def training_sample(photos: int, settings: SampleConfig) -> list[int]:
    """Return ascending indices of the photos that the model is fitted to: ``settings.photos`` at random, or all."""
    shuffled = np.random.default_rng(settings.seed).permutation(photos)
    return sorted(int(i) for i in shuffled[: settings.photos or None])


def check_memory(settings: SampleConfig, photos: int, of_photo: int) -> None:
    """Raise InputError if the features of all regions, and what is computed from them, do not fit into memory.

    Args:
        settings: size of the sample; nothing is checked if it bounds the number of regions.
        photos: number of photos that are sampled.
        of_photo: bytes of the features of a photo.
    """
    size = photos * of_photo
    if not settings.regions and hasattr(os, "sysconf"):  # not on Windows
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if _COPIES * size > memory:
            raise InputError(
                f"training on all regions takes about {_COPIES * size / 2**30:.0f} GB of memory, and this machine has "
                f"{memory / 2**30:.0f}; set regions in [sample] in a --config file, such as 40000"
            )


def draw(photos: Iterator[ExtractedPhoto], expected: int, settings: SampleConfig) -> Sample:
    """Draw random regions of the training photos: at most ``settings.regions``, the same number from each, or all.

    A region is drawn with a probability proportional to its area. Small regions outnumber large ones, and most of
    them are background: drawn uniformly, they would dominate what the model learns (docs/training.md).

    Args:
        photos: regions and features of the training photos.
        expected: number of photos, >= 1.
        settings: size and seed of the sample.

    Raises:
        InputError: all regions of these photos would need more memory than this machine has.
    """
    rng = np.random.default_rng(settings.seed)
    share = max(1, settings.regions // expected) if settings.regions else None
    kept, boxes, images, views, sampled = [], [], [], [], []
    for i, photo in enumerate(photos):
        if i == 0:
            check_memory(settings, expected, photo.features.vectors.nbytes)
        sides = photo.regions.boxes[:, 2:] - photo.regions.boxes[:, :2]
        # The regions with the smallest exponential waiting times are a weighted sample without replacement.
        waiting = rng.standard_exponential(len(sides)) / sides.prod(axis=1)
        rows = np.sort(np.argsort(waiting)[:share])
        kept.append(photo.features.vectors[rows])
        boxes.append(photo.regions.boxes[rows])
        images.append(np.full(len(rows), i))
        views.append(photo.of_view[rows])
        sampled.append(SampledPhoto(photo.width, photo.height, photo.points))
    features, regions = Features(np.concatenate(kept)), Regions(np.concatenate(boxes))
    return Sample(features, regions, np.concatenate(images), np.concatenate(views), tuple(sampled))
