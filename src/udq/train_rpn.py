"""Train a region proposal network on labelled boxes, on top of a backbone that stays as it is (sec. 4.1).

Every photo goes through the backbone once a view (itself; flipped, cropped and scaled), and its maps wait in a scratch
folder: what is left to train is small enough for a CPU. What is done is kept, maps and epochs: training that was
killed goes on from there, and ends with the same network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torchvision.ops import box_iou

from udq._version import __version__
from udq.common import files, npz
from udq.common.files import partial_folder, write_whole
from udq.common.progress import Progress, silent
from udq.common.provenance import provenance
from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets.detection import Labelled, Labels
from udq.errors import ImageError, InputError, UdqError
from udq.features import backbones
from udq.features.device import in_gpu_memory, workers
from udq.features.extractor import Extractor
from udq.features.proposals import rpn
from udq.features.trunk import Maps
from udq.photos import decoding

PROPOSALS = (50, 100, 200, 500)
OVERLAPS = (0.5, 0.7)
# A view is cropped to a share of the photo's area, and scaled; objects that a crop leaves less of are not its objects.
_CROPPED, _SCALED, _VISIBLE = (0.35, 0.95), (0.55, 1.25), 0.6
_SMALLEST = 64  # pixels of a view's side: a smaller one leaves no cells
_WARM_UP = 50  # steps until the learning rate is reached


class View(NamedTuple):
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


def train(
    labels: Labels,
    output: Path,
    *,
    image: ImageConfig,
    feature: FeatureConfig,
    settings: ProposalTraining,
    weights: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train, write the network to ``output`` and its model card beside it (``.md``), and return the card.

    Args:
        labels: photos and boxes.
        output: the file to make; nothing may be there yet.
        image: scale of photos.
        feature: backbone.
        settings: of training.
        weights: a file of weights instead of the backbone's usual ones.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: is told of each view and step.

    Returns:
        What ``rpn.read`` returns too: backbone, labels, recall, settings and provenance, JSON-serialisable.

    Raises:
        InputError: something is at ``output``, or there are too few photos to hold some out.
    """
    card_file = output.with_suffix(".md")
    for file in (output, card_file):
        if file.exists():
            raise InputError(f"{file}: already exists; choose another name, or delete it first")
    if output == card_file:
        raise InputError(f"{output}: expected a name such as rpn.npz, since the model card goes to {card_file.name}")
    training, held_out = _split(labels.photos, settings)
    extractor = Extractor(image, feature, weights=weights, device=device)
    looks = [(i, view) for i in training for view in range(settings.views)] + [(i, 0) for i in held_out]
    with (
        _Scratch(output, _fingerprint(labels, image, feature, settings, weights, extractor)) as scratch,
        in_gpu_memory(f"longer in [images], now {image.longer},"),
    ):
        with progress("looking at photos", len(looks)) as step:
            unread = _look(labels.photos, looks, extractor, image, settings.seed, scratch, step)
        tested = [(i, 0) for i in held_out if i not in unread]
        left_out = unread.keys() | set(held_out)
        seen = [look for look in looks if look[0] not in left_out]
        if not tested or not any(len(labels.photos[i].boxes) for i, _ in seen):
            raise ImageError(
                f"{len(unread)} of the photos cannot be read, and those left are too few to train on and to hold out: "
                f"{next(iter(unread.values()))}; leave them out of the labels"
            )
        place = extractor.device
        with _one_thread(), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            network = rpn.Network(backbones.backbone(feature.backbone), dropout=settings.dropout).to(place)
            _optimise(network, seen, settings, scratch, progress)
        card = {
            "backbone": feature.backbone,
            "images": dataclasses.asdict(image),
            "trained_on": labels.summary(),
            "unreadable": sorted(unread.values()),
            "held_out_photos": len(tested),
            "recall": recall(network, (scratch.view(look, place) for look in tested)),
            "settings": dataclasses.asdict(settings),
            "provenance": provenance(seed=settings.seed),
        }
        write_whole(card_file, markdown(card).encode())
        write_whole(output, rpn.to_bytes(network, card))
        scratch.clear()
    return card


