"""Train a region proposal network on labelled boxes, on top of a backbone that stays as it is (sec. 4.1).

Every photo goes through the backbone once a view (itself; flipped, cropped and scaled), and its maps wait in a scratch
folder: what is left to train is small enough for a CPU. What is done is kept, maps and epochs: training that was
killed goes on from there, and ends with the same network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torchvision.ops import box_iou

from udq import archive, backbones, images
from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets.detection import Labelled, Labels
from udq.errors import ImageError, InputError
from udq.extract import Extractor
from udq.progress import Progress, silent
from udq.proposals import rpn
from udq.provenance import provenance
from udq.trunk import Maps, Trunk
from udq.writer import partial_folder, write_whole

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
    if output.exists():
        raise InputError(f"{output}: already exists; choose another name, or delete it first")
    training, held_out = _split(labels.photos, settings)
    backbone = backbones.backbone(feature.backbone)
    trunk = Extractor(image, dataclasses.replace(feature, proposals="grid"), weights=weights, device=device).trunk
    scratch = _Scratch(partial_folder(output), _fingerprint(labels, image, feature, settings, weights))
    looks = [(i, view) for i in training for view in range(settings.views)] + [(i, 0) for i in held_out]
    with progress("looking at photos", len(looks)) as step:
        unread = _look(labels.photos, looks, trunk, image, settings.seed, scratch, step)
    seen = [look for look in looks if look not in unread and look[0] not in set(held_out)]
    tested = [(i, 0) for i in held_out if (i, 0) not in unread]
    if not seen or not tested:
        raise ImageError(f"none of {len(unread)} photos could be read: {next(iter(unread.values()))}")
    with _one_thread(), torch.random.fork_rng(devices=[trunk.device] if trunk.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = rpn.Network(backbone, dropout=settings.dropout).to(trunk.device)
        _optimise(network, seen, settings, scratch, progress)
    recalled = recall(network, (scratch.view(look, trunk.device) for look in tested))
    card = {
        "backbone": feature.backbone,
        "trained_on": labels.summary(),
        "unreadable": len({i for i, _ in unread}),
        "held_out_photos": len(tested),
        "recall": recalled,
        "settings": dataclasses.asdict(settings),
        "provenance": provenance(seed=settings.seed),
    }
    write_whole(output.with_suffix(".md"), markdown(card).encode())
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
        f"- **Trained on** {card['trained_on']}; {card['held_out_photos']} photos with boxes were held out.",
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
    """Maps of views and the state of training, on disk until training is done."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "fingerprint"
        if not mark.exists() or mark.read_text() != fingerprint:
            for left in folder.iterdir():
                left.unlink()
            write_whole(mark, fingerprint.encode())
        self.state = folder / "training.npz"

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
        write_whole(self.file(look), archive.to_bytes(arrays))

    def view(self, look: tuple[int, int], device: torch.device) -> View:
        arrays = archive.from_bytes(self.file(look).read_bytes())
        height, width = arrays["size"].tolist()
        features = torch.from_numpy(arrays["features"]).to(device).float()
        fine = torch.from_numpy(arrays["fine"]).to(device).float() if "fine" in arrays else features
        return View(Maps(features, fine), height, width, torch.from_numpy(arrays["objects"]).to(device))

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _split(photos: Sequence[Labelled], settings: ProposalTraining) -> tuple[list[int], list[int]]:
    """Return which photos to train on and which to hold out; a photo without objects has nothing to recall."""
    order = np.random.default_rng(settings.seed).permutation(len(photos)).tolist()
    with_objects = [i for i in order if len(photos[i].boxes)]
    held_out = sorted(with_objects[: max(1, round(settings.held_out * len(with_objects)))])
    training = sorted(set(order) - set(held_out))
    if not any(len(photos[i].boxes) for i in training):
        raise InputError(f"expected at least two photos with boxes, to hold one out, found {len(with_objects)}")
    return training, held_out


