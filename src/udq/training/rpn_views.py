"""Views of labelled photos, and their feature maps on disk, for training the region proposal network."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor

from udq.common import npz
from udq.common.files import partial_folder, write_whole
from udq.common.lock import LOCK, OWNER, Lock
from udq.config import ImageConfig
from udq.datasets.detection import Labelled
from udq.errors import ImageError, InputError, UdqError
from udq.features.device import workers
from udq.features.extractor import Extractor
from udq.features.trunk import Maps
from udq.photos import decoding

# A view is cropped to a share of the photo's area, and scaled; objects that a crop leaves less of are not its objects.
_CROPPED, _SCALED, _VISIBLE = (0.35, 0.95), (0.55, 1.25), 0.6
_SMALLEST = 64  # pixels of a view's side: a smaller one leaves no cells


class TrainingView(NamedTuple):
    """What the backbone saw of a photo, and where its objects are.

    Attributes:
        maps: of the view.
        height, width: its pixels.
        objects: (B, 4) float32, x1, y1, x2, y2 in these pixels.
    """

    maps: Maps
    height: int
    width: int
    objects: Tensor


class ViewCache:
    """Maps of views and the state of training, on disk until training is done. A context manager that holds a lock."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        # Not the folder itself, which may be what an interrupted build of a collection of that name left.
        self._folder = partial_folder(output) / "rpn"
        self._fingerprint = fingerprint
        self._output = output

    def __enter__(self) -> ViewCache:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UdqError(f"{self._folder}: cannot be made ({error.strerror}); choose another place") from error
        self._lock = Lock(self._folder, self._output, doing="training it")
        mark = self._folder / "fingerprint"
        if not mark.exists() or mark.read_text() != self._fingerprint:
            for left in self._folder.iterdir():
                if left.name not in (LOCK, OWNER):
                    left.unlink()
            write_whole(mark, self._fingerprint.encode())
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def state(self) -> Path:
        return self._folder / "training.npz"

    def file(self, look: tuple[int, int]) -> Path:
        return self._folder / f"{look[0]:06d}-{look[1]}.npz"

    def put(self, look: tuple[int, int], view: TrainingView) -> None:
        arrays: dict[str, NDArray[Any]] = {
            # The maps' own precision would take twice the disk, and trains no better.
            "features": view.maps.features.half().cpu().numpy(),
            "size": np.array([view.height, view.width]),
            "objects": view.objects.numpy(),
        }
        if view.maps.fine is not view.maps.features:
            arrays["fine"] = view.maps.fine.half().cpu().numpy()
        write_whole(self.file(look), npz.to_bytes(arrays))

    def view(self, look: tuple[int, int], device: torch.device) -> TrainingView:
        arrays = npz.from_bytes(self.file(look).read_bytes())
        height, width = arrays["size"].tolist()
        features = torch.from_numpy(arrays["features"]).to(device).float()
        fine = torch.from_numpy(arrays["fine"]).to(device).float() if "fine" in arrays else features
        return TrainingView(Maps(features, fine), height, width, torch.from_numpy(arrays["objects"]).to(device))

    def clear(self) -> None:
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # a build of a collection left something there
            self._folder.parent.rmdir()


def extract_view(
    photos: Sequence[Labelled],
    looks: Sequence[tuple[int, int]],
    extractor: Extractor,
    image: ImageConfig,
    seed: int,
    scratch: ViewCache,
    step: Callable[[], None],
) -> dict[int, str]:
    """Put the maps of every view into the scratch folder; return which photos cannot be read, and why."""

    at_once = workers()

    def one(look: tuple[int, int]) -> str | None:
        if scratch.file(look).exists():
            return None
        photo, view = look
        try:
            opened = decoding.load_full(photos[photo].path)
        except (ImageError, InputError) as error:
            return str(error)
        pixels, objects = seen_labels(
            opened, photos[photo].boxes, view, image, np.random.default_rng([seed, photo, view])
        )
        height, width = pixels.shape[:2]
        maps = extractor.maps(pixels, at_once=at_once)
        scratch.put(look, TrainingView(maps, height, width, torch.from_numpy(objects)))
        return None

    unread = {}
    with (
        # One photo a thread: the layers of a light network are too small for several threads to share.
        ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        threadpool_limits(1, user_api="blas"),
    ):
        try:
            for look, reason in zip(looks, pool.map(one, looks), strict=True):
                if reason is not None:
                    unread[look[0]] = reason
                step()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return unread


def seen_labels(
    opened: Image.Image, boxes: NDArray[np.float32], view: int, image: ImageConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the pixels and objects of a view of a photo; the first view is the photo itself."""
    objects, scale = boxes.astype(np.float64), 1.0
    if view and rng.random() < 0.5:
        opened = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, right = opened.width - objects[:, 2], opened.width - objects[:, 0]
        objects = np.stack([left, objects[:, 1], right, objects[:, 3]], axis=1)
    if view and rng.random() < 0.5:
        opened, objects = _cropped(opened, objects, rng)
    if view:
        scale = math.exp(rng.uniform(*np.log(_SCALED)))
    scale *= decoding.scale_for(*opened.size, shorter=image.shorter, longer=image.longer)
    width, height = (max(_SMALLEST, round(side * scale)) for side in opened.size)
    ratio = np.array([width / opened.width, height / opened.height] * 2)
    pixels = np.asarray(opened.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return pixels, (objects * ratio).astype(np.float32)


def _cropped(
    opened: Image.Image, boxes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Image.Image, NDArray[np.float64]]:
    """Return a random part of a photo and the objects that it shows most of; the whole photo where it shows none."""
    side = math.sqrt(rng.uniform(*_CROPPED))
    width, height = (max(1, round(extent * min(1.0, side * math.exp(rng.normal(0, 0.15))))) for extent in opened.size)
    left, top = (int(rng.integers(0, room + 1)) for room in (opened.width - width, opened.height - height))
    frame = np.array([left, top, left + width, top + height])
    inside = np.concatenate([np.maximum(boxes[:, :2], frame[:2]), np.minimum(boxes[:, 2:], frame[2:])], axis=1)
    seen = (inside[:, 2:] - inside[:, :2]).clip(0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shown = seen > _VISIBLE
    if len(boxes) and not shown.any():
        return opened, boxes
    return opened.crop((left, top, left + width, top + height)), inside[shown] - [left, top, left, top]
