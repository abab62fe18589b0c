"""Training of a region proposal network on labelled boxes, on top of a frozen backbone (sec. 4.1).

Each view of a photo (the photo itself, and flipped, cropped and scaled versions) goes through the backbone once, and
its maps are saved in a temporary folder; the rest of the network is small enough to train on a CPU. Maps and epochs are
saved as they are done, so that training that was killed resumes there and ends with the same network. Training takes
one thread: the layers are too small to share, and rounding then does not depend on the number of cores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from udq._version import __version__
from udq.common import files, npz
from udq.common.files import MAX_FEATURES, read_regular, write_whole
from udq.common.progress import Progress, silent
from udq.common.provenance import provenance
from udq.common.threads import limit_this_thread
from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets.detection import Labelled, Labels
from udq.errors import ImageError, InputError
from udq.features import backbones
from udq.features.device import SCALE, in_gpu_memory
from udq.features.extractor import Extractor
from udq.features.proposals import rpn
from udq.training.rpn.views import TrainingView, ViewCache, ViewKey, Views, damaged

PROPOSALS = (50, 100, 200, 500)
OVERLAPS = (0.5, 0.7)
_WARM_UP = 50  # steps over which the learning rate rises


@limit_this_thread()
def train(
    labels: Labels,
    output: Path,
    *,
    image: ImageConfig,
    feature: FeatureConfig,
    settings: ProposalTraining,
    weights: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train, write the network to ``output`` and its model card beside it (``.md``), and return the card.

    Args:
        labels: photos and boxes.
        output: the file to write; must not exist.
        image: scale of photos.
        feature: backbone.
        settings: of training.
        weights: file of weights to use instead of the backbone's default ones.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: number of views to extract in parallel; as many as there are cores if None.
        progress: called for each view and step.

    Returns:
        The model card, as returned by ``rpn.read``: JSON-serialisable backbone, labels, recall, settings, provenance.

    Raises:
        InputError: ``output`` exists, or there are too few photos to hold some out.
        ImageError: too few photos can be read.
    """
    card_file = _card_file(output)
    training, held_out = _split(labels.photos, settings)
    extractor = Extractor(image, feature, weights=weights, device=device, threads=threads)
    keys = [(i, number) for i in training for number in range(settings.views)] + [(i, 0) for i in held_out]
    with (
        ViewCache(output, _fingerprint(labels, image, feature, settings, weights, extractor)) as cache,
        in_gpu_memory(SCALE.format(image.longer)),
    ):
        views = Views(labels.photos, extractor, image, settings.seed, cache)
        with progress("extracting photos", len(keys)) as step:
            unreadable = views.extract(keys, step)
        tested = [key for key in keys if key[0] in held_out and key[0] not in unreadable]
        trained_on = [key for key in keys if key[0] not in held_out and key[0] not in unreadable]
        _check_enough(labels, tested, trained_on, unreadable)
        sides = rpn.sides_for(image.shorter)
        network = _trained(feature.backbone, sides, trained_on, settings, cache, views, extractor.device, progress)
        card = {
            "backbone": feature.backbone,
            "images": dataclasses.asdict(image),
            "anchors": list(sides),
            "trained_on": labels.summary(),
            "unreadable": sorted(unreadable.values()),
            "held_out_photos": len(tested),
            "recall": recall(network, views.read(tested)),
            "settings": dataclasses.asdict(settings),
            "provenance": provenance(seed=settings.seed),
        }
        write_whole(card_file, markdown(card).encode())
        write_whole(output, rpn.to_bytes(network, card))
        cache.clear()
    return card


def markdown(card: Mapping[str, Any]) -> str:
    """Return a model card as Markdown text."""
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
    """Return the share of objects that one of the first 50, 100, ... proposals covers: IoU -> proposals -> 0..1."""
    best: dict[int, list[Tensor]] = {count: [] for count in PROPOSALS}
    network.eval()
    with torch.inference_mode():
        for view in views:
            overlaps = box_iou(view.objects, network(view.feature_map, view.fine_map, view.height, view.width))
            for count in PROPOSALS:
                first = overlaps[:, :count]
                best[count].append(first.amax(dim=1) if first.shape[1] else first.new_zeros(len(first)))
    return {
        f"{overlap:g}": {
            str(count): round(float((torch.cat(each) >= overlap).float().mean()), 4) for count, each in best.items()
        }
        for overlap in OVERLAPS
    }


def _card_file(output: Path) -> Path:
    """Return the file of the model card; raises InputError if it or the output exists."""
    card_file = output.with_suffix(".md")
    for file in (output, card_file):
        if file.exists():
            raise InputError(f"{file}: already exists; choose another name, or delete it first")
    if output == card_file:
        raise InputError(f"{output}: expected a name such as rpn.npz, since the model card goes to {card_file.name}")
    return card_file


