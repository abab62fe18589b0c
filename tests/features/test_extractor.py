"""Photos to regions and features."""

from __future__ import annotations

import dataclasses
import math
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
from udq.photos import pyramid
from udq.photos.decoding import load, load_crop
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


def pooled(extractor, pixels):
    """The feature of a whole picture, float64."""
    height, width = pixels.shape[:2]
    whole = torch.tensor([[0.0, 0.0, width, height]])
    with torch.inference_mode():
        found = extractor.trunk.pool(extractor.maps(np.ascontiguousarray(pixels))[0], whole, width=width, height=height)
    return found[0].numpy().astype(float)


def test_a_boxed_query_is_the_mean_of_two_scales_and_their_mirror_images(extractor, photos):
    """Checked against crops that are cut and scaled by Pillow here."""
    box = (100, 50, 300, 210)
    cut = Image.open(photos / "coffee.png").convert("RGB").crop(box)
    scale = 384 / math.sqrt(cut.width * cut.height)
    larger = cut.resize((round(200 * scale), round(160 * scale)), Image.Resampling.BICUBIC, reducing_gap=3.0)
    half = round(larger.width / 2), round(larger.height / 2)
    crops = [np.asarray(larger), np.asarray(larger.resize(half, Image.Resampling.BICUBIC, reducing_gap=3.0))]
    found = [pooled(extractor, view) for crop in crops for view in (crop, crop[:, ::-1])]
    mean = np.sum(found, axis=0) / np.linalg.norm(np.sum(found, axis=0))
    plain = Extractor(dataclasses.replace(SMALL, mirror=False, query_views=1), FeatureConfig(), device="cpu")

    assert found[0] @ found[2] < 0.999
    assert extractor.describe(photos / "coffee.png", box)[1] == pytest.approx(mean, abs=1e-5)
    assert plain.describe(photos / "coffee.png", box)[1] == pytest.approx(found[2], abs=2e-2)


def test_a_query_without_views_of_its_own_or_without_a_box_has_the_scale_of_its_photo(extractor, photos):
    box = (100, 50, 300, 210)
    as_before = Extractor(dataclasses.replace(SMALL, query_views=0), FeatureConfig(), device="cpu")
    scale = {"shorter": SMALL.shorter, "longer": SMALL.longer, "least": SMALL.least}
    for network, drawn in ((as_before, box), (extractor, None)):
        crop, _ = load_crop(photos / "coffee.png", drawn, **scale)
        mean = pooled(extractor, crop.pixels) + pooled(extractor, crop.pixels[:, ::-1])

        found = network.describe(photos / "coffee.png", drawn)[1]
        assert found == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def large_photo(path, photos, place, size=(1600, 1200), side=120):
    """A grey photo that shows the astronaut's head small, somewhere."""
    picture = Image.new("RGB", size, (120, 130, 140))
    head = Image.open(photos / "astronaut.png").convert("RGB").crop((150, 0, 310, 160)).resize((side, side))
    picture.paste(head, place)
    picture.save(path, quality=95)
    return np.array([*place, place[0] + side, place[1] + side])


def test_a_finer_view_finds_a_small_object_and_describes_it_better(photos, tmp_path):
    truth = large_photo(tmp_path / "large.jpg", photos, (1100, 300), side=56)
    source = Source("large.jpg", tmp_path / "large.jpg")
    query = None
    overlap, similar = {}, {}
    for smallest in (0.0, 5.0):
        extractor = Extractor(ImageConfig(smallest=smallest), FeatureConfig(), device="cpu")
        (found,) = extractor.extract([source])
        if query is None:
            query = extractor.describe(photos / "astronaut.png", (150, 0, 310, 160))[1]
        boxes = found.regions.boxes
        sides = np.minimum(boxes[:, 2:], truth[2:]) - np.maximum(boxes[:, :2], truth[:2])
        common = sides.clip(0).prod(axis=1)
        overlap[smallest] = (common / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + 56 * 56 - common)).max()
        similar[smallest] = (found.features.vectors @ query).max()
        assert (boxes[-1] == [0, 0, 1600, 1200]).all()

    assert overlap[5.0] > overlap[0.0] + 0.05
    assert similar[5.0] > similar[0.0] + 0.05


def test_features_are_pooled_from_the_view_that_a_region_was_proposed_in(photos, tmp_path):
    """Each feature is that of its box in one of the views, and both scales are among them."""
    large_photo(tmp_path / "large.png", photos, (300, 500), size=(1000, 800))
    extractor = Extractor(ImageConfig(), FeatureConfig(regions=30), device="cpu")
    (found,) = extractor.extract([Source("large.png", tmp_path / "large.png")])
    photo = load(tmp_path / "large.png", shorter=336, longer=448, smallest=10)
    levels = pyramid.levels(1000, 800, shorter=336, longer=448, smallest=10)
    from_views = []
    for view in pyramid.views(photo.pixels, (1000, 800), levels):
        boxes = torch.from_numpy(found.regions.boxes - np.array(view.window[:2] * 2, np.float32))
        with torch.inference_mode():
            of_view = extractor.trunk.pool(extractor.maps(view.pixels)[0], boxes, width=view.width, height=view.height)
        from_views.append(np.abs(of_view.numpy() - found.features.vectors).max(axis=1) < 1e-5)

    assert len(from_views) == 2
    assert np.logical_or(*from_views).all()
    assert all(matched.any() for matched in from_views)
    assert from_views[0][-1]


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
    before = torch.get_num_threads()

    _, found = extractor.describe(photos / "coffee.png", None)

    crop, _ = load_crop(photos / "coffee.png", None, shorter=SMALL.shorter, longer=SMALL.longer, least=SMALL.least)
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
