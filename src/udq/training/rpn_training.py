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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from udq._version import __version__
from udq.common import files, npz
from udq.common.files import write_whole
from udq.common.progress import Progress, silent
from udq.common.provenance import provenance
from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets.detection import Labelled, Labels
from udq.errors import ImageError, InputError
from udq.features import backbones
from udq.features.device import in_gpu_memory
from udq.features.extractor import Extractor
from udq.features.proposals import rpn
from udq.training.rpn_views import TrainingView, ViewCache, extract_view

PROPOSALS = (50, 100, 200, 500)
OVERLAPS = (0.5, 0.7)
_WARM_UP = 50  # steps until the learning rate is reached


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
        ViewCache(output, _fingerprint(labels, image, feature, settings, weights, extractor)) as scratch,
        in_gpu_memory(f"longer in [images], now {image.longer},"),
    ):
        with progress("looking at photos", len(looks)) as step:
            unread = extract_view(labels.photos, looks, extractor, image, settings.seed, scratch, step)
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
            network = rpn.ProposalNetwork(backbones.backbone(feature.backbone), dropout=settings.dropout).to(place)
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


def recall(network: rpn.ProposalNetwork, views: Iterable[TrainingView]) -> dict[str, dict[str, float]]:
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
    network: rpn.ProposalNetwork,
    looks: Sequence[tuple[int, int]],
    settings: ProposalTraining,
    scratch: ViewCache,
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


def _keep(file: Path, facts: str, network: rpn.ProposalNetwork, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    """Write all that the next epoch needs."""
    arrays: dict[str, NDArray[Any]] = {"facts": np.array(facts)}
    arrays |= {f"network/{name}": tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser/{i}/{name}": tensor.cpu().numpy() for name, tensor in moments.items()}
    write_whole(file, npz.to_bytes({**arrays, "epochs": np.array(epochs)}))


def _resume(file: Path, facts: str, network: rpn.ProposalNetwork, optimiser: torch.optim.Optimizer) -> int:
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
