"""Colours of a photo -> sRGB, as a viewer shows them: by the ICC profile that the photo carries.

Phones embed Display P3, cameras Adobe RGB, and scanners profiles of their own. A profile that cannot be read, or that
describes other colours than the photo has (one of RGB in a CMYK photo), is ignored, as browsers do; so is one larger
than 16 MiB, which limits the memory of a hostile photo. A profile that changes no colour by more than two levels of
256 is sRGB under any of its names: such a photo, the usual one, is returned as it is.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageFile

# The largest profiles in use, of printing presses, have 3 MB.
_MAX_PROFILE = 16 * 2**20
# Profiles whose transforms are kept: photos of one source carry the same.
_KEPT = 8
# Largest difference in levels for which a profile is not applied.
_SAME = 2
# Steps of each of red, green and blue at which a profile is compared with sRGB.
_STEPS = 18


def ink(picture: Image.Image, opened: ImageFile.ImageFile) -> Image.Image:
    """Return a picture with CMYK as amounts of ink: Pillow has taken those of any JPEG for inverted.

    They are inverted if the file has Adobe's marker, since Adobe's programs write them so.
    """
    if picture.mode == "CMYK" and opened.format in ("JPEG", "MPO") and "adobe" not in opened.info:
        return ImageChops.invert(picture)
    return picture


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture of 8 bits in RGB or, if it has an alpha band, RGBA.

    Args:
        picture: of any mode; one with transparency must have an alpha band.
        profile: ICC profile of its colours; sRGB if None. Amounts of ink without a profile are converted by rule.
    """
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    if picture.mode == "LA":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "CMYK", "RGBA"):
        picture = picture.convert("RGB")
    if profile and len(profile) <= _MAX_PROFILE:
        space = _space(profile)
        if picture.mode == "L" and space == "RGB":
            picture = picture.convert("RGB")
        transform = _transform(profile, picture.mode) if space == _SPACES[picture.mode] else None
        if transform is not None:
            picture = transform.apply(picture)
    if alpha is None:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.mode != "RGBA":
        picture = picture.convert("RGB")
        picture.putalpha(alpha)
    return picture


_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}


@lru_cache(_KEPT)
def _space(profile: bytes) -> str | None:
    """Return which colours a profile describes: ``RGB``, ``GRAY``, ``CMYK`` or others; None if it cannot be read."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ValueError, TypeError):
        return None


@lru_cache(2 * _KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile to sRGB; None if there is none, or if it changes nothing."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged profile
        return None
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(_STEPS, -1, 3)
    probe = Image.fromarray(colours).convert(mode)
    found = np.asarray(transform.apply(probe).convert("RGB")).astype(int)
    return transform if np.abs(found - np.asarray(probe.convert("RGB"))).max() > _SAME else None
