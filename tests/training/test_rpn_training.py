"""The region proposal network: what it proposes, its file, and how it is trained."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq.config import FeatureConfig, ImageConfig, ProposalTraining
from udq.datasets import detection
from udq.errors import InputError
from udq.features.backbones import REGISTRY
from udq.features.device import Engine
from udq.features.extractor import Extractor
from udq.features.proposals import build, rpn
from udq.features.trunk import Maps, Trunk
from udq.photos.decoding import load
from udq.photos.source import Source
from udq.training import rpn_training, rpn_views

SMALL = ImageConfig(shorter=96, longer=128)
CPU = Engine(torch.device("cpu"))
LITE = REGISTRY["efficientnet-lite0"]


def maps(rows, columns):
    return Maps(torch.rand(1280, rows, columns), torch.rand(112, 2 * rows, 2 * columns))


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return rpn.ProposalNetwork(LITE).eval()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Photos of one bright rectangle on a dark, noisy ground, with its box."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    rows = ["image,x1,y1,x2,y2"]
    for i in range(12):
        pixels = rng.integers(0, 60, (96, 128, 3), np.uint8)
        x, y, width, height = rng.integers(4, 40), rng.integers(4, 30), rng.integers(40, 80), rng.integers(30, 60)
        pixels[y : y + height, x : x + width] = 200 + rng.integers(0, 50, 3)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{x},{y},{x + width},{y + height}")
    (folder / "boxes.csv").write_text("\n".join(rows))
    return folder / "boxes.csv"


# --- proposals ---


def test_shipped_proposals_lie_inside_the_photo_best_first_and_the_whole_photo_last(photos):
    feature = FeatureConfig(regions=40)
    extractor = Extractor(ImageConfig(), feature, device="cpu")
    (found,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])
    boxes = found.regions.boxes

    assert 30 < len(boxes) <= 41
    assert (boxes[-1] == [0, 0, found.width, found.height]).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [found.width, found.height]).all()
    overlaps = rpn_training.box_iou(torch.from_numpy(boxes[:-1].copy()), torch.from_numpy(boxes[:-1].copy()))
    assert (overlaps - torch.eye(len(boxes) - 1)).max() < 0.75  # suppressed, before clipping to whole pixels
    # Fewer are the first of more.
    fewer = Extractor(ImageConfig(), FeatureConfig(regions=10), device="cpu")
    (first,) = fewer.extract([Source("coffee.png", photos / "coffee.png")])
    assert first.regions.boxes[:10] == pytest.approx(boxes[:10])


def test_boxes_are_in_pixels_of_the_photo_whatever_the_scale_the_network_sees(photos):
    photo = load(photos / "coffee.png", shorter=200, longer=300)
    larger = dataclasses.replace(photo, width=2 * photo.width, height=2 * photo.height)
    seen = Trunk(FeatureConfig()).maps(torch.from_numpy(photo.pixels.copy()))
    propose = build(FeatureConfig(regions=5), rpn=None, engine=CPU)
    boxes = propose(photo, seen).boxes

    assert propose(larger, seen).boxes == pytest.approx(2 * boxes)
    assert boxes[-1].tolist() == [0, 0, photo.width, photo.height]


def test_both_is_the_network_and_then_the_grid(photos):
    photo = load(photos / "coffee.png", shorter=160, longer=240)
    seen = Trunk(FeatureConfig()).maps(torch.from_numpy(photo.pixels.copy()))
    made = {
        name: build(FeatureConfig(proposals=name), rpn=None, engine=CPU)(photo, seen).boxes
        for name in ("grid", "rpn", "rpn+grid")
    }

    assert (made["rpn+grid"] == np.concatenate([made["rpn"], made["grid"][1:]])).all()  # the whole photo once


def test_photos_of_any_shape_have_a_region(network):
    for rows, columns in ((2, 60), (60, 2), (2, 2)):
        boxes = network(maps(rows, columns), 32 * rows, 32 * columns)
        assert torch.isfinite(boxes).all()
        assert boxes[:, 0::2].max() <= 32 * columns
        assert boxes[:, 1::2].max() <= 32 * rows


def test_the_fine_map_is_the_last_of_stride_16():
    trunk = Trunk(FeatureConfig())
    whole = torch.randint(0, 255, (224, 320, 3), dtype=torch.uint8)
    seen = trunk.maps(whole)

    assert seen.features.shape == (1280, 7, 10)
    assert seen.fine.shape == (112, 14, 20)
    assert (seen.features == trunk.feature_map(whole)).all()


@pytest.mark.parametrize("name", ["efficientnet-lite0", "vgg16", "resnet101"])
def test_a_backbones_fine_map_has_the_promised_depth(name, random_weights):
    weights = None if name.startswith("efficientnet") else random_weights(name)
    trunk = Trunk(FeatureConfig(backbone=name), weights=weights)
    with torch.inference_mode():
        seen = trunk.maps(torch.zeros(64, 96, 3, dtype=torch.uint8))
        boxes = rpn.ProposalNetwork(REGISTRY[name]).eval()(seen, 64, 96)

    assert seen.fine.shape == (REGISTRY[name].fine_channels or REGISTRY[name].channels, 4, 6)
    assert boxes.shape[1] == 4


# --- its file ---


def test_a_network_survives_its_file_at_half_precision(network):
    data = rpn.to_bytes(network, {"backbone": LITE.name, "note": "ü"})
    again, card = rpn.from_bytes(data, LITE.name, "rpn.npz")

    assert card == {"backbone": LITE.name, "note": "ü"}
    assert len(data) < 5_000_000
    for name, tensor in network.state_dict().items():
        assert (again.state_dict()[name] == tensor.half().float()).all()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04\x95", b"weights"])
def test_another_file_is_refused(tmp_path, data):
    (tmp_path / "rpn.npz").write_bytes(data)
    with pytest.raises(InputError, match="expected a file that udq train-rpn wrote"):
        rpn.read(LITE.name, tmp_path / "rpn.npz")


def test_a_file_that_is_not_there_or_of_another_backbone_is_refused(network, tmp_path):
    with pytest.raises(InputError, match=r"no region proposal network can be read there \(No such file"):
        rpn.read(LITE.name, tmp_path / "gone.npz")
    (tmp_path / "rpn.npz").write_bytes(rpn.to_bytes(network, {"backbone": LITE.name}))
    with pytest.raises(InputError, match="for the backbone efficientnet-lite0, and this is vgg16"):
        rpn.read("vgg16", tmp_path / "rpn.npz")


def test_a_backbone_without_a_shipped_network_says_how_to_make_one():
    with pytest.raises(InputError, match="train one with: udq train-rpn LABELS --backbone vgg16"):
        build(FeatureConfig(backbone="vgg16"), rpn=None, engine=CPU)


def test_a_network_for_proposals_that_use_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="'grid' use no network"):
        build(FeatureConfig(proposals="grid"), rpn=tmp_path / "rpn.npz", engine=CPU)


def test_the_shipped_network_has_a_card_that_says_what_it_was_trained_on():
    _, card = rpn.read(LITE.name, None)

    assert card["backbone"] == LITE.name
    assert card["recall"]["0.5"]["200"] > 0.5
    shipped = resources.files("udq.features.proposals") / "weights" / f"{LITE.name}.md"
    assert shipped.read_text(encoding="utf-8") == rpn_training.markdown(card)


# --- training ---


@given(seed=st.integers(0, 10_000), view=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_boxes_of_a_view_follow_its_pixels(seed, view):
    rng = np.random.default_rng(seed)
    pixels = np.zeros((160, 240, 3), np.uint8)
    left, top = rng.integers(0, 120), rng.integers(0, 80)
    right, bottom = left + rng.integers(30, 240 - left), top + rng.integers(30, 160 - top)
    pixels[top:bottom, left:right] = 255
    box = np.array([[left, top, right, bottom]], np.float32)
    seen, objects = rpn_views.seen_labels(Image.fromarray(pixels), box, view, ImageConfig(), rng)

    assert len(objects) == 1
    ys, xs = np.nonzero(seen[..., 0] > 127)
    scale = max(seen.shape[0] / 160, seen.shape[1] / 240, 1)
    assert objects[0] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=3 * scale)
    if view == 0:
        assert seen.shape[:2] == (299, 448)


def test_recall_counts_objects_that_a_first_proposal_covers():
    class Proposing(torch.nn.Module):
        def forward(self, maps, height, width):
            far = torch.tensor([[200.0, 200, 210, 210]]).repeat(60, 1)
            return torch.cat([torch.tensor([[0.0, 0, 100, 100]]), far, torch.tensor([[0.0, 0, 100, 55]])])

    views = [
        rpn_views.TrainingView(maps(2, 2), 300, 300, torch.tensor([[0.0, 0, 100, 60], [200.0, 0, 300, 100]])),
        rpn_views.TrainingView(maps(2, 2), 300, 300, torch.tensor([[0.0, 0, 100, 90]])),
    ]
    found = rpn_training.recall(Proposing(), views)

    # IoU 0.6 and 0.9 with the first proposal, 55/60 with the 62nd; one object is never covered.
    assert found["0.5"] == {"50": 0.6667, "100": 0.6667, "200": 0.6667, "500": 0.6667}
    assert found["0.7"] == {"50": 0.3333, "100": 0.6667, "200": 0.6667, "500": 0.6667}


def train(labelled, output, progress=None, **changes):
    return rpn_training.train(
        detection.load(labelled),
        output,
        image=SMALL,
        feature=FeatureConfig(),
        settings=ProposalTraining(**{"epochs": 4, "views": 3, "held_out": 0.25, "batch": 4} | changes),
        device="cpu",
        **({} if progress is None else {"progress": progress}),
    )


def test_training_finds_what_an_untrained_network_does_not(labelled, tmp_path, network):
    card = train(labelled, tmp_path / "rpn.npz", epochs=20)
    trained, stored = rpn.read(LITE.name, tmp_path / "rpn.npz")

    assert stored == card
    assert card["trained_on"] == "12 photos with 12 boxes (csv)"
    assert card["held_out_photos"] == 3
    trunk = Trunk(FeatureConfig())
    best = {}
    for name, each in (("trained", trained), ("untrained", network)):
        best[name] = []
        for photo in detection.load(labelled).photos:
            loaded = load(photo.path, shorter=96, longer=128)
            with torch.inference_mode():
                boxes = each(trunk.maps(torch.from_numpy(loaded.pixels.copy())), *loaded.pixels.shape[:2])[:3]
            best[name].append(float(rpn_training.box_iou(torch.from_numpy(photo.boxes.copy()), boxes).max()))
    assert np.mean(best["trained"]) > 0.7
    assert np.mean(best["trained"]) > np.mean(best["untrained"]) + 0.1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "rpn.md", tmp_path / "rpn.npz"]  # scratch is gone
    assert "12 photos with 12 boxes (csv); 3 photos with boxes were held out" in (tmp_path / "rpn.md").read_text()


@pytest.mark.parametrize("killed_at", [20, 33])
def test_training_that_was_killed_goes_on_to_the_same_network(labelled, tmp_path, killed_at):
    steps = []

    @contextmanager
    def until(stage, total):
        def step():
            steps.append(stage)
            if len(steps) == killed_at:
                raise KeyboardInterrupt

        yield step

    train(labelled, tmp_path / "whole.npz", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(labelled, tmp_path / "killed.npz", until, epochs=2)
    assert steps[-1] == ("looking at photos" if killed_at == 20 else "training")
    assert not (tmp_path / "killed.npz").exists()
    train(labelled, tmp_path / "killed.npz", epochs=2)
    whole, killed = (rpn.read(LITE.name, tmp_path / f"{name}.npz")[0] for name in ("whole", "killed"))

    for one, other in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_photo_that_proves_broken_is_left_out_and_said(labelled, tmp_path):
    for name in ("boxes.csv", *(f"{i}.png" for i in range(12))):
        shutil.copy(labelled.parent / name, tmp_path / name)
    with Image.open(tmp_path / "3.png") as photo:
        photo.save(tmp_path / "3.jpg")
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:900])  # the header is whole
    (tmp_path / "boxes.csv").write_text((tmp_path / "boxes.csv").read_text().replace("3.png", "3.jpg"))
    card = train(tmp_path / "boxes.csv", tmp_path / "rpn.npz", epochs=1)

    (reason,) = card["unreadable"]
    assert "3.jpg" in reason
    assert "1 could not be read" in (tmp_path / "rpn.md").read_text()


def test_two_trainings_of_one_file_do_not_meet(labelled, tmp_path):
    @contextmanager
    def another(stage, total):
        with pytest.raises(InputError, match=r"rpn\.npz: another udq \(process \d+ on .*\) is training it; wait"):
            train(labelled, tmp_path / "rpn.npz", epochs=1)
        yield lambda: None

    train(labelled, tmp_path / "rpn.npz", another, epochs=1)
    assert (tmp_path / "rpn.npz").exists()


def test_anchors_stand_on_their_cells_where_a_map_is_rounded_up(network):
    with torch.inference_mode():
        one = network._one_map(Maps(torch.rand(1280, 10, 14), torch.rand(112, 19, 28)))  # of 299 x 448 pixels
        (anchors,) = network.proposals.anchor_generator(rpn._photo(one, 299, 448), [one])
    centres = (anchors[:, :2] + anchors[:, 2:]).view(19, 28, -1, 2) / 2

    assert centres[-1, -1].max(dim=0).values.tolist() == pytest.approx([27 * 16, 18 * 16], abs=1)


def test_nothing_is_overwritten_and_one_photo_is_too_few(labelled, tmp_path):
    (tmp_path / "rpn.npz").touch()
    with pytest.raises(InputError, match="already exists"):
        train(labelled, tmp_path / "rpn.npz")
    (tmp_path / "README.md").touch()
    with pytest.raises(InputError, match=r"README\.md: already exists"):
        train(labelled, tmp_path / "README.npz")
    with pytest.raises(InputError, match="expected a name such as rpn"):
        train(labelled, tmp_path / "card.md")
    lines = labelled.read_text().splitlines()
    (labelled.parent / "one.csv").write_text("\n".join(lines[:2]))
    with pytest.raises(InputError, match="at least two photos with boxes, to hold one out, found 1"):
        train(labelled.parent / "one.csv", tmp_path / "other.npz")
