"""Copies: photos of one content, stacked so that they count once.

Two files of equal bytes are exact copies. A resized, re-encoded or slightly cropped photo and the shots of a burst are
near copies: their regions have the same features at the same places. With boxes as shares of the width and height of
their photos, the likeness of two photos is

    1 / R sum_(i, j) IoU(i, j) ** 4 max(0, (f_i . f_j - c) / (1 - c)),

over the pairs of their R best regions that are each other's nearest by the summand, where f are features decoded from
codes, of unit length, and c is the cosine that features of different photos have on average: almost 0 after a PCA, and
large for features that were never centred. The likeness is about 1 for a photo and itself. Another view of the same
object has the same features at other places, so it stays apart: docs/rerank.md has the error rates, and
benchmarks/decisions/copies.py measures them. This needs regions that follow the content of a photo; those of a grid are
the same in all photos, and only exact copies are stacked. A photo joins the stack of an earlier photo that it
resembles, so the first photos of a ranking do not depend on later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.quantization.quantizer import Quantizer
from udq.store.segments import StoredPhoto
from udq.types import Codes, Copy, Features

LEAST = 0.31
"""Likeness from which two photos are near copies."""

MOST = 2000
"""Number of photos that are compared with each other by their regions; later ones are only compared by their bytes."""

# R: a photo has 100 regions or more, the best ones first; comparing 50 takes a quarter of the time.
_REGIONS = 50
# Two photos are compared only if their sketches have at least this cosine, as all near copies that were measured have,
# and if the logarithms of their aspect ratios differ by no more than this.
_COSINE, _ASPECT = 0.88, 0.06
# A photo is compared with this number of earlier ones at most, those of the highest cosines.
_CANDIDATES = 4
# A sketch is the sum of the features of the regions whose centre is in a cell, for this number of cells each way; this
# share of the subspaces is enough.
_CELLS, _SHARE = 2, 4
# Limit of c: beyond it, features say nothing.
_USUAL = 0.99
# Photos that are read or sketched at once.
_BLOCK = 128


@dataclass(frozen=True)
class Stack:
    """Photos of one content, best first.

    Attributes:
        places: their places in ``Database.images``; the first one stands for all.
        photos: what the collection stores of each.
    """

    places: tuple[int, ...]
    photos: tuple[StoredPhoto, ...]

    def led_by(self, row: int) -> Stack:
        """Return the stack with another of its photos first."""
        rows = [row, *(each for each in range(len(self.places)) if each != row)]
        return Stack(tuple(self.places[each] for each in rows), tuple(self.photos[each] for each in rows))

    def near(self) -> list[tuple[int, StoredPhoto]]:
        """Return the places and photos behind the first one that are not the same file."""
        digest = _digest(self.photos[0])
        others = zip(self.places[1:], self.photos[1:], strict=True)
        return [(place, photo) for place, photo in others if digest is None or _digest(photo) != digest]

    def copies(self) -> tuple[Copy, ...]:
        """Return the photos behind the first one."""
        first, *others = self.photos
        digest = _digest(first)
        return tuple(
            Copy(other.image.name, other.image.id, digest is not None and digest == _digest(other)) for other in others
        )


class Likenesses:
    """The likenesses of photos, each computed once: stages of reranking stack the same photos several times."""

    def __init__(self, quantizer: Quantizer | None) -> None:
        """Compute nothing yet.

        Args:
            quantizer: of the codes; None to stack exact copies alone.
        """
        self.quantizer = quantizer
        self._usual = 0.0 if quantizer is None else _usual_cosine(quantizer)
        self._sketched: dict[StoredPhoto, tuple[_Regions, NDArray[np.float32]]] = {}
        self._pairs: dict[tuple[StoredPhoto, StoredPhoto], float] = {}

    def sketches(self, photos: Sequence[StoredPhoto]) -> NDArray[np.float32]:
        """Return the sketches of photos, (n, s) float32 of unit length; n >= 1."""
        assert self.quantizer is not None
        unknown = [photo for photo in dict.fromkeys(photos) if photo not in self._sketched]
        if unknown:
            self._sketched.update(zip(unknown, zip(*_regions(unknown, self.quantizer), strict=True), strict=True))
        return np.stack([self._sketched[photo][1] for photo in photos])

    def alike(self, one: StoredPhoto, other: StoredPhoto) -> bool:
        """Return whether two photos, of which there are sketches, are near copies."""
        pair = one, other
        if pair not in self._pairs:
            self._pairs[pair] = _likeness(self._sketched[one][0], self._sketched[other][0], self._usual)
        return self._pairs[pair] >= LEAST


class Stacker:
    """Numbers the stacks of photos that arrive in the order of a ranking."""

    def __init__(self, likenesses: Likenesses) -> None:
        """Start without photos."""
        self._likenesses = likenesses
        self._stacks = 0
        self._by_digest: dict[tuple[int, bytes], int] = {}
        # Of the photos that were compared by their regions: photo, stack, sketch and logarithm of the aspect ratio.
        self._compared: list[StoredPhoto] = []
        self._numbers: list[int] = []
        self._sketches = np.empty((0, 0), np.float32)
        self._aspects = np.empty(0)

    def add(self, photos: Sequence[StoredPhoto]) -> list[int]:
        """Return the number of the stack of each photo, from 0; a new stack has the next number."""
        digests = [_digest(photo) for photo in photos]
        numbers: list[int] = []
        fresh: list[int] = []  # rows that are no exact copies
        seen = set(self._by_digest)
        for row, digest in enumerate(digests):
            if digest is None or digest not in seen:
                fresh.append(row)
                seen |= {digest} if digest else set()
        likely: dict[int, NDArray[np.int64]] = {}
        for start in range(0, len(fresh), _BLOCK):
            block = fresh[start : start + _BLOCK]
            likely |= zip(block, self._likely([photos[row] for row in block]), strict=False)
        for row, digest in enumerate(digests):
            number = self._by_digest.get(digest) if digest else None
            if number is None and row in likely:
                number = self._near(len(self._numbers), likely[row])
            if number is None:
                number, self._stacks = self._stacks, self._stacks + 1
            if row in likely:
                self._numbers.append(number)
            if digest:
                self._by_digest[digest] = number
            numbers.append(number)
        return numbers

    def _likely(self, photos: Sequence[StoredPhoto]) -> list[NDArray[np.int64]]:
        """Take in photos, ``MOST`` in all; return for each the rows of earlier photos that it may resemble."""
        photos = photos[: MOST - len(self._compared)]
        if not photos or self._likenesses.quantizer is None:
            return []
        known = len(self._compared)
        sketches = self._likenesses.sketches(photos)
        self._compared += photos
        self._sketches = np.concatenate([self._sketches, sketches]) if known else sketches
        self._aspects = np.append(self._aspects, [np.log(each.image.width / each.image.height) for each in photos])
        cosine = sketches @ self._sketches.T
        near = (cosine >= _COSINE) & (np.abs(self._aspects[known:, None] - self._aspects) <= _ASPECT)
        near &= np.arange(len(self._compared)) < np.arange(known, len(self._compared))[:, None]  # earlier photos alone
        likely = [np.empty(0, np.int64)] * len(photos)
        for row in np.flatnonzero(near.any(axis=1)).tolist():
            found = np.flatnonzero(near[row])
            likely[row] = found[np.argsort(-cosine[row, found], kind="stable")[:_CANDIDATES]]
        return likely

    def _near(self, row: int, candidates: NDArray[np.int64]) -> int | None:
        """Return the stack of the first candidate that is a near copy of the photo of a row; None if all differ."""
        for other in map(int, candidates):
            if self._likenesses.alike(self._compared[row], self._compared[other]):
                return self._numbers[other]
        return None


class Stacks:
    """The stacks of a ranking, read from its start as far as they are needed."""

    def __init__(
        self,
        order: NDArray[np.int64],
        read: Callable[[Sequence[int]], Sequence[StoredPhoto]],
        likenesses: Likenesses,
    ) -> None:
        """Read nothing yet.

        Args:
            order: (n,) places of photos, best first.
            read: returns what is stored of the photos at some places.
            likenesses: of the photos.
        """
        self._order, self._read, self._stacker = order, read, Stacker(likenesses)
        self._members: list[list[tuple[int, StoredPhoto]]] = []
        self._made: list[Stack | None] = []
        self._done = 0
        self.last = -1
        """Number of the stack of the last photo that was read."""

    def first(self, count: int | None = None) -> list[Stack]:
        """Return the first ``count`` stacks, or all: each with those of its photos that were read so far."""
        while self._done < len(self._order) and (count is None or len(self._members) < count):
            places = self._order[self._done : self._done + _BLOCK].tolist()
            photos = self._read(places)
            for place, photo, number in zip(places, photos, self._stacker.add(photos), strict=True):
                if number == len(self._members):
                    self._members.append([])
                    self._made.append(None)
                self._members[number].append((place, photo))
                self._made[number] = None
                self.last = number
            self._done += len(places)
        return [self._stack(number) for number in range(len(self._members))[:count]]

    def _stack(self, number: int) -> Stack:
        made = self._made[number]
        if made is None:
            places, photos = zip(*self._members[number], strict=True)
            made = self._made[number] = Stack(places, photos)
        return made


def distinct(photos: Sequence[StoredPhoto], quantizer: Quantizer | None) -> list[StoredPhoto]:
    """Return the first photo of each content, in the order given; ``quantizer`` as in ``Likenesses``."""
    kept: dict[int, StoredPhoto] = {}
    for photo, number in zip(photos, Stacker(Likenesses(quantizer)).add(photos), strict=True):
        kept.setdefault(number, photo)
    return list(kept.values())


@dataclass(frozen=True)
class _Regions:
    """The best R regions of a photo.

    Attributes:
        boxes: (R, 4) float32, x1, y1, x2, y2 as shares of width and height.
        codes: (R, M) uint8 or uint16.
        quantizer: of the codes.
    """

    boxes: NDArray[np.float32]
    codes: NDArray[Any]
    quantizer: Quantizer

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """The features of the codes in the rotated space, (R, d) float32 of unit length."""
        return self.quantizer.decode(Codes(self.codes, self.quantizer.codewords)).unit().vectors


def _regions(photos: Sequence[StoredPhoto], quantizer: Quantizer) -> tuple[list[_Regions], NDArray[np.float32]]:
    """Return the best regions and the sketches of photos: (n, _CELLS ** 2 * d / _SHARE) float32 of unit length."""
    boxes = np.zeros((len(photos), _REGIONS, 4), np.float32)
    codes = np.zeros((len(photos), _REGIONS, quantizer.subspaces), photos[0].codes.dtype)
    counts = [min(len(photo.codes), _REGIONS) for photo in photos]
    for row, (photo, count) in enumerate(zip(photos, counts, strict=True)):
        # Not as np.memmap, whose views take longer than the arithmetic here.
        boxes[row, :count] = np.asarray(photo.boxes)[:count]
        codes[row, :count] = np.asarray(photo.codes)[:count]
    boxes /= np.array([[photo.image.width, photo.image.height] * 2 for photo in photos], np.float32)[:, None]
    centres = np.minimum((boxes[..., :2] + boxes[..., 2:]) * np.float32(_CELLS / 2), _CELLS - 1).astype(np.int64)
    cells = centres[..., 0] * _CELLS + centres[..., 1]
    inside = cells[:, None] == np.arange(_CELLS**2)[:, None]
    inside &= (np.arange(_REGIONS) < np.array(counts)[:, None])[:, None]
    parts = range(max(1, quantizer.subspaces // _SHARE))
    features = np.concatenate([quantizer.codebooks[m, codes[..., m]] for m in parts], axis=2)
    sums = (inside.astype(np.float32) @ features).reshape(len(photos), -1)
    regions = [_Regions(boxes[row, :count], codes[row, :count], quantizer) for row, count in enumerate(counts)]
    return regions, Features(sums).unit().vectors


def _usual_cosine(quantizer: Quantizer) -> float:
    """Return c, the cosine that features of different photos have on average."""
    mean = quantizer.codebooks.mean(axis=1)
    return min(float((mean * mean).sum()), _USUAL)


def _likeness(one: _Regions, other: _Regions, usual: float) -> float:
    """Return the likeness of two photos, 0..1; symmetric but for ties. ``usual`` is c."""
    (x1, y1, x2, y2), (left, top, right, bottom) = one.boxes.T[..., None], other.boxes.T
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, bottom) - np.maximum(y1, top)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    both = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)
    overlap = shared / np.maximum(both - shared, np.float32(1e-12))
    cosine = (one.features @ other.features.T - usual) / (1 - usual)
    weight: NDArray[np.float32] = np.square(np.square(overlap)) * np.maximum(cosine, 0)
    nearest = weight.argmax(axis=1)
    rows = np.arange(len(nearest))
    mutual = weight.argmax(axis=0)[nearest] == rows
    total = float(weight[rows, nearest][mutual].sum())
    return total / max(len(one.codes), len(other.codes))


def _digest(photo: StoredPhoto) -> tuple[int, bytes] | None:
    """Return size and digest of the file of a photo; None if unknown."""
    content = photo.content
    return None if content is None or content.size <= 0 else (content.size, content.digest)
