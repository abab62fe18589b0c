"""The choice of the library that computes the convolutions, and equal features from all of them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from udq.config import FeatureConfig, ImageConfig, IndexConfig
from udq.errors import DependencyError, InputError
from udq.features import runtime
from udq.features.extractor import Extractor
from udq.indexing import build
from udq.photos.decoding import load
from udq.photos.source import Source
from udq.training.rpn.training import box_iou

SMALL = ImageConfig(shorter=160, longer=240)
PHOTO = 1, 3, None, None


def cosine(one, other):
    one, other = one.detach().flatten().double(), other.detach().flatten().double()
    return float(one @ other / (one.norm() * other.norm()))


def extracted(photos, monkeypatch, library):
    monkeypatch.setenv("UDQ_NETWORK", library)
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    return extractor, list(extractor.extract(Source(path.name, path) for path in sorted(photos.glob("c*.png"))))


# --- choice ---


def test_the_fastest_installed_library_is_used_unless_the_environment_names_one(monkeypatch):
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


def test_a_damaged_openvino_is_an_error_with_a_workaround(monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    monkeypatch.setitem(sys.modules, "udq.features.openvino", None)

    with pytest.raises(DependencyError, match=r"openvino \d.*cannot be imported.*UDQ_NETWORK=torch"):
        extractor.proposing()


def test_info_prints_the_library(udq, collection, monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "torch")
    assert "\nnetwork       torch\n" in udq("info", collection.path)[1]
    monkeypatch.delenv("UDQ_NETWORK")
    assert "\nnetwork       openvino\n" in udq("info", collection.path)[1]


# --- equal features ---


def test_both_libraries_compute_the_same_features(photos, monkeypatch):
    """Up to rounding to bfloat16, by which both differ from float32 as well."""
    found = {library: extracted(photos, monkeypatch, library)[1] for library in runtime.engines()}

    for one, other in zip(found["torch"], found["openvino"], strict=True):
        assert one.content == other.content
        assert one.regions.boxes[-1].tolist() == other.regions.boxes[-1].tolist() == [0, 0, one.width, one.height]
        assert float(one.features.vectors[-1] @ other.features.vectors[-1]) > 0.995
        # Regions are the same but for a few near the last place and near the threshold of suppression.
        overlaps = box_iou(torch.tensor(one.regions.boxes), torch.tensor(other.regions.boxes))
        assert (overlaps.amax(dim=1) > 0.8).float().mean() > 0.7


def test_threads_can_compute_maps_at_the_same_time(photos, monkeypatch):
    monkeypatch.setenv("UDQ_NETWORK", "openvino")
    extractor = Extractor(SMALL, FeatureConfig(), device="cpu")
    pixels = [load(path, shorter=96, longer=160).pixels for path in sorted(photos.glob("*.png"))]
    alone = [extractor.maps(each, at_once=2)[0] for each in pixels]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: extractor.maps(each, at_once=2)[0], pixels * 3))

    assert all(torch.equal(one, other) for one, other in zip(alone * 3, together, strict=True))


def test_trained_convolutions_are_compiled_again(monkeypatch):
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


def test_a_build_is_not_resumed_with_another_library(photos, monkeypatch):
    sources = [Source("coffee.png", photos / "coffee.png")]
    prints = {
        build.fingerprint(sources, IndexConfig(), extracted(photos, monkeypatch, library)[0], {})
        for library in runtime.engines()
    }

    assert len(prints) == 2
