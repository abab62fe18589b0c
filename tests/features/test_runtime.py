"""Which library computes the convolutions, and that all of them see alike."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udq.config import FeatureConfig, ImageConfig, IndexConfig
from udq.errors import DependencyError, InputError, UdqError
from udq.features import runtime
from udq.features.extractor import Extractor
from udq.features.openvino import Compiled
from udq.features.proposals import rpn
from udq.features.trunk import Trunk
from udq.indexing import build
from udq.photos.decoding import load
from udq.photos.source import Source
from udq.training.rpn_training import box_iou

SMALL = ImageConfig(shorter=160, longer=240)
PHOTO = 1, 3, None, None


def compiled(function, *inputs, precision=torch.float32):
    return Compiled(function, *inputs, precision=precision, at_once=1, threads=1)


def cosine(one, other):
    one, other = one.detach().flatten().double(), other.detach().flatten().double()
    return float(one @ other / (one.norm() * other.norm()))


def extracted(photos, monkeypatch, library):
    monkeypatch.setenv("UDQ_NETWORK", library)
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    return extractor, list(extractor.extract(Source(path.name, path) for path in sorted(photos.glob("c*.png"))))


# --- which ---


def test_the_fastest_that_is_installed_is_used_unless_the_environment_names_one(monkeypatch):
    monkeypatch.delenv("UDQ_NETWORK", raising=False)
    assert runtime.engines() == ("openvino", "torch")
    assert runtime.engine() == "openvino"
    monkeypatch.setenv("UDQ_NETWORK", "torch")
    assert runtime.engine() == "torch"
    monkeypatch.setenv("UDQ_NETWORK", "onnx")
    with pytest.raises(InputError, match="expected UDQ_NETWORK to be one of openvino, torch, found onnx"):
        Extractor(SMALL, FeatureConfig(), device="cpu")


def test_without_openvino_torch_computes(photos, monkeypatch):
    monkeypatch.delenv("UDQ_NETWORK", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "udq.features.openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    (photo,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])

    assert extractor.engine.library == "torch"
    assert len(photo.features) > 50
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    with pytest.raises(InputError, match=r"expected UDQ_NETWORK to be .* torch, found openvino.*udq\[openvino\]"):
        Extractor(SMALL, FeatureConfig(), device="cpu")


def test_an_openvino_that_is_damaged_is_named_with_a_way_round_it(monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    monkeypatch.setitem(sys.modules, "udq.features.openvino", None)

    with pytest.raises(DependencyError, match=r"openvino \d.*cannot be imported.*UDQ_NETWORK=torch"):
        extractor.proposing()


def test_commands_say_which_one_it_is(udq, collection, monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "torch")
    assert "\nnetwork       torch\n" in udq("info", collection.path)[1]
    monkeypatch.delenv("UDQ_NETWORK")
    assert "\nnetwork       openvino\n" in udq("info", collection.path)[1]


def test_nothing_is_reported_to_anyone(tmp_path):
    """Importing openvino alone calls an address on the network in a new process and leaves a mark at home."""
    script = (
        "import sys\nfrom udq.features import openvino\n"
        "assert not any(name.startswith('openvino') for name in sys.modules)\n"
        "assert hasattr(openvino.library(), 'Core')\n"
        "assert 'openvino.opset15' in sys.modules\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


# --- alike ---


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2", "mobilenet-v2", "resnet50"])
def test_a_compiled_backbone_is_the_same_function(name, random_weights):
    packaged = name.startswith(("efficientnet", "mobilenet"))
    trunk = Trunk(FeatureConfig(backbone=name), weights=None if packaged else random_weights(name))
    see = compiled(trunk.convolve, PHOTO)
    for height, width in ((96, 131), (64, 64)):
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected, found = trunk.maps(pixels), see(trunk.normalised(pixels))
        for one, other in zip(expected, found, strict=True):
            assert other.dtype == torch.float32
            assert other.shape == one.shape
            assert (one - other).abs().max() < 1e-3 * one.abs().max()


def test_a_map_that_is_returned_twice_is_one():
    def twice(photo):
        values = photo + photo
        return values, values

    one, other = compiled(twice, PHOTO)(torch.ones(1, 3, 2, 2))

    assert one is other
    assert one.sum() == 24


def test_a_compiled_proposal_network_is_the_same_function():
    network, _ = rpn.read("efficientnet-lite0", None)
    maps = torch.rand(1280, 5, 7), torch.rand(112, 9, 14)
    inputs = ((depth, None, None) for depth in (1280, 112))
    with torch.inference_mode():
        expected, found = network.convolve(*maps), compiled(network.convolve, *inputs)(*maps)

    for one, other in zip(expected, found, strict=True):
        assert other.shape == one.shape
        assert (one - other).abs().max() < 1e-3 * one.abs().max()


def test_photos_have_the_same_features_by_either_engine(photos, monkeypatch):
    """What is left is rounding to bfloat16, by which each differs from float32 as well."""
    found = {library: extracted(photos, monkeypatch, library)[1] for library in runtime.engines()}

    for one, other in zip(found["torch"], found["openvino"], strict=True):
        assert one.content == other.content
        assert one.regions.boxes[-1].tolist() == other.regions.boxes[-1].tolist() == [0, 0, one.width, one.height]
        assert float(one.features.vectors[-1] @ other.features.vectors[-1]) > 0.995
        # Regions are the same but for a few near the last place and near the threshold of suppression.
        overlaps = box_iou(torch.tensor(one.regions.boxes), torch.tensor(other.regions.boxes))
        assert (overlaps.amax(dim=1) > 0.8).float().mean() > 0.7


def test_threads_may_ask_at_the_same_time(photos, monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    pixels = [load(path, shorter=96, longer=160).pixels for path in sorted(photos.glob("*.png"))]
    alone = [extractor.maps(each, at_once=2)[0] for each in pixels]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: extractor.maps(each, at_once=2)[0], pixels * 3))

    assert all(torch.equal(one, other) for one, other in zip(alone * 3, together, strict=True))


def test_trained_convolutions_are_compiled_anew(monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    before, _ = extractor.maps(pixels)
    state = {name: array * np.float32(1.02) for name, array in extractor.trunk.state().items()}
    extractor.load({})
    assert torch.equal(extractor.maps(pixels)[0], before)
    extractor.load(state)
    after, expected = extractor.maps(pixels)[0], extractor.trunk.feature_map(torch.from_numpy(pixels))

    assert cosine(after, expected) > 0.99
    assert cosine(after, expected) > cosine(before, expected)
    assert float(after.mean()) > 1.1 * float(before.mean())


def test_an_operation_that_is_not_known_is_named_with_a_way_round_it():
    with pytest.raises(UdqError, match=r"expected .*conv2d.*, found softplus; .*UDQ_NETWORK=torch"):
        compiled(lambda photo: (torch.nn.functional.softplus(photo),), PHOTO)


def test_a_build_does_not_go_on_with_what_another_engine_saw(photos, monkeypatch):
    sources = [Source("coffee.png", photos / "coffee.png")]
    prints = {
        build.fingerprint(sources, IndexConfig(), extracted(photos, monkeypatch, library)[0], {})
        for library in runtime.engines()
    }

    assert len(prints) == 2


# --- proposals ---


@pytest.fixture(scope="module")
def network():
    return rpn.read("efficientnet-lite0", None)[0]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.sampled_from([0.0, 0.3, 1.0, 30.0]),  # nothing, all scores alike ... and all of them saturated
    cut=st.integers(0, 31),
    seed=st.integers(0, 2**16),
)
def test_boxes_are_torchvisions_to_the_last_bit(network, rows, columns, scale, cut, seed):
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
