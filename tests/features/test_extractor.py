"""Photos to regions and features."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from udq.common import threads
from udq.config import FeatureConfig, ImageConfig
from udq.errors import InputError
from udq.features.device import Engine
from udq.features.extractor import Extractor
from udq.photos.decoding import load_crop
from udq.photos.source import Source

SMALL = ImageConfig(shorter=160, longer=240)


@pytest.fixture(scope="module")
def extractor():
    return Extractor(SMALL, FeatureConfig(), device="cpu")


def test_photos_are_extracted_in_order(extractor, photos):
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
def test_a_photo_one_pixel_wide_or_high_has_features(tmp_path, size, proposals):
    Image.effect_noise(size, 50).save(tmp_path / "line.png")
    extractor = Extractor(SMALL, FeatureConfig(proposals=proposals), device="cpu")
    (photo,) = extractor.extract([Source("line.png", tmp_path / "line.png")])

    assert photo.broken is None
    assert (photo.width, photo.height) == size
    assert len(photo.regions) >= 1
    assert np.isfinite(photo.features.vectors).all()
    assert (photo.regions.boxes[:, 2:] <= size).all()
    assert np.isfinite(extractor.describe(tmp_path / "line.png", None)[1]).all()


def test_a_broken_photo_is_yielded_with_the_reason(extractor, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    sources = [Source("empty.jpg", tmp_path / "empty.jpg"), Source("coffee.png", photos / "coffee.png")]
    broken, whole = extractor.extract(sources)

    assert broken.broken.endswith("empty.jpg: empty file")
    assert (len(broken.regions), len(broken.features)) == (0, 0)
    assert whole.broken is None


def test_pixels_outside_the_box_do_not_change_the_feature_of_a_query(extractor, photos, tmp_path):
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


def test_extraction_can_be_stopped_early_and_repeated(extractor, photos):
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
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU"),
        ),
    ],
)
def test_unknown_settings_are_refused(settings, device, says):
    with pytest.raises(InputError, match=says):
        Extractor(SMALL, settings, device=device).proposing()


def test_a_missing_photo_is_named_in_the_reason(extractor, tmp_path, photos):
    moved = shutil.copy(photos / "coffee.png", tmp_path / "coffee.png")
    (tmp_path / "coffee.png").unlink()
    (gone,) = extractor.extract([Source("coffee.png", tmp_path / "coffee.png")])

    assert gone.broken is not None
    assert str(moved) in gone.broken


def test_describing_a_query_does_not_change_the_number_of_threads(extractor, photos):
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