def markdown(card: Mapping[str, Any]) -> str:
    """Return a model card for people."""
    made, counts = card["provenance"], [str(count) for count in PROPOSALS]
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card["settings"].items())
    table = [["IoU", *(f"first {count}" for count in counts)], ["---"] * (1 + len(counts))]
    table += [[overlap, *(f"{found[count]:.3f}" for count in counts)] for overlap, found in card["recall"].items()]
    lines = [
        f"# Region proposal network for {card['backbone']}",
        "",
        "Proposes boxes of objects of any kind, best first, for `udq index --proposals rpn`. Classes are ignored.",
        "",
        f"- **Trained on** {card['trained_on']}; {card['held_out_photos']} photos with boxes were held out"
        + (f", {len(card['unreadable'])} could not be read." if card["unreadable"] else "."),
        f"- **Made by** `{made['command']}` at commit {made['commit']}, {made['date'][:10]}, "
        + ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + ".",
        f"- **Settings:** {settings}.",
        "- **Limits:** objects unlike any that it was trained on may get no box; `--proposals grid` and `rpn+grid`",
        "  cover every place, whatever is there.",
        "",
        "Share of the held-out photos' objects that one of the first proposals covers:",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
    ]
    return "\n".join(lines) + "\n"


def recall(network: rpn.Network, views: Iterable[View]) -> dict[str, dict[str, float]]:
    """Return the share of objects that one of the first 50, 100, ... proposals covers: overlap -> proposals -> 0..1."""
    best: dict[int, list[Tensor]] = {count: [] for count in PROPOSALS}
    network.eval()
    with torch.inference_mode():
        for view in views:
            overlaps = box_iou(view.objects, network(view.maps, view.height, view.width))
            for count in PROPOSALS:
                some = overlaps[:, :count]
                best[count].append(some.amax(dim=1) if some.shape[1] else some.new_zeros(len(some)))
    return {
        f"{overlap:g}": {
            str(count): round(float((torch.cat(found) >= overlap).float().mean()), 4) for count, found in best.items()
        }
        for overlap in OVERLAPS
    }


class _Scratch:
    """Maps of views and the state of training, on disk until training is done. A context manager that holds a lock."""

    def __init__(self, output: Path, fingerprint: str) -> None:
        # Not the folder itself, which may be what an interrupted build of a collection of that name left.
        self._folder = partial_folder(output) / "rpn"
        self._fingerprint = fingerprint
        self._lock = filelock.FileLock(self._folder / "lock")

    def __enter__(self) -> _Scratch:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"{self._folder}: another udq is at work here; wait until that is done") from None
        except OSError as error:
            raise UdqError(f"{self._folder}: cannot be made ({error.strerror}); choose another place") from error
        mark = self._folder / "fingerprint"
        if not mark.exists() or mark.read_text() != self._fingerprint:
            for left in self._folder.iterdir():
                if left.name != "lock":
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

    def put(self, look: tuple[int, int], view: View) -> None:
        arrays: dict[str, NDArray[Any]] = {
            # The maps' own precision would take twice the disk, and trains no better.
            "features": view.maps.features.half().cpu().numpy(),
            "size": np.array([view.height, view.width]),
            "objects": view.objects.numpy(),
        }
        if view.maps.fine is not view.maps.features:
            arrays["fine"] = view.maps.fine.half().cpu().numpy()
        write_whole(self.file(look), npz.to_bytes(arrays))

    def view(self, look: tuple[int, int], device: torch.device) -> View:
        arrays = npz.from_bytes(self.file(look).read_bytes())
        height, width = arrays["size"].tolist()
        features = torch.from_numpy(arrays["features"]).to(device).float()
        fine = torch.from_numpy(arrays["fine"]).to(device).float() if "fine" in arrays else features
        return View(Maps(features, fine), height, width, torch.from_numpy(arrays["objects"]).to(device))

    def clear(self) -> None:
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # a build of a collection left something there
            self._folder.parent.rmdir()


def _split(photos: Sequence[Labelled], settings: ProposalTraining) -> tuple[list[int], list[int]]:
    """Return which photos to train on and which to hold out; a photo without objects has nothing to recall."""
    order = np.random.default_rng(settings.seed).permutation(len(photos)).tolist()
    with_objects = [i for i in order if len(photos[i].boxes)]
    wanted = round(settings.held_out * len(with_objects))
    held_out = sorted(with_objects[: min(max(1, wanted), len(with_objects) - 1)])
    training = sorted(set(order) - set(held_out))
    if not held_out:
        raise InputError(f"expected at least two photos with boxes, to hold one out, found {len(with_objects)}")
    return training, held_out


