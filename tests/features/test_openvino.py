"""Functions of torch that OpenVINO compiles: the same results, and no reports of their use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from udq.config import FeatureConfig
from udq.errors import UdqError
from udq.features.openvino import Compiled
from udq.features.proposals import rpn
from udq.features.trunk import Trunk

PHOTO = 1, 3, None, None


def compiled(function, *inputs, precision=torch.float32):
    return Compiled(function, *inputs, precision=precision, at_once=1, threads=1)


def test_openvino_does_not_report_its_use(tmp_path):
    """A plain import of openvino sends an event over the network and writes to the home folder."""
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


def test_a_result_that_is_returned_twice_is_computed_once():
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


def test_an_unknown_operation_is_an_error_with_a_workaround():
    with pytest.raises(UdqError, match=r"expected .*conv2d.*, found softplus; .*UDQ_NETWORK=torch"):
        compiled(lambda photo: (torch.nn.functional.softplus(photo),), PHOTO)
