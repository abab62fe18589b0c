"""ICC profiles made by hand, and what their colours are in sRGB, by the definitions of the colour spaces in NumPy."""

from __future__ import annotations

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
_D65 = (0.3127, 0.3290)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# White and primaries, x and y; exponent of the levels, None for the curve of sRGB.
SPACES = {
    "sRGB": (_D65, [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], None),
    "Display P3": (_D65, [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], None),
    "Adobe RGB": (_D65, [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.19921875),
    "ProPhoto RGB": ((0.3457, 0.3585), [(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], 1.80078125),
    "swapped": (_D65, [(0.15, 0.06), (0.30, 0.60), (0.64, 0.33)], None),
}


def profile(space: str) -> bytes:
    """Return the profile of one of ``SPACES``."""
    exponent = SPACES[space][2]
    xyz = [b"XYZ \0\0\0\0" + _fixed(*column) for column in _matrix(space).T]
    curve = _parametric() if exponent is None else _gamma(exponent)
    return _file(
        b"mntr", b"RGB ", b"XYZ ", {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
        | dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True))
        | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    )  # fmt: skip


def grey_profile(exponent: float) -> bytes:
    """Return the profile of greys whose levels have that exponent."""
    return _file(
        b"mntr", b"GRAY", b"XYZ ", {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50), b"kTRC": _gamma(exponent)}
    )  # fmt: skip


def ink_profile(colours: np.ndarray) -> bytes:
    """Return a profile of CMYK.

    Args:
        colours: (2, 2, 2, 2, 3) uint8 sRGB of no or all of each ink.
    """
    linear = _linear(colours / 255.0) @ _matrix("sRGB").T / D50
    f = np.where(linear > (6 / 29) ** 3, np.cbrt(linear), linear * 841 / 108 + 4 / 29)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    encoded = np.clip(lab * (2.55, 1, 1) + (0, 128, 128), 0, 255).round().astype(np.uint8)
    line = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _file(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + 4 * line + encoded.tobytes() + 3 * line})


def in_srgb(pixels: np.ndarray, space: str) -> np.ndarray:
    """Return (..., 3) levels of 0..255 of a colour space as levels in sRGB, float64."""
    exponent = SPACES[space][2]
    levels = np.asarray(pixels, np.float64) / 255
    linear = _linear(levels) if exponent is None else levels**exponent
    return _levels(linear @ (np.linalg.inv(_matrix("sRGB")) @ _matrix(space)).T)


def from_srgb(pixels: np.ndarray, space: str) -> np.ndarray:
    """Return (..., 3) levels of 0..255 of sRGB in another colour space, uint8: what a copy in that space stores."""
    exponent = SPACES[space][2]
    linear = _linear(np.asarray(pixels, np.float64) / 255) @ (np.linalg.inv(_matrix(space)) @ _matrix("sRGB")).T
    found = _levels(linear) if exponent is None else np.clip(linear, 0, 1) ** (1 / exponent) * 255
    return found.round().astype(np.uint8)


def grey_in_srgb(pixels: np.ndarray, exponent: float) -> np.ndarray:
    """Return grey levels of that exponent as levels in sRGB."""
    return _levels((np.asarray(pixels, np.float64) / 255) ** exponent)


def _linear(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _levels(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _matrix(space: str) -> np.ndarray:
    """Return the matrix from linear levels to XYZ, adapted to the white of profiles (Bradford)."""
    white, primaries, _ = SPACES[space]
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    target = np.array([white[0] / white[1], 1, (1 - sum(white)) / white[1]])
    matrix = xyz * np.linalg.solve(xyz, target)
    cones = np.diag((_BRADFORD @ D50) / (_BRADFORD @ target))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ matrix


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def _parametric() -> bytes:
    return b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _file(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", offset + len(body), b"none", 0x04300000, kind, space, connection, b"acsp")
    return header.ljust(68, b"\0") + _fixed(*D50) + b"\0" * 48 + table + body