def _look(
    photos: Sequence[Labelled],
    looks: Sequence[tuple[int, int]],
    extractor: Extractor,
    image: ImageConfig,
    seed: int,
    scratch: _Scratch,
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
        pixels, objects = _seen(opened, photos[photo].boxes, view, image, np.random.default_rng([seed, photo, view]))
        height, width = pixels.shape[:2]
        maps = extractor.maps(pixels, at_once=at_once)
        scratch.put(look, View(maps, height, width, torch.from_numpy(objects)))
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


def _seen(
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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: the layers are too small for several to share, and sums then come out alike everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _optimise(
    network: rpn.Network,
    looks: Sequence[tuple[int, int]],
    settings: ProposalTraining,
    scratch: _Scratch,
    progress: Progress,
) -> None:
    """Train in place; goes on from the last epoch that an earlier try finished."""
    device = next(network.parameters()).device
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.decay)
    steps = max(1, len(looks) // settings.batch)
    warm_up = min(_WARM_UP, steps)

    def rate(step: int) -> float:
        """Rise to the learning rate, then fall to nothing along half a cosine."""
        return min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / (settings.epochs * steps))) / 2

    # What the state of an earlier try must have been trained with to go on from it.
    facts = json.dumps([dataclasses.asdict(settings), looks])
    done = _resume(scratch.state, facts, network, optimiser)
    network.train()
    with progress("training", settings.epochs * steps) as step:
        for _ in range(done * steps):
            step()
        for epoch in range(done, settings.epochs):
            # Of the epoch alone, so that training that goes on draws what it would have drawn.
            torch.manual_seed(settings.seed + 1 + epoch)
            order = torch.randperm(len(looks)).tolist()
            for number in range(steps):
                batch = order[number * settings.batch : (number + 1) * settings.batch]
                for group in optimiser.param_groups:
                    group["lr"] = settings.learning_rate * rate(epoch * steps + number)
                optimiser.zero_grad()
                for i in batch:
                    view = scratch.view(looks[i], device)
                    loss = network.loss(view.maps, view.height, view.width, view.objects) / len(batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step()
            _keep(scratch.state, facts, network, optimiser, epoch + 1)


def _keep(file: Path, facts: str, network: rpn.Network, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    """Write all that the next epoch needs."""
    arrays: dict[str, NDArray[Any]] = {"facts": np.array(facts)}
    arrays |= {f"network/{name}": tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser/{i}/{name}": tensor.cpu().numpy() for name, tensor in moments.items()}
    write_whole(file, npz.to_bytes({**arrays, "epochs": np.array(epochs)}))


def _resume(file: Path, facts: str, network: rpn.Network, optimiser: torch.optim.Optimizer) -> int:
    """Take over what ``_keep`` wrote, if it is there, and return how many epochs are done."""
    if not file.exists():
        return 0
    arrays = npz.from_bytes(file.read_bytes())
    if str(arrays.pop("facts")) != facts:
        return 0
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network.load_state_dict({name.removeprefix("network/"): t for name, t in tensors.items() if "network/" in name})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, i, moment = name.split("/")
            moments.setdefault(int(i), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return int(arrays["epochs"])


def _fingerprint(
    labels: Labels,
    image: ImageConfig,
    feature: FeatureConfig,
    settings: ProposalTraining,
    weights: Path | None,
    extractor: Extractor,
) -> str:
    """Return a checksum of all that the maps depend on."""
    facts = [
        __version__,
        extractor.engine.facts(),
        dataclasses.asdict(image),
        feature.backbone,
        files.fingerprint(weights),
        settings.seed,
    ]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for photo in labels.photos:
        try:
            status = photo.path.stat()
            seen = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # it will be listed as unreadable
            seen = "unreadable"
        found.update(os.fsencode(photo.path) + f"\0{seen}\n".encode() + photo.boxes.tobytes())
    return found.hexdigest()