def _look(
    photos: Sequence[Labelled],
    looks: Sequence[tuple[int, int]],
    trunk: Trunk,
    image: ImageConfig,
    seed: int,
    scratch: _Scratch,
    step: Callable[[], None],
) -> dict[tuple[int, int], str]:
    """Put the maps of every view into the scratch folder; return why some could not be made."""

    @torch.inference_mode()
    def one(look: tuple[int, int]) -> str | None:
        if scratch.file(look).exists():
            return None
        photo, view = look
        try:
            opened = images.load_full(photos[photo].path)
        except (ImageError, InputError) as error:
            return str(error)
        pixels, objects = _seen(opened, photos[photo].boxes, view, image, np.random.default_rng([seed, photo, view]))
        height, width = pixels.shape[:2]
        maps = trunk.maps(torch.from_numpy(pixels.copy()))
        scratch.put(look, View(maps, height, width, torch.from_numpy(objects)))
        return None

    unread = {}
    with (
        # One photo a thread: the layers of a light network are too small for several threads to share.
        ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
        threadpool_limits(1, user_api="blas"),
    ):
        try:
            for look, reason in zip(looks, pool.map(one, looks), strict=True):
                if reason is not None:
                    unread[look] = reason
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
    scale *= images.scale_for(*opened.size, shorter=image.shorter, longer=image.longer)
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


@contextmanager
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

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    done = _resume(scratch.state, network, optimiser, schedule)
    network.train()
    with progress("training", settings.epochs * steps) as step:
        for _ in range(done * steps):
            step()
        for epoch in range(done, settings.epochs):
            # Of the epoch alone, so that training that goes on draws what it would have drawn.
            torch.manual_seed(settings.seed + 1 + epoch)
            order = torch.randperm(len(looks)).tolist()
            for batch in (order[i * settings.batch : (i + 1) * settings.batch] for i in range(steps)):
                optimiser.zero_grad()
                for i in batch:
                    view = scratch.view(looks[i], device)
                    loss = network.loss(view.maps, view.height, view.width, view.objects) / len(batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                step()
            _keep(scratch.state, network, optimiser, epoch + 1, steps)


def _keep(file: Path, network: rpn.Network, optimiser: torch.optim.Optimizer, epochs: int, steps: int) -> None:
    """Write all that the next epoch needs."""
    arrays = {f"network/{name}": tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser/{i}/{name}": tensor.cpu().numpy() for name, tensor in moments.items()}
    write_whole(file, archive.to_bytes({**arrays, "epochs": np.array(epochs), "steps": np.array(epochs * steps)}))


def _resume(
    file: Path,
    network: rpn.Network,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    """Take over what ``_keep`` wrote, if it is there, and return how many epochs are done."""
    if not file.exists():
        return 0
    arrays = archive.from_bytes(file.read_bytes())
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network.load_state_dict({name.removeprefix("network/"): t for name, t in tensors.items() if "network/" in name})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, i, moment = name.split("/")
            moments.setdefault(int(i), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    schedule.load_state_dict({**schedule.state_dict(), "last_epoch": int(arrays["steps"])})
    for group, base in zip(optimiser.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * schedule.lr_lambdas[0](int(arrays["steps"]))
    return int(arrays["epochs"])


def _fingerprint(
    labels: Labels, image: ImageConfig, feature: FeatureConfig, settings: ProposalTraining, weights: Path | None
) -> str:
    """Return a checksum of all that the trained network depends on."""
    stages = [dataclasses.asdict(stage) for stage in (image, feature, settings)]
    found = hashlib.sha256(json.dumps([torch.__version__, stages, str(weights)], sort_keys=True).encode())
    for photo in labels.photos:
        found.update(f"{photo.path}\0{photo.path.stat().st_mtime_ns}\n".encode() + photo.boxes.tobytes())
    return found.hexdigest()
