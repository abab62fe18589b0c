"""Pixels to features, equal in search and training; the paper's two networks from photos to matches."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from udq import Collection
from udq.config import FeatureConfig, ImageConfig, preset
from udq.features.backbones import REGISTRY
from udq.features.device import fast_precision
from udq.features.extractor import Extractor
from udq.features.pooling import generalised_mean
from udq.features.proposals import rpn
from udq.features.trunk import Trunk
from udq.photos.decoding import load
from udq.photos.source import Source

SMALL = {"images": {"shorter": 64, "longer": 96, "least": 32}}
# How many parameters (weights and biases) of the first two groups of convolutions stay as they are.
FROZEN = {
    "efficientnet-lite0": 2 * (1 + 2 + 3 + 3),
    "efficientnet-lite2": 2 * (1 + 2 + 3 + 3 + 3),
    "mobilenet-v2": 3 * (1 + 2 + 3 + 3),  # with the normalisation's two
    "vgg16": 2 * 4,
    "resnet101-v1": 3 * (1 + 3 * 3 + 1),  # with the normalisation's two; convolutions here have no bias
}


@pytest.fixture(scope="module", autouse=True)
def torch_computes():
    """Compute with torch, as training does; test_openvino.py compares OpenVINO with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDQ_NETWORK", "torch")
        yield


@pytest.fixture(scope="module")
def paper(photos, random_weights, tmp_path_factory):
    """Preset -> a collection of three photos, small, all weights drawn at random and given as files; built once."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "photos").mkdir()
    for name in ("coffee", "chelsea", "rocket"):
        shutil.copy(photos / f"{name}.png", folder / "photos")
    built = {}

    def collection(name):
        if name not in built:
            # VGG16's fully connected layers take gigabytes to train, and test_end_to_end.py trains another network.
            training = {"end_to_end": name != "paper", "epochs": 1, "iterations": 1}
            config = preset(name).replace(SMALL).replace({"training": training})
            weights = random_weights(config.features.backbone)
            backbone = config.features.backbone
            (folder / f"{name}.npz").write_bytes(
                rpn.to_bytes(rpn.ProposalNetwork(REGISTRY[backbone]), {"backbone": backbone})
            )
            built[name] = Collection.build(
                folder / "photos",
                folder / f"{name}.udq",
                config=config,
                weights=weights,
                rpn=folder / f"{name}.npz",
                device="cpu",
            )
        return built[name]

    return collection


@pytest.mark.parametrize(("name", "channels", "layers"), [("paper", 4096, 1), ("paper-resnet101", 2048, 3)])
def test_the_papers_networks_index_and_search_photos(paper, photos, name, channels, layers):
    collection = paper(name)

    assert collection.extractor.channels == channels
    assert len(collection.model.head.layers) == layers
    assert collection.model.head.layers[-1].weight.shape[1] == channels
    sources = [Source(name, photos / name) for name in collection.names]
    held = {photo.source.name: photo.features.vectors for photo in collection.extractor.extract(sources)}
    for query in collection.names:
        # Weights drawn at random tell photos apart by pooled features, hardly by codes trained on three photos.
        _, feature = collection.extractor.describe(photos / query, None)
        likeness = {name: vectors @ feature for name, vectors in held.items()}
        assert max(likeness, key=lambda name: likeness[name].max()) == query
        # The whole photo comes last; of a map this small, others pool the same cells.
        assert likeness[query][-1] == pytest.approx(likeness[query].max(), abs=1e-5)
        matches = collection.search(photos / query, stack=False).matches
        assert sorted(match.image for match in matches) == sorted(held)


def test_vgg16_has_its_pretrained_fully_connected_layers(paper, random_weights):
    top = paper("paper").extractor.trunk.top
    cells = torch.rand(3, 512, 7, 7)
    state = torch.load(random_weights("vgg16"), weights_only=True, mmap=True)
    with torch.inference_mode():
        expected = cells.flatten(1)
        for layer in ("classifier.0", "classifier.3"):
            expected = (expected @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).relu()
        found = top(cells)

    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["paper", "paper-resnet101", "default"])
def test_search_and_training_compute_the_same_features(paper, photos, name):
    if name == "default":
        image = ImageConfig(**SMALL["images"], smallest=0.0)
        extractor = Extractor(image, FeatureConfig(), device="cpu")
    else:
        image, extractor = paper(name).config.images, paper(name).extractor
    (extracted,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])
    photo = load(photos / "coffee.png", shorter=image.shorter, longer=image.longer)
    boxes = torch.tensor(extracted.regions.boxes)
    found = extractor.trunk(torch.tensor(photo.pixels), boxes, width=photo.width, height=photo.height)

    assert found.shape == (len(boxes), extractor.trunk.channels)
    assert found.norm(dim=1).detach().numpy() == pytest.approx(1, abs=1e-5)
    # One thread extracts, and as many as there are multiply here: sums may differ in their last digit.
    assert found.detach().numpy() == pytest.approx(extracted.features.vectors, abs=1e-6)


def test_the_default_pooling_is_the_generalised_mean(photos):
    entry = REGISTRY["efficientnet-lite0"]
    network = entry.build(None).convolutions.to(dtype=fast_precision(torch.device("cpu")))
    photo = load(photos / "coffee.png", shorter=160, longer=240)
    extractor = Extractor(ImageConfig(shorter=160, longer=240, smallest=0.0), FeatureConfig(), device="cpu")
    (extracted,) = extractor.extract([Source("coffee.png", photos / "coffee.png")])
    with torch.inference_mode():
        mean, spread = (torch.tensor(values).view(1, 3, 1, 1) * 255.0 for values in (entry.mean, entry.spread))
        batch = (torch.tensor(photo.pixels).permute(2, 0, 1)[None].float() - mean) / spread
        cast = batch.to(fast_precision(torch.device("cpu")), memory_format=torch.channels_last)
        boxes = torch.tensor(extracted.regions.boxes)
        pooled = generalised_mean(network(cast)[0][0].float(), boxes, width=photo.width, height=photo.height, p=3.0)

    # One thread extracts: in float32, sums of several may differ in their last digit.
    assert normalize(pooled, dim=1).numpy() == pytest.approx(extracted.features.vectors, abs=1e-6)


@pytest.mark.parametrize("name", FROZEN)
def test_gradients_reach_all_but_the_first_two_groups(paper, random_weights, name):
    if name == "vgg16":
        trunk = paper("paper").extractor.trunk
    else:
        packaged = name.startswith(("efficientnet", "mobilenet"))
        trunk = Trunk(FeatureConfig(backbone=name, pooling="roi"), weights=None if packaged else random_weights(name))
    boxes = torch.tensor([[0.0, 0.0, 96.0, 64.0], [10.0, 10.0, 60.0, 60.0]])
    pixels = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = trunk(pixels, boxes, width=96, height=64)
    wanted = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((features * wanted).sum(), trunk.trainable())  # raises where one is not reached

    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    frozen = {key for key, parameter in trunk.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == FROZEN[name]
    assert len(trunk.trainable()) + len(frozen) == len(list(trunk.parameters()))
    prefixes = tuple(f"convolutions.{prefix}" for prefix in REGISTRY[name].frozen)
    assert all(any(key.startswith(prefix) for key in frozen) for prefix in prefixes)


def test_frozen_are_the_convolutions_before_a_quarter_of_the_scale(paper):
    """VGG16's conv1_1 to conv2_2: 64, 64, 128 and 128 channels."""
    convolutions = paper("paper").extractor.trunk.convolutions
    frozen = [p.shape[0] for p in convolutions.parameters() if not p.requires_grad and p.ndim == 4]

    assert frozen == [64, 64, 128, 128]
    assert next(p.shape[0] for p in convolutions.parameters() if p.requires_grad and p.ndim == 4) == 256


