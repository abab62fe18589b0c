"""Views of labelled photos, and their maps on disk, for training the region proposal network.

The disk holds views up to a limit; the others are computed again whenever they are needed, with the same values.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from udq.common import npz, threads
from udq.common.files import (
    MAX_FEATURES,
    empty_folder,
    has_links,
    partial_folder,
    read_regular,
    reason,
    write_whole,
)
from udq.common.lock import LOCK, OWNER, Lock
from udq.config import ImageConfig
from udq.datasets.detection import Labelled
from udq.errors import ImageError, UdqError
from udq.features.extractor import Extractor
from udq.photos import pyramid, sandbox

# Ranges of a crop's share of the photo's area and of a view's scale, and the share of an object that a crop must show.
_CROPPED, _SCALED, _VISIBLE = (0.35, 0.95), (0.55, 1.25), 0.6
_MARK = "fingerprint"  # name of the file that says which training the views belong to
_SMALLEST = 64  # pixels of a view's side; smaller maps have no cells
# Bytes of views on disk: all of VOC2007 with the default backbone; a fifth of it with VGG16 at 600/1000.
_MOST_BYTES = 10 * 2**30


ViewKey = tuple[int, int]  # place of the photo in the labels, number of the view


class TrainingView(NamedTuple):
    """Maps of a view of a photo, and the boxes of its objects.

    Attributes:
        feature_map, fine_map: as returned by ``Trunk.maps``.
        height, width: of the view in pixels.
        objects: (B, 4) float32, x1, y1, x2, y2 in pixels of the view.
    """

    feature_map: Tensor
    fine_map: Tensor
    height: int
    width: int
    objects: Tensor


class ViewCache:
    """Views and the state of training, on disk until training is done. A context manager that holds a lock.

    A view is named by its photo's place in the labels and its number, 0 for the photo as it is.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        """Choose the folder.

        Args:
            output: the file that training will write; the folder is beside it.
            fingerprint: checksum of everything that the views depend on; a folder with another one is emptied.
        """
        # A subfolder, since the folder may hold an interrupted build of a collection of that name.
        self._folder = partial_folder(output) / "rpn"
        self._fingerprint = fingerprint
        self._output = output
        self._bytes = 0
        self._counting = threading.Lock()

    def __enter__(self) -> ViewCache:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UdqError(f"{self._folder}: cannot be made ({reason(error)}); choose another place") from error
        if self._folder.is_symlink() or self._folder.parent.is_symlink():
            raise UdqError(f"{self._folder}: a link, where unfinished work is written; delete the link")
        self._lock = Lock(self._folder, self._output, doing="training it")
        try:
            if not self._is_of_this_training():
                empty_folder(self._folder, keep=(LOCK, OWNER))
                write_whole(self._folder / _MARK, self._fingerprint.encode())
            self._bytes = sum(entry.stat().st_size for entry in os.scandir(self._folder))
        except BaseException:
            self._lock.release()
            raise
        return self

    def _is_of_this_training(self) -> bool:
        """Whether what is in the folder was made with the same fingerprint, and without links."""
        try:
            mark = read_regular(self._folder / _MARK, limit=len(self._fingerprint))
        except (OSError, ValueError):
            return False
        return mark == self._fingerprint.encode() and not has_links(self._folder)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def state(self) -> Path:
        """The file of the state of training."""
        return self._folder / "training.npz"

    def file(self, key: ViewKey) -> Path:
        """Return the file of a view."""
        return self._folder / f"{key[0]:06d}-{key[1]}.npz"

    @property
    def full(self) -> bool:
        """Whether no more views are saved."""
        return self._bytes >= _MOST_BYTES

    def write(self, key: ViewKey, view: TrainingView) -> None:
        """Save a view."""
        arrays: dict[str, NDArray[Any]] = {
            # float32 would take twice the disk, and trains no better.
            "features": view.feature_map.half().cpu().numpy(),
            "size": np.array([view.height, view.width]),
            "objects": view.objects.numpy(),
        }
        if view.fine_map is not view.feature_map:
            arrays["fine"] = view.fine_map.half().cpu().numpy()
        data = npz.to_bytes(arrays)
        write_whole(self.file(key), data)
        with self._counting:
            self._bytes += len(data)

    def read(self, key: ViewKey, device: torch.device) -> TrainingView:
        """Load a saved view onto a device; raises UdqError if its file is damaged."""
        try:
            arrays = npz.from_bytes(read_regular(self.file(key), limit=MAX_FEATURES))
            height, width = arrays["size"].tolist()
            features = torch.from_numpy(arrays["features"]).to(device).float()
            fine = torch.from_numpy(arrays["fine"]).to(device).float() if "fine" in arrays else features
            return TrainingView(features, fine, height, width, torch.from_numpy(arrays["objects"]).to(device))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(self.file(key), error) from error

    def clear(self) -> None:
        """Delete the folder."""
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: an interrupted build of a collection is there
            self._folder.parent.rmdir()


def damaged(file: Path, error: Exception) -> UdqError:
    """Return the error for a file of an unfinished training that cannot be read."""
    return UdqError(
        f"{file}: expected a file of an unfinished training, found a damaged one ({reason(error)}); delete it, and "
        "run the same command again"
    )


class Views:
    """Views of labelled photos: from the cache, or computed."""

    def __init__(
        self, photos: Sequence[Labelled], extractor: Extractor, image: ImageConfig, seed: int, cache: ViewCache
    ) -> None:
        """Compute nothing yet.

        Args:
            photos: labelled photos.
            extractor: computes the maps.
            image: scale of photos.
            seed: of crops and scales.
            cache: where views are saved.
        """
        self._photos, self._extractor, self._image, self._seed = photos, extractor, image, seed
        self._cache = cache

    def extract(self, keys: Sequence[ViewKey], step: Callable[[], None]) -> dict[int, str]:
        """Save the views that the cache lacks and has room for, several photos at a time; read every photo.

        Args:
            keys: the views.
            step: called after each view.

        Returns:
            Photos that cannot be read -> the reason.
        """
        at_once = self._extractor.engine.workers
        readable: set[int] = set()

        def extract(key: ViewKey) -> str | None:
            saved = os.path.lexists(self._cache.file(key))
            if saved or (self._cache.full and key[0] in readable):
                return None
            try:
                opened = self._opened(key)
                if not self._cache.full:
                    self._cache.write(key, self._seen(key, opened, at_once))
            except ImageError as error:
                return str(error)
            readable.add(key[0])
            return None

        unread = {}
        with threads.one_core_each(), ThreadPoolExecutor(at_once, "views") as pool:
            try:
                for key, reason in zip(keys, pool.map(extract, keys), strict=True):
                    if reason is not None:
                        unread[key[0]] = reason
                    step()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return unread

    def read(self, keys: Iterable[ViewKey]) -> Iterator[TrainingView]:
        """Yield views on the extractor's device, computed ahead of the consumer if they are not saved.

        Raises:
            UdqError: the file of a view is damaged, or a photo cannot be read any more.
        """
        at_once = self._extractor.engine.workers
        device = self._extractor.device

        def read(key: ViewKey) -> TrainingView:
            if os.path.lexists(self._cache.file(key)):
                return self._cache.read(key, device)
            view = self._seen(key, self._opened(key), at_once)
            maps = [each.half().float() for each in (view.feature_map, view.fine_map)]  # as from the cache
            return TrainingView(
                maps[0].to(device),
                maps[0].to(device) if view.fine_map is view.feature_map else maps[1].to(device),
                view.height,
                view.width,
                view.objects.to(device),
            )

        with threads.one_core_each(), ThreadPoolExecutor(at_once, "views") as pool:
            waiting: deque[Future[TrainingView]] = deque()
            try:
                for key in keys:
                    waiting.append(pool.submit(read, key))
                    if len(waiting) > at_once:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _opened(self, key: ViewKey) -> Image.Image:
        return Image.fromarray(sandbox.shared().load_full(self._photos[key[0]].path))

    def _seen(self, key: ViewKey, opened: Image.Image, at_once: int) -> TrainingView:
        """Return a view of a photo, with its maps."""
        photo, number = key
        rng = np.random.default_rng([self._seed, photo, number])
        pixels, objects = draw_view(opened, self._photos[photo].boxes, number, self._image, rng)
        height, width = pixels.shape[:2]
        maps = self._extractor.maps(pixels, at_once=at_once)
        return TrainingView(*maps, height, width, torch.from_numpy(objects))


def draw_view(
    opened: Image.Image, boxes: NDArray[np.float32], number: int, image: ImageConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Flip, crop and scale a photo at random; view 0 is the photo itself, scaled for the network.

    Args:
        opened: the photo.
        boxes: (B, 4) float32, objects in pixels of the photo.
        number: of the view.
        image: scale of photos.
        rng: source of randomness.

    Returns:
        Pixels (h, w, 3) uint8 RGB, and the objects that the view shows, (b, 4) float32 in pixels of the view.
    """
    objects, scale = boxes.astype(np.float64), 1.0
    if number and rng.random() < 0.5:
        opened = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, right = opened.width - objects[:, 2], opened.width - objects[:, 0]
        objects = np.stack([left, objects[:, 1], right, objects[:, 3]], axis=1)
    if number and rng.random() < 0.5:
        opened, objects = _cropped(opened, objects, rng)
    if number:
        scale = math.exp(rng.uniform(*np.log(_SCALED)))
    scale *= pyramid.scale_for(*opened.size, shorter=image.shorter, longer=image.longer)
    width, height = (max(_SMALLEST, round(side * scale)) for side in opened.size)
    ratio = np.array([width / opened.width, height / opened.height] * 2)
    pixels = np.asarray(opened.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return pixels, (objects * ratio).astype(np.float32)


def _cropped(
    opened: Image.Image, boxes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Image.Image, NDArray[np.float64]]:
    """Return a random crop of a photo and the objects that it shows enough of; the whole photo if it shows none."""
    side = math.sqrt(rng.uniform(*_CROPPED))
    width, height = (max(1, round(extent * min(1.0, side * math.exp(rng.normal(0, 0.15))))) for extent in opened.size)
    left, top = (int(rng.integers(0, room + 1)) for room in (opened.width - width, opened.height - height))
    frame = np.array([left, top, left + width, top + height])
    inside = np.concatenate([np.maximum(boxes[:, :2], frame[:2]), np.minimum(boxes[:, 2:], frame[2:])], axis=1)
    share = (inside[:, 2:] - inside[:, :2]).clip(0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shown = share > _VISIBLE
    if len(boxes) and not shown.any():
        return opened, boxes
    return opened.crop((left, top, left + width, top + height)), inside[shown] - [left, top, left, top]