def _split(photos: Sequence[Labelled], settings: ProposalTraining) -> tuple[list[int], list[int]]:
    """Return the photos to train on and those to hold out, which have objects: recall is measured on them."""
    order = np.random.default_rng(settings.seed).permutation(len(photos)).tolist()
    with_objects = [i for i in order if len(photos[i].boxes)]
    wanted = round(settings.held_out * len(with_objects))
    held_out = sorted(with_objects[: min(max(1, wanted), len(with_objects) - 1)])
    training = sorted(set(order) - set(held_out))
    if not held_out:
        raise InputError(f"expected at least two photos with boxes, to hold one out, found {len(with_objects)}")
    return training, held_out


def _check_enough(
    labels: Labels, tested: Sequence[ViewKey], trained_on: Sequence[ViewKey], unreadable: Mapping[int, str]
) -> None:
    """Raise ImageError if the photos that can be read are too few to train on and to test."""
    if not tested or not any(len(labels.photos[i].boxes) for i, _ in trained_on):
        raise ImageError(
            f"{len(unreadable)} of the photos cannot be read, which leaves too few to train on and to hold out: "
            f"{next(iter(unreadable.values()))}; leave them out of the labels"
        )


def _trained(
    backbone: str,
    sides: tuple[float, ...],
    keys: Sequence[ViewKey],
    settings: ProposalTraining,
    cache: ViewCache,
    views: Views,
    device: torch.device,
    progress: Progress,
) -> rpn.ProposalNetwork:
    """Train a network on views."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = rpn.ProposalNetwork(backbones.backbone(backbone), sides=sides, dropout=settings.dropout)
        network.to(device)
        _optimise(network, keys, settings, cache, views, progress)
    return network


def _optimise(
    network: rpn.ProposalNetwork,
    keys: Sequence[ViewKey],
    settings: ProposalTraining,
    cache: ViewCache,
    views: Views,
    progress: Progress,
) -> None:
    """Train in place; resumes after the last epoch that an interrupted run finished."""
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.decay)
    steps = max(1, len(keys) // settings.batch)
    warm_up = min(_WARM_UP, steps)

    def rate(step: int) -> float:
        """Return the factor of the learning rate: a linear rise to 1, times half a cosine that falls to 0."""
        return min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / (settings.epochs * steps))) / 2

    # A saved state is resumed only if it was trained with the same settings on the same views.
    anchors = network.proposals.anchor_generator.sizes
    facts = json.dumps([dataclasses.asdict(settings), anchors, keys])
    done = _resume(cache.state, facts, network, optimiser)
    network.train()
    with progress("training", settings.epochs * steps) as step:
        for _ in range(done * steps):
            step()
        for epoch in range(done, settings.epochs):
            # The seed depends on the epoch alone, so that resumed training draws the same numbers.
            torch.manual_seed(settings.seed + 1 + epoch)
            order = torch.randperm(len(keys)).tolist()[: steps * settings.batch]
            seen = views.read(keys[i] for i in order)
            for number in range(steps):
                batch = list(itertools.islice(seen, settings.batch))
                for group in optimiser.param_groups:
                    group["lr"] = settings.learning_rate * rate(epoch * steps + number)
                optimiser.zero_grad()
                for view in batch:
                    loss = network.loss(*view) / len(batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step()
            _save(cache.state, facts, network, optimiser, epoch + 1)


def _save(file: Path, facts: str, network: rpn.ProposalNetwork, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    """Write everything that the next epoch needs."""
    arrays: dict[str, NDArray[Any]] = {"facts": np.array(facts)}
    arrays |= {f"network/{name}": tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser/{i}/{name}": tensor.cpu().numpy() for name, tensor in moments.items()}
    write_whole(file, npz.to_bytes({**arrays, "epochs": np.array(epochs)}))


def _resume(file: Path, facts: str, network: rpn.ProposalNetwork, optimiser: torch.optim.Optimizer) -> int:
    """Load the state that ``_save`` wrote if its facts are the same; return the number of finished epochs."""
    if not os.path.lexists(file):
        return 0
    try:
        arrays = npz.from_bytes(read_regular(file, limit=MAX_FEATURES))
        return 0 if str(arrays.pop("facts")) != facts else _load_state(arrays, network, optimiser)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise damaged(file, error) from error


def _load_state(
    arrays: Mapping[str, NDArray[Any]], network: rpn.ProposalNetwork, optimiser: torch.optim.Optimizer
) -> int:
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
    """Return a checksum of everything that the views depend on."""
    facts = [
        __version__,
        extractor.engine.facts(),
        dataclasses.asdict(image),
        feature.backbone,
        files.fingerprint(weights),
        settings.seed,
    ]
    checksum = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for photo in labels.photos:
        try:
            status = photo.path.stat()
            version = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # extraction will list it as unreadable
            version = "unreadable"
        checksum.update(os.fsencode(photo.path) + f"\0{version}\n".encode() + photo.boxes.tobytes())
    return checksum.hexdigest()
