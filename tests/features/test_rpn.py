"""The region proposal network: its boxes, and its file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from udq.config import FeatureConfig, ImageConfig
from udq.errors import InputError
from udq.features.backbones import REGISTRY
from udq.features.device import Engine
from udq.features.extractor import Extractor
from udq.features.proposals import build, rpn
from udq.features.proposals.base import merged
from udq.features.trunk import Trunk
from udq.photos.decoding import load
from udq.photos.pyramid import views
from udq.photos.source import Source

CPU = Engine(torch.device("cpu"))
LITE = REGISTRY["efficientnet-lite0"]


def maps(rows, columns):
    """A feature map and a fine map, as of a photo."""
    return torch.rand(1280, rows, columns), torch.rand(112, 2 * rows, 2 * columns)


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return rpn.ProposalNetwork(LITE).eval()


@pytest.fixture(scope="module")
def shipped():
    return rpn.read("efficientnet-lite0", None)[0]


def test_shipped_proposals_lie_inside_the_photo_best_first_and_the_whole_photo_last(photos):
    feature = FeatureConfig(regions=40)
    extractor = Extractor(ImageConfig(), feature, device="cpu")
    (found,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])
    boxes = found.regions.boxes

    assert 30 < len(boxes) <= 41
    assert (boxes[-1] == [0, 0, found.width, found.height]).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [found.width, found.height]).all()
    overlaps = box_iou(torch.from_numpy(boxes[:-1].copy()), torch.from_numpy(boxes[:-1].copy()))
    assert (overlaps - torch.eye(len(boxes) - 1)).max() < 0.75  # suppressed, before clipping to whole pixels
    # Fewer are the first of more.
    fewer = Extractor(ImageConfig(), FeatureConfig(regions=10), device="cpu")
    (first,) = fewer.extract([Source("coffee.png", photos / "coffee.png")])
    assert first.regions.boxes[:10] == pytest.approx(boxes[:10])


def test_boxes_are_in_pixels_of_the_view_and_regions_in_those_of_the_photo(photos):
    photo = load(photos / "coffee.png", shorter=200, longer=300)
    (view,) = views(photo.pixels, (photo.width, photo.height), [1.0])
    seen = Trunk(FeatureConfig()).maps(torch.from_numpy(photo.pixels.copy()))
    found = build(FeatureConfig(regions=5), rpn=None, engine=CPU)(view, *seen)
    regions, of_view = merged([view], [found], 5)
    twice = dataclasses.replace(view, window=(0.0, 0.0, 2.0 * photo.width, 2.0 * photo.height),
                                photo=(2 * photo.width, 2 * photo.height))  # fmt: skip
    larger, _ = merged([twice], [found], 5)

    scale = np.array([photo.width / photo.pixels.shape[1], photo.height / photo.pixels.shape[0]] * 2)
    assert len(found.boxes) == 5
    assert (np.diff(found.scores) <= 0).all()
    assert regions.boxes[:-1] == pytest.approx(found.boxes * scale, abs=1e-3)
    assert regions.boxes[-1].tolist() == [0, 0, photo.width, photo.height]
    assert larger.boxes == pytest.approx(2 * regions.boxes)
    assert of_view.tolist() == [0] * 6


def test_rpn_and_grid_are_concatenated(photos):
    photo = load(photos / "coffee.png", shorter=160, longer=240)
    (view,) = views(photo.pixels, (photo.width, photo.height), [1.0])
    seen = Trunk(FeatureConfig()).maps(torch.from_numpy(photo.pixels.copy()))
    made = {
        name: merged([view], [build(FeatureConfig(proposals=name), rpn=None, engine=CPU)(view, *seen)], 100)[0].boxes
        for name in ("grid", "rpn", "rpn+grid")
    }

    # The whole photo once, and last.
    assert (made["rpn+grid"] == np.concatenate([made["rpn"][:-1], made["grid"]])).all()


def test_the_number_of_candidates_grows_with_the_regions_asked_for(shipped):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1280, 14, 14, generator=generator), torch.rand(112, 28, 28, generator=generator)
    with torch.inference_mode():
        found = shipped.convolve(*maps)
        few, _ = shipped.scored(*found, 448, 448, candidates=1000)
        many, scores = shipped.scored(*found, 448, 448, candidates=4000)

    assert len(many) > 1.5 * len(few)
    assert torch.equal(many[: len(few)], few[: len(many)])
    assert (scores.diff() <= 0).all()


def test_the_papers_scale_keeps_200_regions_even_if_suppression_leaves_few(photos, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = rpn.ProposalNetwork(LITE, sides=rpn.sides_for(600)).eval()
    # The best boxes are those of the largest anchors, which overlap most.
    random.proposals.head.cls_logits.bias.data[len(rpn.sides_for(600)) - 1 :: len(rpn.sides_for(600))] = 10.0
    file = tmp_path / "rpn.npz"
    file.write_bytes(rpn.to_bytes(random, {"backbone": LITE.name, "anchors": list(rpn.sides_for(600))}))
    feature = FeatureConfig(regions=200)
    image = ImageConfig(shorter=600, longer=1000, smallest=0.0)
    extractor = Extractor(image, feature, rpn=file, device="cpu")
    photo = load(photos / "coffee.png", shorter=600, longer=1000)
    maps = extractor.maps(photo.pixels)
    with torch.inference_mode():
        found = random.convolve(*(each.float() for each in maps))
        _, ten_per_region = random.scored(*found, *photo.pixels.shape[:2], candidates=2000)
    (extracted,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])

    assert len(ten_per_region) < 200
    assert len(extracted.regions) == 201  # and the whole photo


def test_photos_of_any_shape_have_a_region(network):
    for rows, columns in ((2, 60), (60, 2), (2, 2)):
        boxes = network(*maps(rows, columns), 32 * rows, 32 * columns)
        assert torch.isfinite(boxes).all()
        assert boxes[:, 0::2].max() <= 32 * columns
        assert boxes[:, 1::2].max() <= 32 * rows


def test_the_fine_map_has_stride_16():
    trunk = Trunk(FeatureConfig())
    whole = torch.randint(0, 255, (224, 320, 3), dtype=torch.uint8)
    feature_map, fine_map = trunk.maps(whole)

    assert feature_map.shape == (1280, 7, 10)
    assert fine_map.shape == (112, 14, 20)
    assert (feature_map == trunk.feature_map(whole)).all()


@pytest.mark.parametrize("name", ["efficientnet-lite0", "vgg16", "resnet101"])
def test_a_backbones_fine_map_has_the_promised_depth(name, random_weights):
    weights = None if name.startswith("efficientnet") else random_weights(name)
    trunk = Trunk(FeatureConfig(backbone=name), weights=weights)
    with torch.inference_mode():
        feature_map, fine_map = trunk.maps(torch.zeros(64, 96, 3, dtype=torch.uint8))
        boxes = rpn.ProposalNetwork(REGISTRY[name]).eval()(feature_map, fine_map, 64, 96)

    assert (fine_map is feature_map) == (REGISTRY[name].fine_channels == 0)
    assert fine_map.shape == (REGISTRY[name].fine_channels or REGISTRY[name].channels, 4, 6)
    assert boxes.shape[1] == 4


def test_anchors_are_centred_on_their_cells_if_the_map_is_rounded_up(network):
    with torch.inference_mode():
        one = network.merged(torch.rand(1280, 10, 14), torch.rand(112, 19, 28))  # of 299 x 448 pixels
        (anchors,) = network.proposals.anchor_generator(rpn.image_list(one, 299, 448), [one])
    centres = (anchors[:, :2] + anchors[:, 2:]).view(19, 28, -1, 2) / 2

    assert centres[-1, -1].max(dim=0).values.tolist() == pytest.approx([27 * 16, 18 * 16], abs=1)


def test_anchors_are_in_proportion_to_the_scale_and_kept_in_the_card(network):
    sides = rpn.sides_for(600)
    scaled = rpn.ProposalNetwork(LITE, sides=sides).eval()
    data = rpn.to_bytes(scaled, {"backbone": LITE.name, "images": {"shorter": 600}, "anchors": list(sides)})
    again, _ = rpn.from_bytes(data, LITE.name, "rpn.npz")
    old, _ = rpn.from_bytes(
        rpn.to_bytes(network, {"backbone": LITE.name, "images": {"shorter": 600}}), LITE.name, "old.npz"
    )

    assert sides == pytest.approx([side * 600 / 336 for side in (48, 96, 160, 256, 384)], abs=0.05)
    assert rpn.sides_for(336) == (48, 96, 160, 256, 384)
    assert again.proposals.anchor_generator.sizes == (sides,)
    assert old.proposals.anchor_generator.sizes == (rpn.sides_for(336),)  # a file from before sides were in the card
    widest = {each: float(each.proposals.anchor_generator.cell_anchors[0][:, 2].max()) for each in (again, old)}
    assert widest[again] == pytest.approx(widest[old] * 600 / 336, abs=1)


@pytest.mark.parametrize("anchors", [[48.0], [48, 96, 160, 256, 0.5], [48, 96, 160, 256, float("nan")], "wide", 7])
def test_a_card_with_anchors_that_are_none_is_refused(network, anchors):
    data = rpn.to_bytes(network, {"backbone": LITE.name, "anchors": anchors})
    with pytest.raises(InputError, match="expected a file that udq train-rpn wrote"):
        rpn.from_bytes(data, LITE.name, "rpn.npz")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.sampled_from([0.0, 0.3, 1.0, 30.0]),  # nothing, all scores alike ... and all of them saturated
    cut=st.integers(0, 31),
    shorter=st.sampled_from([336, 600]),
    seed=st.integers(0, 2**16),
)
def test_boxes_equal_those_of_torchvision_to_the_last_bit(shipped, rows, columns, scale, cut, shorter, seed):
    network = rpn.ProposalNetwork(LITE, sides=rpn.sides_for(shorter)).eval()
    network.load_state_dict(shipped.state_dict())
    generator = torch.Generator().manual_seed(seed)
    maps = (
        scale * torch.rand(1280, rows, columns, generator=generator),
        scale * torch.rand(112, 2 * rows, 2 * columns, generator=generator),
    )
    height, width = 32 * rows - cut, 32 * columns - cut
    with torch.inference_mode():
        one = network.merged(*maps)
        expected, _ = network.proposals(rpn.image_list(one, height, width), {"0": one})
        found = network(*maps, height, width)

    assert torch.equal(found, expected[0])


def test_a_file_holds_the_network_at_half_precision(network):
    data = rpn.to_bytes(network, {"backbone": LITE.name, "note": "ü"})
    again, card = rpn.from_bytes(data, LITE.name, "rpn.npz")

    assert card == {"backbone": LITE.name, "note": "ü"}
    assert len(data) < 5_000_000
    for name, tensor in network.state_dict().items():
        assert (again.state_dict()[name] == tensor.half().float()).all()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04\x95", b"weights"])
def test_a_file_of_something_else_is_refused(tmp_path, data):
    (tmp_path / "rpn.npz").write_bytes(data)
    with pytest.raises(InputError, match="expected a file that udq train-rpn wrote"):
        rpn.read(LITE.name, tmp_path / "rpn.npz")


def test_a_missing_file_or_one_of_another_backbone_is_refused(network, tmp_path):
    with pytest.raises(InputError, match=r"gone\.npz: cannot read a region proposal network \(No such file"):
        rpn.read(LITE.name, tmp_path / "gone.npz")
    (tmp_path / "rpn.npz").write_bytes(rpn.to_bytes(network, {"backbone": LITE.name}))
    with pytest.raises(InputError, match="for the backbone vgg16, found one for efficientnet-lite0"):
        rpn.read("vgg16", tmp_path / "rpn.npz")


def test_the_error_of_a_backbone_without_a_shipped_network_says_how_to_train_one():
    with pytest.raises(InputError, match="train one with: udq train-rpn LABELS --backbone vgg16"):
        build(FeatureConfig(backbone="vgg16"), rpn=None, engine=CPU)


def test_a_network_is_refused_by_proposals_that_use_none(tmp_path):
    with pytest.raises(InputError, match="'grid' use no network"):
        build(FeatureConfig(proposals="grid"), rpn=tmp_path / "rpn.npz", engine=CPU)