def test_training_keeps_float32_and_extraction_may_cast(photos):
    trunk = Trunk(FeatureConfig())
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    pixels = torch.tensor(load(photos / "coffee.png", shorter=160, longer=240).pixels)
    boxes = torch.tensor([[0.0, 0.0, 600.0, 400.0]])
    with torch.inference_mode():
        exact = trunk(pixels, boxes, width=600, height=400)
        cast = trunk.compute_in(torch.bfloat16)(pixels, boxes, width=600, height=400)

    assert all(value.dtype == torch.float32 for value in before.values())
    assert trunk.precision == torch.bfloat16
    assert cast.dtype == exact.dtype == torch.float32
    assert float(cast[0] @ exact[0]) == pytest.approx(1, abs=1e-2)
    assert not {"mean", "spread"} & before.keys()
    extractor = Extractor(ImageConfig(), FeatureConfig(), device="cpu")
    extractor.trunk.load_state_dict(before)  # what was trained in float32 is searched with in what the CPU is fast at
    assert extractor.precision == str(fast_precision(torch.device("cpu"))).removeprefix("torch.")


def test_batch_normalisation_never_uses_the_statistics_of_a_photo(random_weights):
    trunk = Trunk(FeatureConfig(backbone="resnet101"), weights=random_weights("resnet101"))
    before = trunk.convolutions.bn1.running_mean.clone()
    trunk.train()
    with torch.inference_mode():
        feature_map = trunk.feature_map(torch.zeros(64, 64, 3, dtype=torch.uint8))

    assert np.isfinite(feature_map.numpy()).all()
    assert (trunk.convolutions.bn1.running_mean == before).all()
