"""Fine-tuning on the queries' photos: a real network on real photos."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.ops import box_iou

from udq.config import FeatureConfig, ImageConfig
from udq.features.extractor import Extractor
from udq.features.trunk import Trunk
from udq.photos import sandbox
from udq.photos.source import Source
from udq.training import query_tuning
from udq.training.query_tuning import QueryTuning, TuningPhoto

IMAGES = ImageConfig(shorter=160, longer=224, smallest=0.0)
FEATURES = FeatureConfig(pooling="roi", regions=60)
BOXES = {"coffee.png": (81, 20, 478, 386), "chelsea.png": (60, 20, 400, 290)}


def pixels(path):
    return sandbox.shared().decode(path, shorter=IMAGES.shorter, longer=IMAGES.longer, smallest=0.0).pixels


@pytest.fixture(scope="module")
def asked(photos):
    """Two photos, each with an object."""
    extractor = Extractor(IMAGES, FEATURES, device="cpu")
    names = [name for name in BOXES if (photos / name).exists()] or ["coffee.png"]
    found = extractor.extract(Source(name, photos / name) for name in names)
    return [
        TuningPhoto(
            partial(pixels, photo.source.path),
            photo.width,
            photo.height,
            photo.regions.boxes,
            np.array([BOXES[photo.source.name]], np.float32),
            np.array([number], np.int64),
        )
        for number, photo in enumerate(found, start=1)
    ]


def tuning(asked, rate=1e-3):
    return QueryTuning(Trunk(FEATURES), asked, rate=rate, seed=3)


def test_the_loss_falls_and_the_first_convolutions_stay(asked):
    network = tuning(asked)
    before = {name: part.detach().clone() for name, part in network.trunk.named_parameters()}
    for _ in range(16):
        network.step()

    assert np.mean(network.losses[-4:]) < 0.8 * np.mean(network.losses[:4])
    changed = {name for name, part in network.trunk.named_parameters() if not torch.equal(part, before[name])}
    trainable = {name for name, part in network.trunk.named_parameters() if part.requires_grad}
    assert changed <= trainable == set(network.state())
    assert len(changed) > 0.9 * len(trainable)
    assert not any(name.startswith("convolutions.network._conv_stem") for name in changed)


def test_an_interrupted_run_ends_with_the_same_network(asked):
    whole = tuning(asked)
    for _ in range(5):
        whole.step()
    first = tuning(asked)
    for _ in range(2):
        first.step()
    rest = tuning(asked)
    rest.load(first.to_bytes())
    assert rest.done == 2
    for _ in range(3):
        rest.step()

    assert rest.losses == whole.losses[2:]
    for name, array in whole.state().items():
        assert np.array_equal(rest.state()[name], array)


def test_the_loss_is_that_of_fast_rcnn(asked):
    """Class and position, computed here from the layers' output by the formulas of the paper of Fast R-CNN."""
    network, photo = tuning(asked), asked[0]
    loss = network._loss(photo, False)

    regions = torch.cat([torch.tensor(photo.boxes), torch.tensor(photo.proposals)])
    overlap = box_iou(torch.tensor(photo.boxes), regions)[0]
    classes = torch.where(overlap >= 0.5, 1, 0)
    kept = network._sampled(classes)
    regions, classes = regions[kept], classes[kept]
    assert 1 <= classes.sum() <= 32
    assert len(kept) <= 128
    features = network.trunk.regions(
        network.trunk.feature_map(torch.from_numpy(photo.read())), regions, width=photo.width, height=photo.height
    )
    scores, found = (layer(features) for layer in network._layers)
    x, y, right, bottom = regions.T
    left, top, end, base = photo.boxes[0].tolist()
    width, height = right - x, bottom - y
    moves = torch.stack(
        [
            10 * ((left + end) / 2 - (x + right) / 2) / width,
            10 * ((top + base) / 2 - (y + bottom) / 2) / height,
            5 * torch.log((end - left) / width),
            5 * torch.log((base - top) / height),
        ],
        dim=1,
    )
    objects = classes == 1
    of_class = found.reshape(len(found), -1, 4)[objects, 1]
    position = smooth_l1_loss(of_class, moves[objects], beta=1 / 9, reduction="sum") / len(classes)
    assert loss.item() == pytest.approx((cross_entropy(scores, classes) + position).item(), rel=1e-4)


def test_a_mirrored_photo_has_mirrored_boxes():
    boxes = torch.tensor([[10.0, 5.0, 30.0, 20.0]])
    assert query_tuning._mirrored(boxes, 100).tolist() == [[70.0, 5.0, 90.0, 20.0]]
    assert query_tuning._mirrored(query_tuning._mirrored(boxes, 100), 100).tolist() == boxes.tolist()
